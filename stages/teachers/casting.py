"""Weights of a frozen teacher on a GPU, cast once.

Autocast casts every weight again in every batch: 286 of the 717 kernels that a batch of WavLM Base launched. A weight
that already has the dtype is taken as it is, so the results are the same, bit for bit.
"""

import torch
from torch import nn

from gdist.stages.frontend.frontend import Frontend


@torch.no_grad()
def cast_weights(layers: nn.ModuleList, frontend: nn.Module, dtype: torch.dtype | None) -> None:
    """Cast the linear layers and convolutions, which autocast runs in ``dtype``; norms stay as they are.

    The front-end's first convolution stays too: its norm over time is folded into it in float64. The other strided
    convolutions are laid out as they are applied, channels last, which pays without a cast too (``dtype`` None).
    """
    parts: list[nn.Module | None] = list(frontend.modules())
    if isinstance(frontend, Frontend):
        last = [] if frontend.projection is None else [frontend.projection]
        parts = [*list(frontend.convs)[1:], *last, *frontend.positions]
    for module in (*layers.modules(), *parts):
        if dtype is not None and isinstance(module, (nn.Linear, nn.Conv1d)):
            module.to(dtype)
    for conv in list(frontend.convs)[1:] if isinstance(frontend, Frontend) else ():
        assert isinstance(conv, nn.Conv1d)
        conv.weight.data = conv.weight.transpose(1, 2).contiguous().transpose(1, 2)
