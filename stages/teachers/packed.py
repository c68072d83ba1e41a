"""Linear layers whose weights lie as oneDNN wants them, for a frozen teacher on a CPU.

``F.linear`` in float32 is MKL's, which does not know AMD's processors well, and under autocast it casts the weight
again at every call. oneDNN's product with a weight cast and laid out once is 1.1 to 1.2 times as fast on a quiet
machine, and applies GELU on the way out. The operators are the ones that torch.compile's own code calls.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

ROWS = 1600  # frames of a usual batch, 32 s: what the layout is chosen for; others only cost a little speed
SMALLEST = 2**11  # weights with fewer numbers gain nothing


class PackedLinear(nn.Module):
    """``nn.Linear``, and GELU (exact) after it if asked for, without gradients. Weight and bias keep their names."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, gelu: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self._dtype = linear.weight, linear.bias, dtype
        self._after: tuple[str, list[Any], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        return cast(
            Tensor, torch.ops.mkldnn._linear_pointwise(hidden.to(self._dtype), self._weight, self._bias, *self._after)
        )


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN has fast products in ``dtype``; where it has not, ``nn.Linear`` stays."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    if not known or "AVX" not in torch.backends.cpu.get_cpu_capability():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def pack(layers: nn.ModuleList, dtype: torch.dtype, activation: Any) -> None:
    """Replaces the large linear layers of Transformer ``layers``, and takes GELU into the one before it."""
    for layer in layers:
        for parent in list(layer.modules()):
            for name, linear in list(parent.named_children()):
                if not isinstance(linear, nn.Linear) or linear.weight.numel() < SMALLEST:
                    continue
                gelu = (
                    name == "intermediate_dense" and activation == "gelu" and hasattr(parent, "intermediate_act_fn")
                )
                setattr(parent, name, PackedLinear(linear, dtype, gelu))
                if gelu:
                    parent.intermediate_act_fn = nn.Identity()
