"""Everything that shapes the front-end, read from any supported teacher's config."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from gdist.pipeline.framing import Framing
from gdist.stages.frontend.limits import MAX_LAYERS, listed, require_flags, require_positive, require_whole

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda hidden: F.gelu(hidden, approximate="tanh"),
    "gelu_pytorch_tanh": lambda hidden: F.gelu(hidden, approximate="tanh"),
    "relu": F.relu,
    "selu": F.selu,
    "silu": F.silu,
    "swish": F.silu,
}


@dataclasses.dataclass(frozen=True)
class FrontendConfig:
    """Everything that shapes the convolutional front-end of wav2vec 2.0 and its relatives.

    Args:
        conv_dim, conv_kernel, conv_stride: the convolutional encoder, one entry per layer.
        conv_norm: "group" normalizes the first layer over time (Base), "layer" normalizes every layer over channels
            (Large).
        feature_norm: LayerNorm before the projection (off in a few HuBERT checkpoints).
        project: the linear layer to D; SEW has none where the convolutions are as wide as the Transformer.
        hidden_size: D, the width of the Transformer that follows.
        position_layers, position_kernel, position_groups: the positional convolution: one layer with
            a kernel of 128 in most families, five layers with kernels of 19 and LayerNorms in data2vec-audio, none
            in conformers.
        position_norm: whether a LayerNorm follows each positional convolution.
        position_scale: a scale and shift before the positional convolution (HuBERT's batch norm, folded).
        squeeze: frames of the convolutions for each frame of the Transformer, 2 in SEW. Their mean is what the
            positional convolution, which steps as far, is added to; frames that are left over at the end only enter
            that convolution.
        output_norm: LayerNorm at the end (post-norm Transformers; absent before pre-norm ones).
        eps: the epsilon of ``feature_norm`` and ``output_norm``; the other norms use torch's default, as in Hugging
            Face.

    Raises:
        ValueError: a field has a value that no front-end can have; the message begins with the field's name.
    """

    kind: ClassVar[str] = "convolutions"

    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: Literal["group", "layer"] = "group"
    activation: str = "gelu"
    feature_norm: bool = True
    project: bool = True
    hidden_size: int = 768
    position_layers: int = 1
    position_kernel: int = 128
    position_groups: int = 16
    position_norm: bool = False
    position_scale: bool = False
    squeeze: int = 1
    output_norm: bool = True
    eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            object.__setattr__(self, name, tuple(listed(name, getattr(self, name))))  # JSON gives lists
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0:
            raise ValueError("conv_dim, conv_kernel and conv_stride need one entry for each convolution")
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"conv_norm is {self.conv_norm!r}; it must be 'group' or 'layer'")
        if not isinstance(self.activation, str) or self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; it must be one of {', '.join(ACTIVATIONS)}")
        require_whole(self, 0, "position_layers", most=MAX_LAYERS)
        require_whole(self, 1, "hidden_size", "position_kernel", "position_groups", "squeeze")
        if self.hidden_size % self.position_groups:
            raise ValueError(
                f"position_groups is {self.position_groups}, which does not divide the hidden size, "
                f"{self.hidden_size}"
            )
        require_positive(self, "eps")
        require_flags(self, "conv_bias", "feature_norm", "project", "position_norm", "position_scale", "output_norm")
        if not self.project and self.conv_dim[-1] != self.hidden_size:
            raise ValueError(
                f"project is False, but the convolutions are {self.conv_dim[-1]} wide and the hidden size is "
                f"{self.hidden_size}"
            )
        if self.position_scale and self.position_layers == 0:
            raise ValueError("position_scale is True, but there is no positional convolution for it")
        if self.squeeze > 1 and self.position_layers > 1:
            raise ValueError(f"squeeze is {self.squeeze}, which needs at most one positional convolution")

    @classmethod
    def from_teacher_config(cls, config: dict[str, Any]) -> "FrontendConfig":
        """The front-end that a Hugging Face config (as a dictionary) of any supported family describes."""
        family = config.get("model_type")
        data2vec, squeezes = family == "data2vec-audio", family in ("sew", "sew-d")
        dims, wide = config.get("conv_dim", cls.conv_dim), config.get("hidden_size", cls.hidden_size)
        width = config.get("num_conv_pos_embeddings")  # the kernel's width; in data2vec-audio, the number of layers
        positions = (width or 5) if data2vec else 0 if family == "wav2vec2-conformer" else 1
        bare = family in ("wav2vec2-conformer", "sew-d") or config.get("do_stable_layer_norm", False)
        return cls(
            conv_dim=dims,
            conv_kernel=config.get("conv_kernel", cls.conv_kernel),
            conv_stride=config.get("conv_stride", cls.conv_stride),
            conv_bias=config.get("conv_bias", cls.conv_bias),
            conv_norm="layer" if data2vec else config.get("feat_extract_norm", cls.conv_norm),
            activation=config.get("feat_extract_activation", cls.activation),
            feature_norm=config.get("feat_proj_layer_norm", True),
            project=not (squeezes and isinstance(dims, (list, tuple)) and list(dims[-1:]) == [wide]),
            hidden_size=wide,
            position_layers=positions,
            position_kernel=config.get("conv_pos_kernel_size", 19) if data2vec else (width or 128),
            position_groups=config.get("num_conv_pos_embedding_groups", cls.position_groups),
            position_norm=data2vec,
            position_scale=config.get("conv_pos_batch_norm", False),
            squeeze=config.get("squeeze_factor", 2) if squeezes else 1,
            output_norm=data2vec or not bare,
            eps=config.get("feature_layer_norm_eps" if family == "sew-d" else "layer_norm_eps", cls.eps),
        )

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that survives JSON."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}
        return {"kind": self.kind} | values

    @property
    def framing(self) -> Framing:
        """How its frames lie on the samples: without padding."""
        further = (self.squeeze - 1) * self.hop
        return Framing(hop=self.squeeze * self.hop, window=self.receptive_field + further)

    @property
    def hop(self) -> int:
        """Samples from one frame of the convolutions to the next."""
        hop = 1
        for stride in self.conv_stride:
            hop *= stride
        return hop

    @property
    def receptive_field(self) -> int:
        """How many samples one frame of the convolutions depends on."""
        field = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            field = (field - 1) * stride + kernel
        return field
