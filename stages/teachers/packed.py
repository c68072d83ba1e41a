"""Linear layers and convolutions with weights in oneDNN's own layout, for a frozen teacher on a CPU.

``F.linear`` in float32 uses MKL, which is not optimized for AMD's processors, and under autocast it casts the weight
again at every call. oneDNN's product, with a weight cast and reordered once, is 1.1 to 1.2 times as fast on a quiet
machine, and applies GELU to its output. A convolution over time without padding is such a product with overlapping
windows, and gains more: it is 1.3 to 1.8 times as fast as its own operator in float32. The operators used here are
the ones that torch.compile's generated code calls; they have no gradients.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from gdist.stages.frontend.frontend import BLOCK_FRAMES, Frontend

ROWS = 1600  # frames of a usual batch, 32 s, for which the layout is chosen; other sizes are slightly slower
SMALLEST = 2**11  # smaller weights gain nothing
# A feed-forward network's first linear layer → the activation after it, in wav2vec 2.0's relatives and in Whisper.
ACTIVATIONS = {"intermediate_dense": "intermediate_act_fn", "fc1": "activation_fn"}


class _Product:
    """hidden [N, K] → hidden · weightᵀ + bias [N, M], followed by (exact) GELU if ``gelu``."""

    def __init__(self, weight_MK: Tensor, bias_M: Tensor | None, dtype: torch.dtype, gelu: bool, rows: int) -> None:
        self.dtype = dtype
        self._after: tuple[str, list[Any], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_MK.detach().to(dtype).contiguous(), rows)
        self._bias = None if bias_M is None else bias_M.detach().to(dtype)

    def __call__(self, hidden: Tensor) -> Tensor:
        product = torch.ops.mkldnn._linear_pointwise(hidden, self._weight, self._bias, *self._after)
        return cast(Tensor, product)


class PackedLinear(nn.Module):
    """``nn.Linear``, followed by GELU if ``gelu``. Weight and bias keep their names."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, gelu: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._product = _Product(linear.weight, linear.bias, dtype, gelu, ROWS)

    def forward(self, hidden: Tensor) -> Tensor:
        return self._product(hidden.to(self._product.dtype))


class PackedConv:
    """``nn.Conv1d`` without padding over one utterance, channels last, followed by GELU if ``gelu``.

    Example: a kernel of 3 with stride 2 over [T, C] is a product of rows of 3 C numbers, each starting 2 C numbers
    after the one before, with the weight as [C', 3 C].
    """

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype, gelu: bool, rows: int) -> None:
        self._kernel, self._stride = conv.kernel_size[0], conv.stride[0]
        self._product = _Product(conv.weight.transpose(1, 2).flatten(1), conv.bias, dtype, gelu, rows)

    def __call__(self, hidden_1TC: Tensor) -> Tensor:
        """``[1, T, C]`` in the packed dtype → ``[1, T', C']``."""
        _, frames, channels = hidden_1TC.shape
        count = (frames - self._kernel) // self._stride + 1
        hidden_1TC = hidden_1TC.contiguous()
        windows_NK = hidden_1TC.as_strided((count, self._kernel * channels), (self._stride * channels, 1))
        return self._product(windows_NK)[None]


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN has fast products in ``dtype``; where it has none, ``nn.Linear`` stays."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    available = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    if not available or "AVX" not in torch.backends.cpu.get_cpu_capability():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def pack(layers: nn.ModuleList, dtype: torch.dtype, activation: Any) -> None:
    """Replaces the large linear layers of Transformer ``layers``, and merges GELU into the layer before it."""
    for layer in layers:
        for parent in list(layer.modules()):
            for name, linear in list(parent.named_children()):
                if not isinstance(linear, nn.Linear) or linear.weight.numel() < SMALLEST:
                    continue
                follows = ACTIVATIONS.get(name)
                gelu = follows is not None and activation == "gelu" and hasattr(parent, follows)
                setattr(parent, name, PackedLinear(linear, dtype, gelu))
                if gelu and follows is not None:
                    setattr(parent, follows, nn.Identity())


def pack_frontend(frontend: nn.Module, dtype: torch.dtype) -> None:
    """Gives a frozen convolutional front-end packed convolutions; those that no norm follows include GELU."""
    if not isinstance(frontend, Frontend):
        return
    config = frontend.config
    if config.activation != "gelu" and config.conv_norm == "group":
        return
    packed, rows = [], BLOCK_FRAMES * config.hop // config.conv_stride[0]
    for conv in list(frontend.convs)[1:]:
        assert isinstance(conv, nn.Conv1d)
        rows //= conv.stride[0]
        packed.append(PackedConv(conv, dtype, config.conv_norm == "group", rows))
    frontend.frozen_convs = packed
