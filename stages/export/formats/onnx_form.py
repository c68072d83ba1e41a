"""A student in a form that graph runtimes run fast, with the same weights and the same outputs.

PyTorch's operators leave a runtime little choice: a strided convolution is one node, attention with a mask eleven.
Here everything large is a matrix product, which a runtime has its best code for, also in int8:

- a convolution is a product with its windows; the shift of the first one is an additional tap whose input is one;
- query, key and value are one product, and padding is one more feature of the keys: no pass over [T, T] for a mask;
- weights are stored in the layout that a product needs, and a layer that is applied L times is stored only once.

Axes: B batch, S samples, T frames, C channels, D features, H heads, E features of a head, K taps.
"""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdist.stages.frontend.config import ACTIVATIONS
from gdist.stages.frontend.frontend import Frontend
from gdist.stages.frontend.interface import AudioFrontend
from gdist.stages.frontend.log_mel import MEL_HOP, WINDOW, LogMelFrontend
from gdist.stages.frontend.padding import normalize, zero_padding
from gdist.stages.students import Student
from gdist.stages.students.layer import Attention

PADDING_SCORE = -1e4  # the attention score of padding: exp of it is zero in float32, and float16 can represent it


class GraphStudent(nn.Module):
    """``(input_values, attention_mask)`` → layers 0 … L, and the frames of each utterance."""

    def __init__(self, student: Student, for_integers: bool = False, half: bool = False) -> None:
        super().__init__()
        self.student = in_graph_form(student, for_integers, half)

    def forward(self, input_values: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        num_samples_B = attention_mask.sum(-1)
        if self.student.config.do_normalize:
            input_values = normalize(input_values, num_samples_B)
        hidden_states = self.student(input_values, attention_mask, output_hidden_states=True).hidden_states
        return *(hidden_BTD.float() for hidden_BTD in hidden_states), self.student.frontend.num_frames(num_samples_B)


def in_graph_form(student: Student, for_integers: bool = False, half: bool = False) -> Student:
    """Return a copy of the student in eval mode, with its parts replaced by forms that suit a graph.

    Args:
        for_integers: use forms for ONNX Runtime only, which an int8 graph requires anyway: positional convolutions
            also as products, which is only worthwhile with windows of bytes, and attention by its own operator, which
            never allocates [T, T].
        half: in float16, as ``from_pretrained(…, dtype=torch.float16)`` loads it: spectra and the statistics of
            norms over time keep their precision.
    """
    student = copy.deepcopy(student).eval().requires_grad_(False)
    if half:
        student = student.half()
    frontend: AudioFrontend = student.frontend
    if form := FORMS.get(type(frontend)):
        frontend.__class__ = form
        frontend.prepare(for_integers)  # type: ignore[operator]  # every form has it
    for module in student.modules():
        if type(module) is Attention:
            module.__class__ = RuntimeAttention if for_integers else GraphAttention
            module.fuse()  # type: ignore[operator]
    for parent in list(student.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Product(child.weight, child.bias))
    return student


class GraphFrontend(Frontend):
    """The convolutional front-end over whole batches."""

    products: nn.ModuleList

    def prepare(self, for_integers: bool) -> None:
        convs = [conv for conv in self.convs if isinstance(conv, nn.Conv1d)]
        self.products = nn.ModuleList(WindowProduct(conv) for conv in convs[1:])
        if for_integers:
            self.positions = nn.ModuleList(PositionProduct(conv) for conv in self.positions)  # type: ignore[arg-type]

    def _encode(self, waveform_BS: Tensor, first_BKC: Tensor, shift_B1C: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        del kernels
        windows_BTK = windows(waveform_BS[:, :, None], self.config.conv_kernel[0], self.config.conv_stride[0])
        one_BT1 = torch.ones_like(windows_BTK[:, :, :1])
        hidden_BTC = torch.cat([windows_BTK, one_BT1], 2) @ torch.cat([first_BKC, shift_B1C], 1)
        for place in range(len(self.convs)):
            if place:
                hidden_BTC = self.products[place - 1](hidden_BTC)
            if self.config.conv_norm == "layer":
                hidden_BTC = self.norms[place](hidden_BTC)
            hidden_BTC = ACTIVATIONS[self.config.activation](hidden_BTC)
        return hidden_BTC


class GraphLogMel(LogMelFrontend):
    """Whisper's front-end; the spectrum stays in float64."""

    def prepare(self, for_integers: bool) -> None:
        del for_integers
        self.products = nn.ModuleList(WindowProduct(conv) for conv in (self.conv1, self.conv2))

    def _frames(self, own_BN: Tensor, count: int) -> Tensor:
        unit = math.gcd(WINDOW, MEL_HOP)  # frames and their distance are whole numbers of it
        units_BUN = own_BN[:, : (count - 1) * MEL_HOP + WINDOW].unflatten(1, (-1, unit))  # type: ignore[no-untyped-call]
        return windows(units_BUN, WINDOW // unit, MEL_HOP // unit)

    def _convolve(self, mel_BPM: Tensor, mask_BP: Tensor | None) -> Tensor:
        hidden_BPD = F.gelu(self.products[0](F.pad(mel_BPM, (0, 0, 1, 1))))
        hidden_BPD = zero_padding(hidden_BPD, mask_BP)
        hidden_BTD: Tensor = F.gelu(self.products[1](F.pad(hidden_BPD, (0, 0, 1, 1))))
        return hidden_BTD


# A kind of front-end → its form in a graph, a subclass with a method ``prepare``. Others are exported as they are.
FORMS: dict[type[AudioFrontend], type[AudioFrontend]] = {Frontend: GraphFrontend, LogMelFrontend: GraphLogMel}


class Product(nn.Module):
    """``nn.Linear`` whose weight is stored in the layout of the product."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.weight_IO = nn.Parameter(weight_OI.detach().T.contiguous(), requires_grad=False)
        self.bias = bias_O

    @property
    def weight(self) -> Tensor:
        return self.weight_IO.T

    def forward(self, hidden: Tensor) -> Tensor:
        output = hidden @ self.weight_IO
        return output if self.bias is None else output + self.bias


class WindowProduct(nn.Module):
    """``nn.Conv1d`` without padding, channels last, as one linear layer."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        self.product = Product(conv.weight.transpose(1, 2).flatten(1), conv.bias)

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        output: Tensor = self.product(windows(hidden_BTC, self.kernel, self.stride))
        return output


class PositionProduct(nn.Module):
    """The positional convolution over ``[B, T, D]`` as one product for each of its groups G."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.kernel, self.groups, self.stride = conv.kernel_size[0], conv.groups, conv.stride[0]
        weight_GOIK = conv.weight.detach().unflatten(0, (conv.groups, -1))  # type: ignore[no-untyped-call]
        self.weight_GIO = nn.Parameter(weight_GOIK.transpose(2, 3).flatten(2).transpose(1, 2).contiguous(), False)
        self.bias = conv.bias

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        frames, sides = hidden_BTD.shape[1], (self.kernel // 2, (self.kernel - 1) // 2)
        input_BGTI = F.pad(hidden_BTD, (0, 0, *sides)).unflatten(2, (self.groups, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
        count = frames // self.stride
        taps = torch.arange(count)[:, None] * self.stride + torch.arange(self.kernel)
        windows_BGTI = input_BGTI.index_select(2, taps.flatten()).unflatten(2, (count, self.kernel)).flatten(3)
        output_BTD = (windows_BGTI @ self.weight_GIO).transpose(1, 2).flatten(2)
        return output_BTD if self.bias is None else output_BTD + self.bias  # type: ignore[no-any-return]


def windows(hidden_BTC: Tensor, kernel: int, stride: int) -> Tensor:
    """``[B, T, C]`` → ``[B, T', kernel · C]``: the inputs of each output of a convolution, tap by tap.

    Each full stride of taps is only a view: consecutive rows.
    """
    count = (hidden_BTC.shape[1] - kernel) // stride + 1
    parts = []
    for tap in range(0, kernel, stride):
        if tap + stride <= kernel:
            parts.append(hidden_BTC[:, tap : tap + stride * count].unflatten(1, (count, stride)).flatten(2))  # type: ignore[no-untyped-call]
        else:
            parts += [hidden_BTC[:, one : one + stride * (count - 1) + 1 : stride] for one in range(tap, kernel)]
    return torch.cat(parts, 2) if len(parts) > 1 else parts[0]


def hiding_padding(query: Tensor, key: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Add a feature to queries and keys whose product hides the keys outside ``mask``, which is broadcast."""
    score = torch.where(mask, 0.0, PADDING_SCORE).to(key.dtype).expand_as(key[..., :1])
    return torch.cat([query, torch.ones_like(query[..., :1])], -1), torch.cat([key, score], -1)


class GraphAttention(Attention):
    """Self-attention with one product for query, key and value."""

    def fuse(self) -> None:
        parts = (self.q_proj, self.k_proj, self.v_proj)
        self.width = self.q_proj.out_features  # of all heads together; less than D where some were left out
        self.qkv = Product(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
        del self.q_proj, self.k_proj, self.v_proj

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        query_BTD, key_BTD, value_BTD = self.qkv(hidden_BTD).split(self.width, -1)
        return self._attend(self._heads(query_BTD), self._heads(key_BTD), self._heads(value_BTD), mask_BT)

    def _attend(self, query_BHTE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, mask_BS: Tensor | None) -> Tensor:
        query_BHTE = query_BHTE * query_BHTE.shape[-1] ** -0.5
        if mask_BS is not None:
            query_BHTE, key_BHSE = hiding_padding(query_BHTE, key_BHSE, mask_BS[:, None, :, None])
        attended_BHTE = (query_BHTE @ key_BHSE.transpose(2, 3)).softmax(-1) @ value_BHSE
        output_BTD: Tensor = self.out_proj(attended_BHTE.transpose(1, 2).flatten(2))
        return output_BTD


class RuntimeAttention(GraphAttention):
    """The same with ONNX Runtime's operator, tile by tile: a third faster for 15 s, and without memory for [T, T]."""

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        query_BTD, key_BTD, value_BTD = self.qkv(hidden_BTD).split(self.width, -1)
        query_BTHE = query_BTD.unflatten(-1, (self.num_heads, -1))
        key_BTHE = key_BTD.unflatten(-1, (self.num_heads, -1))
        query_BTHE = query_BTHE * query_BTHE.shape[-1] ** -0.5
        if mask_BT is not None:
            # With a mask, the operator would allocate [T, T] after all.
            query_BTHE, key_BTHE = hiding_padding(query_BTHE, key_BTHE, mask_BT[:, :, None, None])
        attended_BTD = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            (query_BTHE.flatten(2), key_BTHE.flatten(2), value_BTD),
            {"num_heads": self.num_heads, "scale": 1.0},
            dtype=value_BTD.dtype,
            shape=value_BTD.shape,
            version=1,
        )
        output_BTD: Tensor = self.out_proj(attended_BTD)
        return output_BTD
