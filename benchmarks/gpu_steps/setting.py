"""What all steps share: the device, the size of what is measured, the teacher and the speech, and a clock."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from extract import speech
from timing import synchronize, timed
from torch import Tensor


class Say(Protocol):
    """Notes figures: ``say(name=value)``; they are in the file when it returns."""

    def __call__(self, **figures: Any) -> None: ...


# Base's layout with the arithmetic of a toy: every kernel runs, in milliseconds on a CPU.
TOY: dict[str, Any] = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": [24] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    "num_buckets": 32, "max_bucket_distance": 40,
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Where and on what the steps run.

    Attributes:
        device: cuda or cpu.
        small: a dry run.
        work: a folder for whatever is written.
    """

    device: str
    small: bool
    work: Path

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU, whose calls return before they are done."""
        return self.device == "cuda"

    @cached_property
    def teacher(self) -> str:
        """The folder of a checkpoint with WavLM Base's shapes and random weights."""
        from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

        folder = self.work / "teacher"
        torch.manual_seed(0)
        WavLMModel(WavLMConfig(**(TOY if self.small else {}))).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
        return str(folder)

    @cached_property
    def speech(self) -> Path:
        """A manifest of half an hour of speech, in utterances of 9 to 14 s (of 12 s in all, if small)."""
        minutes, join_seconds = (0.2, 2.0) if self.small else (30.0, 9.0)
        folder = self.work / "speech"
        folder.mkdir()
        return speech(minutes, join_seconds, folder / "speech.parquet")

    @property
    def pack_frames(self) -> int:
        """Rows of a pack."""
        return 512 if self.small else 16_384

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions to measure, the more important first."""
        return ("bf16",) if self.small else ("bf16", "fp32")

    def wait(self) -> None:
        """Wait until the device is done."""
        synchronize(self.device)

    def seconds(self, call: Callable[[], object]) -> float:
        """The seconds that one call takes, until the device is done."""
        return timed(call, self.device)

    def clock(self, call: Callable[[], object], times: int = 5, warm: int = 2) -> float:
        """The median of the milliseconds that a call takes."""
        for _ in range(1 if self.small else warm):
            call()
        return 1e3 * statistics.median(self.seconds(call) for _ in range(1 if self.small else times))

    def forget_peak(self) -> None:
        """Begin to measure the peak of memory."""
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        """The peak of the device's memory in GB; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.cuda else 0.0


def difference(own: Tensor, reference: Tensor) -> float:
    """The relative difference of two tensors."""
    own, reference = own.detach().cpu().double(), reference.detach().cpu().double()
    return float((own - reference).norm() / (reference.norm() + 1e-30))
