"""What every front-end is: a module from waveforms to the input of the first Transformer layer.

A front-end's config is a frozen dataclass with a ``kind``, ``hidden_size`` (D), ``eps``, ``framing`` and ``to_dict``;
:mod:`gdist.stages.frontend.kinds` has the table of kinds. Teachers run front-ends with a checkpoint's weights, and
students train them. An exported student ships this folder's files, so they import nothing but torch, the standard
library and gdist's own arithmetic of frames.

Axes: B batch, S samples, T frames, D features.
"""

from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from gdist.pipeline.framing import Framing


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


class AudioFrontend(nn.Module):
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

    def forward(self, waveform_BS: Tensor, num_samples_B: Tensor) -> Tensor:
        """The input of the first Transformer layer, ``[B, T, D]``; frames of padding are zero.

        It has the dtype of the weights, so it is float32 even under autocast.

        Args:
            waveform_BS: samples at 16 kHz, normalized if the checkpoint requires it (see
                :func:`gdist.stages.frontend.padding.normalize`).
            num_samples_B: samples of each utterance, at least ``framing.fewest``; best kept on the CPU.
        """
        return self.with_mask(waveform_BS, num_samples_B)[0]

    def with_mask(self, waveform_BS: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """What :meth:`forward` returns, and the mask of its frames (see :func:`frame_mask`)."""
        raise NotImplementedError
