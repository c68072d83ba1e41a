"""How what a GPU computes, a real or a pretended one, is compared with what a CPU computes.

Axes: B batch, T frames, D features.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from pretend import to_cpu
from torch import Tensor

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import Encoding, Stored, Tables
from gdist.stages.extract.layer_statistics import BatchMeasures


def difference(own: Tensor, reference: Tensor) -> float:
    """The relative difference of two tensors, whichever device they are on."""
    own, reference = (to_cpu(tensor.detach()).cpu().double() for tensor in (own, reference))
    return float((own - reference).norm() / (reference.norm() + 1e-30))


def measures(hidden_BTD: Tensor, num_frames_B: Tensor, stored: Stored, encoding: Encoding, tables: Tables) -> Tensor:
    """The measures of one layer."""
    batch = BatchMeasures(num_frames_B.to(hidden_BTD.device), encoding)
    batch.add(hidden_BTD, stored, tables)
    return batch.result()


def require_same_cache(
    own: tuple[Path, dict[str, Any]], reference: tuple[Path, dict[str, Any]], encoding: str, precision: str
) -> None:
    """Compare two caches, each with the result of its extraction: statistics and hidden states of every layer."""
    for ours, theirs in zip(own[1]["layers"], reference[1]["layers"], strict=True):
        assert ours["rms"] == pytest.approx(theirs["rms"], rel=0.01)
        assert ours["cosine"] == pytest.approx(theirs["cosine"], abs=0.01)
    caches = [Cache.open(str(folder)) for folder, _ in (own, reference)]
    for layer in caches[0].layers:
        states = [
            torch.cat(cache.hidden(layer, [(entry, 0, entry.num_frames) for entry in cache.entries]))
            for cache in caches
        ]
        # Rounded to integers or words, values of which the last bits differ may fall on different sides.
        assert difference(*states) < {"rvq": 0.3, "int4": 0.05}.get(encoding, 0.02 if precision == "fp32" else 0.1)
