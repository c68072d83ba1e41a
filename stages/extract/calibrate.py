"""Tables for encodings that learn from the corpus, computed from a sample of it when the cache is planned."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from gdist.pipeline import audio, console
from gdist.pipeline.cache.encodings import encoding
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.plan import Plan
from gdist.pipeline.errors import CacheError
from gdist.pipeline.manifest.table import Utterance
from gdist.stages.extract.pack_audio import decode
from gdist.stages.teachers import Teacher

SAMPLE_FRAMES = 20_000  # about seven minutes of speech
MAX_UTTERANCES = 512


States = Callable[[Entry], Iterable[tuple[int, Tensor]] | None]
"""Yields layers of one utterance and their hidden states, [1, T, D]; None where it cannot be used."""


def learn_tables(plan: Plan, teacher: Teacher, utterances: Mapping[str, Utterance]) -> bytes:
    """Learn the tables of the plan's new layers from the teacher. Each utterance of the sample runs through it alone.

    Returns and raises as :func:`tables_from` does.
    """

    def states(entry: Entry) -> Iterable[tuple[int, Tensor]] | None:
        loaded = decode(utterances[entry.id], entry.num_samples)
        if isinstance(loaded, str):
            return None  # extraction will quarantine it
        waveform_1S = audio.to_float(loaded.samples_S)[None]
        lengths = torch.tensor([waveform_1S.shape[1]])
        return enumerate(teacher.hidden_states(waveform_1S, lengths, max(plan.new_layers)))

    return tables_from(plan, states)


def tables_from(plan: Plan, states: States) -> bytes:
    """Learn the tables of the plan's new layers.

    The sample consists of utterances spread evenly over the plan's corpus. The same corpus and states give the same
    bytes.

    Returns:
        a safetensors file, whose tensors are named ``05.TABLE`` for layer 5.

    Raises:
        CacheError: no utterance of the sample can be read.
    """
    layers = plan.new_layers
    usable = plan.entries.take(np.flatnonzero(plan.entries.numbers("num_frames")))
    spread = np.linspace(0, len(usable) - 1, min(len(usable), MAX_UTTERANCES)).round().astype(int)
    order = np.random.default_rng(0).permutation(spread)  # so that the first few are spread over the corpus as well
    sample: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    frames = 0
    for place in order:
        entry = usable[int(place)]
        hidden = states(entry)
        if hidden is None:
            continue
        for layer, hidden_BTD in hidden:
            if layer in sample and bool(hidden_BTD.isfinite().all()):
                sample[layer].append(hidden_BTD[0].cpu())
        frames += entry.num_frames
        if frames >= SAMPLE_FRAMES:
            break
    if not frames:
        raise CacheError(
            f"the encoding {plan.identity['encoding']} learns from the corpus, but no sampled utterance can be read"
        )
    kind = encoding(plan.identity["encoding"])
    tables = {}
    for layer, pieces in sample.items():
        for name, table in kind.calibrate(torch.cat(pieces)).items():
            tables[f"{layer:02d}.{name}"] = table.contiguous()
    console.say(f"learned the {plan.identity['encoding']} tables of {len(layers)} layers from {frames} frames")
    saved: bytes = safetensors.torch.save(tables)
    return saved
