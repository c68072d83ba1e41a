"""The contract of an encoding: hidden states of one layer → numbers in arrays, and back on any device.

Axes: B batch, T frames, C chunks of 128 frames, D features, W numbers stored per row.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

LAYERS, SCALES = "layers", "scales"  # the folders of a cache that contain an encoding's arrays

Stored = dict[str, Tensor]
"""Folder → rows, in a dtype that NumPy has too."""
Tables = Mapping[str, Tensor]
"""What :meth:`Encoding.calibrate` learned for a layer; empty for most encodings."""


@dataclass(frozen=True)
class Part:
    """One of the arrays that a layer is stored in.

    Attributes:
        width: W, numbers per row.
        dtype: NumPy's name.
        fill_value: marks rows that were never written; rows that contain it decode to NaN.
        per_chunk: one row per chunk of 128 frames (scales), instead of one row per frame.
    """

    width: int
    dtype: str
    fill_value: float | int
    per_chunk: bool = False


class Encoding(ABC):
    """One way of storing hidden states. An utterance's numbers never depend on what else is in its batch.

    Attributes:
        name: what ``--encoding`` takes.
        bytes_per_value: stored bytes per value of a hidden state of 768 features, in full chunks and before
            lossless compression.
        relative_error: ‖decoded − x‖ / ‖x‖ to expect for speech. For the floating-point encodings it is a bound that
            holds for every value; for the others it was measured on the bundled teacher and speech.
        largest: the largest ``|x|`` that can be stored.
        lossless: decoding returns every bit.
        calibrated: tables are learned from a sample of the corpus when the cache is planned.
    """

    name: str
    bytes_per_value: float
    relative_error: float
    largest: float
    lossless: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False

    @abstractmethod
    def parts(self, dim: int) -> dict[str, Part]:
        """Return the arrays of a layer of ``dim`` features, by folder. One is ``layers``, with one row per frame."""

    @abstractmethod
    def encode(self, hidden_BTD: Tensor, num_frames_B: Tensor, tables: Tables) -> Stored:
        """float32 [B, T, D] on any device → folder → [B, T, W] ([B, C, W] for parts per chunk), on that device.

        Args:
            num_frames_B: frames of each utterance; later frames are zeros, and their rows are discarded.
        """

    @abstractmethod
    def decode(self, stored: Stored, chunk_T: Tensor, tables: Tables) -> Tensor:
        """Folder → rows, on any device → float32 [T, D] there.

        Args:
            stored: [T, W] of any frames, in any order; [C, W] for parts per chunk.
            chunk_T: for each frame, which of the C rows belongs to its chunk.
        """

    def decode_into(self, out: Sequence[Tensor], stored: Stored, chunk_T: Tensor, tables: Tables) -> None:
        """Run :meth:`decode` and copy the frames in order into ``out``: float32 [T, D] each, on the same device."""
        decoded = torch.split(self.decode(stored, chunk_T, tables), [len(piece_TD) for piece_TD in out])
        for piece_TD, decoded_TD in zip(out, decoded, strict=True):
            piece_TD.copy_(decoded_TD)

    def check_tables(self, dim: int, tables: Tables) -> None:
        """Raise ValueError unless these can be what :meth:`calibrate` returned for a layer of ``dim`` features.

        A cache may be anybody's. The message follows "the tables of layer 3".
        """
        if tables and not self.calibrated:
            raise ValueError(f"{self.name} has none, and these have {min(tables)!r:.60}")

    def calibrate(self, hidden_TD: Tensor) -> dict[str, Tensor]:
        """Return tables for one layer, learned from a sample of its frames; deterministic."""
        return {}
