"""w2v-BERT 2.0 (arXiv 2312.05187): conformer layers over Kaldi's filter bank.

Every kind of position that ``Wav2Vec2BertConfig`` knows is read; published is ``relative_key``.

Axes: B batch, T frames, D features.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.frontend.interface import Config
from gdist.stages.teachers.base import Names, renamed
from gdist.stages.teachers.conformer import ConformerTeacher, depthwise

STRIDE = 2  # fbank frames that are stacked; the model's config does not name it


class Wav2Vec2BertTeacher(ConformerTeacher):
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
    def frontend_state(cls, model: Any, config: Config) -> dict[str, Tensor]:
        return renamed(model.state_dict(), cls.frontend_names)

    def convolve(self, module: Any, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """``Wav2Vec2BertConvolutionModule``, with features last."""
        hidden_BTD = F.glu(module.pointwise_conv1(module.layer_norm(hidden_BTD)), -1)
        hidden_BDT = F.pad(hidden_BTD.transpose(1, 2), (module.depthwise_conv.kernel_size[0] - 1, 0))
        hidden_BTD = depthwise(module.depthwise_conv, hidden_BDT).transpose(1, 2)
        output: Tensor = module.pointwise_conv2(module.activation(module.depthwise_layer_norm(hidden_BTD)))
        return output
