"""What every front-end is: a module from waveforms to the input of the first Transformer layer.

A front-end's config is a frozen dataclass with a ``kind``, ``hidden_size`` (D), ``eps``, ``framing`` and ``to_dict``;
:mod:`gdist.stages.frontend.kinds` has the table of kinds. Teachers run front-ends with a checkpoint's weights, and
students train them. An exported student ships this folder's files, so they import nothing but torch, the standard
library and gdist's own arithmetic of frames.

Axes: B batch, S samples, T frames, D features.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from gdist.pipeline.framing import SAMPLE_RATE, Framing
from gdist.stages.frontend.padding import is_symbolic

NAMED_ROWS = 3  # of a batch, in a message


class Config(Protocol):
    """The config of a front-end."""

    kind: ClassVar[str]

    @property
    def hidden_size(self) -> int:
        """D."""

    @property
    def eps(self) -> float:
        """The epsilon of its LayerNorms, which students take over."""

    @property
    def framing(self) -> Framing:
        """How its frames lie on the samples."""

    def to_dict(self) -> dict[str, Any]:
        """All fields and the kind, in a dictionary that survives JSON."""


Augment = Callable[[Tensor, Tensor | None], Tensor]


class Checkpointed(nn.Module):
    """A module that can keep its inputs alone in training and compute the rest again when gradients are due.

    ``PreTrainedModel.gradient_checkpointing_enable`` sets both attributes of every module that has the first.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Tensor]

    def recomputed(self, compute: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """``compute(*inputs)``, whose intermediate values are kept only if checkpointing is off."""
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(compute, *inputs)
        return compute(*inputs)


class AudioFrontend(Checkpointed):
    """A front-end. The output for each utterance of a batch equals that for the utterance alone.

    Attributes:
        config: see :class:`Config`.
        framing: how its frames lie on the samples.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.framing: Framing = config.framing

    def num_frames(self, num_samples_B: Tensor) -> Tensor:
        """Frames of each utterance; 0 when it is too short."""
        frames_B: Tensor = self.framing.num_frames(num_samples_B)
        return frames_B

    def enough(self, num_samples_B: Tensor) -> Tensor:
        """``num_samples_B``, on the CPU, where later steps read it without waiting for a device.

        While compiling or exporting, nothing is read, and it is returned as it is.

        Raises:
            ValueError: an utterance is too short for a single frame; the message says which rows, and what is needed.
        """
        if is_symbolic():
            return num_samples_B
        num_samples_B, fewest = num_samples_B.cpu(), self.framing.fewest
        counts = [int(samples) for samples in num_samples_B.tolist()]
        if short := [row for row, samples in enumerate(counts) if samples < fewest]:
            found = [f"{counts[row]} in row {row}" for row in short[:NAMED_ROWS]]
            found += [f"too few in {more} more rows"] if (more := len(short) - NAMED_ROWS) > 0 else []
            raise ValueError(
                f"the model needs at least {fewest} samples of each utterance ({1000 * fewest / SAMPLE_RATE:g} ms at "
                f"16 kHz), and input_values has {', '.join(found)}; what attention_mask excludes does not count"
            )
        return num_samples_B

    def forward(self, waveform_BS: Tensor, num_samples_B: Tensor, augment: Augment | None = None) -> Tensor:
        """The input of the first Transformer layer, ``[B, T, D]``; frames of padding are zero.

        It has the dtype of the weights, so it is float32 even under autocast.

        Args:
            waveform_BS: samples at 16 kHz, normalized if the checkpoint requires it (see
                :func:`gdist.stages.frontend.padding.normalize`).
            num_samples_B: samples of each utterance, at least ``framing.fewest``; best kept on the CPU.
            augment: changes the features ``[B, T, D]``, with the mask of their frames, before positions are added.
        """
        return self.with_mask(waveform_BS, num_samples_B, augment)[0]

    def with_mask(
        self, waveform_BS: Tensor, num_samples_B: Tensor, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What :meth:`forward` returns, and the mask of its frames (see :func:`frame_mask`)."""
        raise NotImplementedError

    def feature_encoder(self) -> Iterable[nn.Module]:
        """The modules between the waveform and the features, which ``freeze_feature_encoder`` freezes."""
        raise NotImplementedError
