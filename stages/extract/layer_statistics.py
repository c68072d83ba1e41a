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


def measure_layer(
    hidden_BTD: Tensor, num_frames_B: Tensor, stored: Stored, encoding: Encoding, tables: Tables
) -> Tensor:
    """Measure one layer of a batch, on its device and without waiting for it.

    Padding, which is zero, does not count in any of the measures.

    Returns:
        [M, B]: the sum of squares and the largest |x| of all values; then, over every eighth frame, the sum of
        squares, the squared error of the stored values, and their cosine to the computed values, summed over frames.
    """
    norm_BT = torch.linalg.vector_norm(hidden_BTD, dim=2).double()
    largest_BT = torch.maximum(hidden_BTD.amax(dim=2), -hidden_BTD.amin(dim=2))  # 20 times as fast as the norm
    measures = torch.zeros(5, len(hidden_BTD), dtype=torch.float64, device=hidden_BTD.device)
    measures[SQUARES], measures[LARGEST] = norm_BT.square().sum(1), largest_BT.amax(1)
    if encoding.lossless:
        return measures
    frames, device = hidden_BTD.shape[1], hidden_BTD.device
    sampled_T = torch.arange(0, frames, SAMPLED)
    decoded_BTD = _decode(sampled_T, hidden_BTD.shape, stored, encoding, tables)
    valid_BT = (sampled_T < num_frames_B[:, None]).to(device, non_blocking=True)
    norm_BT = norm_BT[:, ::SAMPLED]
    error_BT = torch.linalg.vector_norm(decoded_BTD - hidden_BTD[:, ::SAMPLED], dim=2).double()
    decoded_norm_BT = torch.linalg.vector_norm(decoded_BTD, dim=2).double()
    # 2 a·b = |a|² + |b|² − |a − b|² needs no further pass over the features
    cosine_BT = norm_BT.square() + decoded_norm_BT.square() - error_BT.square()
    cosine_BT /= (2 * norm_BT * decoded_norm_BT).clamp(min=1e-30)
    measures[SAMPLED_SQUARES] = norm_BT.square().sum(1)
    measures[SAMPLED_ERROR] = error_BT.square().where(valid_BT, 0).sum(1)
    measures[COSINE] = cosine_BT.where(valid_BT, 0).sum(1)
    return measures


def _decode(sampled_T: Tensor, shape: torch.Size, stored: Stored, encoding: Encoding, tables: Tables) -> Tensor:
    batch, frames, dim = shape
    parts = encoding.parts(dim)
    rows = {folder: part if parts[folder].per_chunk else part[:, ::SAMPLED] for folder, part in stored.items()}
    chunks = -(-frames // CHUNK_FRAMES)
    chunk_BT = torch.arange(batch)[:, None] * chunks + sampled_T // CHUNK_FRAMES
    device = next(iter(stored.values())).device
    flat = {folder: part.flatten(0, 1) for folder, part in rows.items()}
    return encoding.decode(flat, chunk_BT.flatten().to(device, non_blocking=True), tables).view(batch, -1, dim)


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
                "snr_db": 10 * math.log10(energy / noise) if noise else None,
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
