"""Milliseconds of the forms between which the design chooses.

Axes: B batch, H heads, T frames, E features per head, C channels.
"""

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdist.stages.frontend.norms import TimeNorm
from gpu_steps.setting import Say, Setting, difference


def run(setting: Setting, say: Say) -> None:
    """Attention with WavLM's bias, the positional convolution, the folded norm, and the optimizer."""
    torch.manual_seed(0)
    with torch.no_grad():
        attention(setting, say)
        positions(setting, say)
        fold(setting, say)
    optimizers(setting, say)


def attention(setting: Setting, say: Say) -> None:
    """WavLM adds ``gate_BHT × bias_HTT`` to the scores; what does that cost in each form?"""
    batch, heads, frames, features = (1, 2, 40, 16) if setting.small else (25, 12, 600, 64)
    shape, dtype = (batch, heads, frames, features), torch.bfloat16
    query, key, value = (torch.randn(shape, device=setting.device, dtype=dtype) for _ in range(3))
    gate_BHT1 = torch.rand(batch, heads, frames, 1, device=setting.device)
    line_HT = torch.randn(heads, 2 * frames - 1, device=setting.device)  # the bias depends on the distance alone
    places = torch.arange(frames, device=setting.device)
    bias_HTT = line_HT[:, places[None, :] - places[:, None] + frames - 1]
    padded = -(-frames // 16) * 16
    room = torch.empty(batch, heads, frames, padded, device=setting.device, dtype=dtype)

    def float_bias() -> Tensor:
        bias = gate_BHT1 * bias_HTT
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(dtype))

    def one_write() -> Tensor:
        bias = torch.mul(gate_BHT1, bias_HTT, out=room[..., :frames])
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)

    exact = float_bias()
    say(
        attention_without_bias_ms=setting.clock(lambda: F.scaled_dot_product_attention(query, key, value)),
        attention_float_bias_ms=setting.clock(float_bias),
        attention_one_write_ms=setting.clock(one_write),
        attention_one_write_difference=difference(one_write(), exact),
    )
    if setting.cuda:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            try:
                with sdpa_kernel(backend):
                    say(**{f"attention_one_write_{backend.name.lower()}_ms": setting.clock(one_write)})
            except RuntimeError as error:
                say(**{f"attention_one_write_{backend.name.lower()}": str(error)[:120]})
        flex(setting, say, (query, key, value), gate_BHT1[..., 0].contiguous(), line_HT, exact)


def flex(
    setting: Setting,
    say: Say,
    inputs: tuple[Tensor, Tensor, Tensor],
    gate_BHT: Tensor,
    line_HT: Tensor,
    exact: Tensor,
) -> None:
    """The same without a bias in memory: it is computed for each score."""
    from torch.nn.attention.flex_attention import flex_attention

    frames = gate_BHT.shape[2]

    def gated(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + gate_BHT[b, h, i] * line_HT[h, j - i + frames - 1]

    compiled: Any = torch.compile(flex_attention, dynamic=False)
    began = time.perf_counter()
    first = compiled(*inputs, score_mod=gated)
    setting.wait()
    say(
        flex_compile_seconds=time.perf_counter() - began,
        attention_flex_ms=setting.clock(lambda: compiled(*inputs, score_mod=gated)),
        attention_flex_difference=difference(first, exact),
    )


def positions(setting: Setting, say: Say) -> None:
    """The grouped convolution over positions, against one product per group for 16 frames at a time."""
    batch, groups, width, frames = (1, 2, 8, 40) if setting.small else (25, 16, 48, 600)
    dtype, kernel, block = torch.bfloat16, 128, 16
    channels, span = groups * width, block + kernel - 1
    hidden_BCT = torch.randn(batch, channels, frames, device=setting.device, dtype=dtype)
    conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups).to(setting.device, dtype)
    taps = conv.weight.view(groups, width, width, kernel).permute(0, 3, 2, 1)
    toeplitz = torch.zeros(groups, span, width, block, width, device=setting.device, dtype=dtype)
    for frame in range(block):
        toeplitz[:, frame : frame + kernel, :, frame] = taps
    toeplitz = toeplitz.view(groups, span * width, block * width)
    surplus = -frames % block

    def by_products() -> Tensor:
        padded = F.pad(hidden_BCT.transpose(1, 2), (0, 0, kernel // 2, kernel // 2 + surplus))
        split = padded.view(batch, -1, groups, width).permute(2, 0, 1, 3)
        rows = split.unfold(2, span, block).permute(0, 1, 2, 4, 3).reshape(groups, -1, span * width)
        product = torch.bmm(rows, toeplitz).view(groups, batch, -1, width)
        return product[:, :, :frames].permute(1, 2, 0, 3).reshape(batch, frames, channels)

    exact = conv(hidden_BCT)[:, :, :frames].transpose(1, 2) - conv.bias
    say(
        positions_convolution_ms=setting.clock(lambda: conv(hidden_BCT)),
        positions_toeplitz_ms=setting.clock(by_products),
        positions_toeplitz_difference=difference(by_products(), exact),
    )


def fold(setting: Setting, say: Say) -> None:
    """The first norm, folded into the first convolution in float64."""
    batch, frames = (1, 40) if setting.small else (25, 600)
    conv = nn.Conv1d(1, 512, 10, 5, bias=False).to(setting.device)
    norm = TimeNorm(512).to(setting.device)
    waveform_BS = torch.randn(batch, 320 * frames, device=setting.device)
    num_frames_B = torch.full((batch,), (320 * frames - 10) // 5 + 1)
    say(fold_ms=setting.clock(lambda: norm.fold(conv, waveform_BS, num_frames_B)))


def optimizers(setting: Setting, say: Say) -> None:
    """One step of AdamW over 40 matrices, as many values as GenDistiller has."""
    size = 64 if setting.small else 640
    weights = [nn.Parameter(torch.randn(size, size, device=setting.device)) for _ in range(40)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    kinds: dict[str, dict[str, Any]] = {
        "fused": {"fused": True},
        "foreach": {"foreach": True},
        "plain": {"foreach": False},
    }
    for name, fields in kinds.items():
        say(**{f"adamw_{name}_ms": setting.clock(torch.optim.AdamW(weights, lr=1e-4, **fields).step)})
