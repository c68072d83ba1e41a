"""Statistics of each layer, measured while it is stored: how large its values are, and how exactly they are stored.

Axes: L layers, M measures, B batch, T frames, C chunks, D features.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gdist.pipeline.cache.encodings import Encoding, Stored, Tables
from gdist.pipeline.cache.layout import CHUNK_FRAMES

SAMPLED = 8  # every eighth frame is decoded again and compared: checking all of them would slow the teacher down
SQUARES, LARGEST, SAMPLED_SQUARES, SAMPLED_ERROR, COSINE = range(5)


class BatchMeasures:
    """Measures the layers of one batch, on its device and without waiting for it.

    Padding, which is zero, does not count in any of the measures.

    Args:
        num_frames_B: frames of each utterance, on the batch's device.
    """

    def __init__(self, num_frames_B: Tensor, encoding: Encoding) -> None:
        self._num_frames_B, self._encoding = num_frames_B, encoding
        # Norms, largest values, norms of the error and of what is stored: a row for each layer
        self._rows: tuple[list[Tensor], ...] = ([], [], [], [])

    def add(self, hidden_BTD: Tensor, stored: Stored, tables: Tables) -> None:
        """Measure the next layer."""
        norms, largest, errors, decoded_norms = self._rows
        norms.append(torch.linalg.vector_norm(hidden_BTD, dim=2))
        if hidden_BTD.device.type == "cpu":
            largest.append(torch.maximum(hidden_BTD.amax(dim=2), -hidden_BTD.amin(dim=2)))  # 20 times as fast
        else:
            largest.append(torch.linalg.vector_norm(hidden_BTD, torch.inf, dim=2))
        if not self._encoding.lossless:
            decoded_BTD = self._decode(hidden_BTD.shape, stored, tables)
            errors.append(torch.linalg.vector_norm(decoded_BTD - hidden_BTD[:, ::SAMPLED], dim=2))
            decoded_norms.append(torch.linalg.vector_norm(decoded_BTD, dim=2))

    def result(self) -> Tensor:
        """The measures of all layers, once they are computed.

        Returns:
            [L, M, B]: the sum of squares and the largest |x| of all values; then, over every eighth frame, the sum of
            squares, the squared error of the stored values, and their cosine to the computed values, summed over
            frames.
        """
        norms, largest, errors, decoded_norms = self._rows
        norm_LBT, device = torch.stack(norms).double(), self._num_frames_B.device
        measures = torch.zeros(len(norms), 5, len(self._num_frames_B), dtype=torch.float64, device=device)
        measures[:, SQUARES] = norm_LBT.square().sum(2)
        measures[:, LARGEST] = torch.stack(largest).amax(2)
        if self._encoding.lossless:
            return measures
        valid_BT = torch.arange(0, norm_LBT.shape[2], SAMPLED, device=device) < self._num_frames_B[:, None]
        norm_LBT = norm_LBT[:, :, ::SAMPLED]
        error_LBT, decoded_norm_LBT = torch.stack(errors).double(), torch.stack(decoded_norms).double()
        # 2 a·b = |a|² + |b|² − |a − b|² needs no further pass over the features
        cosine_LBT = norm_LBT.square() + decoded_norm_LBT.square() - error_LBT.square()
        cosine_LBT /= (2 * norm_LBT * decoded_norm_LBT).clamp(min=1e-30)
        measures[:, SAMPLED_SQUARES] = norm_LBT.square().sum(2)
        measures[:, SAMPLED_ERROR] = error_LBT.square().where(valid_BT, 0).sum(2)
        measures[:, COSINE] = cosine_LBT.where(valid_BT, 0).sum(2)
        return measures

    def _decode(self, shape: torch.Size, stored: Stored, tables: Tables) -> Tensor:
        """Every eighth frame, as it will be read."""
        batch, frames, dim = shape
        parts, device = self._encoding.parts(dim), self._num_frames_B.device
        flat = {
            folder: (part if parts[folder].per_chunk else part[:, ::SAMPLED]).flatten(0, 1)
            for folder, part in stored.items()
        }
        chunk_T = torch.arange(0, frames, SAMPLED, device=device) // CHUNK_FRAMES
        chunk_BT = torch.arange(batch, device=device)[:, None] * -(-frames // CHUNK_FRAMES) + chunk_T
        return self._encoding.decode(flat, chunk_BT.flatten(), tables).view(batch, -1, dim)


class Statistics:
    """Sums over the batches of one task."""

    def __init__(self, layers: Sequence[int], dim: int) -> None:
        self.layers, self.dim = list(layers), dim
        self.frames = self.sampled = 0
        self._sums_LM = torch.zeros(len(self.layers), 5, dtype=torch.float64)

    def unstorable(self, measured_LM: Tensor, encoding: Encoding) -> str | None:
        """Why an utterance cannot be stored (non-finite values, or too large for the encoding), or None."""
        for layer, measures_M in zip(self.layers, measured_LM, strict=True):
            largest = float(measures_M[LARGEST])
            if not math.isfinite(largest):
                return f"layer {layer}: non-finite values"
            if largest > encoding.largest:
                why = f"values up to {largest:.0f} overflow {encoding.name} (largest {encoding.largest:.0f})"
                return f"layer {layer}: {why}"
        return None

    def add(self, measured_LMB: Tensor, num_frames: Sequence[int]) -> None:
        """Add the measures of some utterances ([L, M, B]) and their numbers of frames."""
        self.frames += sum(num_frames)
        self.sampled += sum(-(-frames // SAMPLED) for frames in num_frames)
        largest_L = self._sums_LM[:, LARGEST].clone()
        self._sums_LM += measured_LMB.sum(2)
        if len(num_frames):
            largest_L = torch.maximum(largest_L, measured_LMB[:, LARGEST].amax(1))
        self._sums_LM[:, LARGEST] = largest_L

    def summary(self) -> dict[str, Any]:
        """The statistics for the receipt: ``frames``, and each layer's ``rms``, ``max_abs``, ``relative_error`` and
        ``cosine``."""
        layers = {}
        for layer, sums_M in zip(self.layers, self._sums_LM.tolist(), strict=True):
            error = math.sqrt(sums_M[SAMPLED_ERROR] / sums_M[SAMPLED_SQUARES]) if sums_M[SAMPLED_SQUARES] else 0.0
            layers[f"{layer:02d}"] = {
                "rms": math.sqrt(sums_M[SQUARES] / max(self.frames * self.dim, 1)),
                "max_abs": sums_M[LARGEST],
                "relative_error": error,
                "cosine": sums_M[COSINE] / self.sampled if sums_M[SAMPLED_SQUARES] else 1.0,
            }
        return {"frames": self.frames, "layers": layers}


def combined(receipts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The statistics over all receipts, by ascending layer, with ``snr_db``, which is None where nothing was lost."""
    by_layer: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for receipt in receipts:
        for name, measures in receipt["statistics"]["layers"].items():
            by_layer.setdefault(name, []).append((receipt["statistics"]["frames"], measures))
    rows = []
    for name, found in sorted(by_layer.items()):
        frames = max(sum(n for n, _ in found), 1)
        energy = sum(n * m["rms"] ** 2 for n, m in found)
        noise = sum(n * (m["rms"] * m["relative_error"]) ** 2 for n, m in found)
        rows.append(
            {
                "layer": int(name),
                "rms": math.sqrt(energy / frames),
                "max_abs": max(m["max_abs"] for _, m in found),
                "relative_error": math.sqrt(noise / energy) if energy else 0.0,
                "snr_db": 10 * math.log10(energy / noise) if noise and energy else None,
                "cosine": sum(n * m["cosine"] for n, m in found) / frames,
            }
        )
    return rows


COLUMNS = ("rms", "largest |x|", "signal to noise", "cosine")


def cells(row: Mapping[str, Any]) -> list[str]:
    """Format a row of :func:`combined` for the columns ``COLUMNS``, with dashes where nothing is stored yet."""
    if "rms" not in row:
        return ["–"] * len(COLUMNS)
    noise = "exact" if row["snr_db"] is None else f"{row['snr_db']:.1f} dB"
    return [f"{row['rms']:.3f}", f"{row['max_abs']:.2f}", noise, f"{row['cosine']:.6f}"]
