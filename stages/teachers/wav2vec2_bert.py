"""w2v-BERT 2.0 (arXiv 2312.05187): conformer layers over Kaldi's filter bank.

Hugging Face's modules, around attention whose position bias is computed in pieces
(:mod:`gdist.stages.teachers.attention`). Every kind of position that ``Wav2Vec2BertConfig`` knows is read; published
is ``relative_key``.

Axes: B batch, T frames, R distances, D features, H heads, E features of a head.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.frontend.interface import Config
from gdist.stages.teachers.attention import (
    Apart,
    attend,
    attend_without_bias,
    by_projection,
    by_table,
    hidden_keys,
    over_own_frames,
    rotate,
    sinusoids,
    split_heads,
)
from gdist.stages.teachers.base import Names, Teacher, renamed

STRIDE = 2  # fbank frames that are stacked; the model's config does not name it


class Shared(NamedTuple):
    """What all layers of one batch share.

    Attributes:
        mask_BT: True for utterances' own frames.
        additive_BT: what attention adds for keys of padding, where that is not left out.
        sinusoids_RD: of every distance, for positions of type "relative".
    """

    mask_BT: Tensor | None
    additive_BT: Tensor | None
    sinusoids_RD: Tensor | None


class Wav2Vec2BertTeacher(Teacher):
    """Conformers with a causal convolution, so that padding after an utterance does not reach it."""

    model_class = Wav2Vec2BertModel
    attention = "eager"  # only the weights of its attention modules are used
    used = ("feature_projection.", "encoder.")
    identity_fields = (
        "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
        "layer_norm_eps", "feature_projection_input_dim", "stride", "position_embeddings_type",
        "rotary_embedding_base", "left_max_position_embeddings", "right_max_position_embeddings",
        "conv_depthwise_kernel_size",
    )  # fmt: skip
    frontend_names: ClassVar[Names] = (
        (re.compile(r"feature_projection\.layer_norm\."), "feature_norm."),
        (re.compile(r"feature_projection\.projection\."), "projection."),
    )
    layer_names: ClassVar[Names] = ()  # a conformer has no counterpart in a student
    may_normalize = False

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        full = Wav2Vec2BertConfig.from_dict(config).to_dict()  # a config.json may leave defaults out
        own = {field: full[field] for field in cls.identity_fields if field in full}
        # The feed-forward network before an adapter goes with it.
        return {**config, **own, "stride": STRIDE, "use_intermediate_ffn_before_adapter": False}

    @classmethod
    def check_preprocessor(cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> None:
        bands = config["feature_projection_input_dim"] // STRIDE
        expected = {
            "feature_extractor_type": "SeamlessM4TFeatureExtractor",
            "sampling_rate": SAMPLE_RATE,
            "num_mel_bins": bands,
            "stride": STRIDE,
        }
        usual = {"num_mel_bins": 80}
        for field, value in expected.items():
            # A preprocessor that is given, and leaves a field out, means its feature extractor's default.
            default = usual.get(field, value) if preprocessor else value
            if (found := preprocessor.get(field, default)) != value:
                raise ValueError(f"{field} is {found}; it must be {value}")

    @classmethod
    def blocks(cls, model: Any) -> tuple[Any, Any]:
        """With convolutions of one tap as the linear layers that they are: products without a copy."""
        for layer in model.encoder.layers:
            for name in ("pointwise_conv1", "pointwise_conv2"):
                setattr(layer.conv_module, name, _linear(getattr(layer.conv_module, name)))
        return model.encoder.layers, None

    @classmethod
    def frontend_state(cls, model: Any, config: Config) -> dict[str, Tensor]:
        return renamed(model.state_dict(), cls.frontend_names)

    def prepare(self, num_frames: int, mask_BT: Tensor | None) -> Shared:
        relative = self.config["position_embeddings_type"] == "relative"
        positions_RD = sinusoids(num_frames, self.dim, self.device) if relative else None
        return Shared(mask_BT, hidden_keys(mask_BT), positions_RD)

    def run_layer(self, layer: Any, hidden_BTD: Tensor, shared: Shared) -> Tensor:
        attention = layer.self_attn
        positions_HRE = None
        if shared.sinusoids_RD is not None:  # projected once for all utterances
            positions_HRE = split_heads(attention.linear_pos(shared.sinusoids_RD)[None], attention.num_heads)[0]

        def attended(whole_BTD: Tensor) -> Tensor:
            return self._attend(attention, whole_BTD, positions_HRE, shared.additive_BT)

        def convolved(whole_BTD: Tensor) -> Tensor:
            return convolve(layer.conv_module, whole_BTD)

        def run(hidden: Tensor, apart: Apart) -> Tensor:
            hidden = hidden + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden))
            hidden = hidden + apart(attended, layer.self_attn_layer_norm(hidden))
            hidden = hidden + apart(convolved, hidden)
            hidden = hidden + 0.5 * layer.ffn2(layer.ffn2_layer_norm(hidden))
            output: Tensor = layer.final_layer_norm(hidden)
            return output

        return over_own_frames(hidden_BTD, shared.mask_BT, run)

    def _attend(
        self, attention: Any, hidden_BTD: Tensor, positions_HRE: Tensor | None, additive_BT: Tensor | None
    ) -> Tensor:
        heads, kind = attention.num_heads, self.config["position_embeddings_type"]
        seen_BTD = hidden_BTD
        if kind == "rotary":
            seen_BTD = rotate(hidden_BTD, heads, self.config["rotary_embedding_base"])
        query_BHTE = split_heads(attention.linear_q(seen_BTD), heads)
        key_BHTE = split_heads(attention.linear_k(seen_BTD), heads)
        value_BHTE = split_heads(attention.linear_v(hidden_BTD), heads)
        scale = attention.head_size**-0.5
        if kind == "relative_key":
            left, right = attention.left_max_position_embeddings, attention.right_max_position_embeddings
            table_RE = attention.distance_embedding.weight
            bias = by_table(query_BHTE, table_RE, left, right, additive_BT, scale)
            output_BTD = attend(query_BHTE, key_BHTE, value_BHTE, bias)
        elif positions_HRE is not None:
            beyond = (positions_HRE.shape[1] + 1) // 2 - hidden_BTD.shape[1]
            near_HRE = positions_HRE[:, beyond : positions_HRE.shape[1] - beyond]
            bias_v, bias_u = (b[:, None].to(query_BHTE.dtype) for b in (attention.pos_bias_v, attention.pos_bias_u))
            bias = by_projection(query_BHTE + bias_v, near_HRE, additive_BT, scale)
            output_BTD = attend(query_BHTE + bias_u, key_BHTE, value_BHTE, bias)
        else:
            output_BTD = attend_without_bias(query_BHTE, key_BHTE, value_BHTE, additive_BT)
        output: Tensor = attention.linear_out(output_BTD)
        return output


def convolve(module: Any, hidden_BTD: Tensor) -> Tensor:
    """What ``Wav2Vec2BertConvolutionModule`` computes, with features last."""
    hidden_BTD = F.glu(module.pointwise_conv1(module.layer_norm(hidden_BTD)), -1)
    hidden_BDT = F.pad(hidden_BTD.transpose(1, 2), (module.depthwise_conv.kernel_size[0] - 1, 0))
    hidden_BTD = depthwise(module.depthwise_conv, hidden_BDT).transpose(1, 2)
    output: Tensor = module.pointwise_conv2(module.activation(module.depthwise_layer_norm(hidden_BTD)))
    return output


def depthwise(conv: nn.Conv1d, hidden_BDT: Tensor) -> Tensor:
    """A convolution of every channel by itself; on a CPU in float32 even under autocast. oneDNN's in bfloat16 has
    given wrong results on processors with AMX (see :class:`gdist.stages.frontend.convolutions.PositionConv`)."""
    if hidden_BDT.device.type != "cpu":
        output_BDT: Tensor = conv(hidden_BDT)
        return output_BDT
    with torch.autocast("cpu", enabled=False):
        exact_BDT: Tensor = conv(hidden_BDT.to(conv.weight.dtype))
        return exact_BDT.to(hidden_BDT.dtype)


def _linear(conv: nn.Conv1d) -> nn.Linear:
    """A convolution of one tap; this family's have no bias."""
    assert conv.bias is None
    linear = nn.Linear(conv.in_channels, conv.out_channels, bias=False)
    linear.weight = nn.Parameter(conv.weight[:, :, 0])
    return linear
