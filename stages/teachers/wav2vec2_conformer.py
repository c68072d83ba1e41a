"""wav2vec 2.0 with conformer blocks (arXiv 2010.05171, 2005.08100): rotary, relative or no positions in attention.

Each block's convolution reaches into the frames beside its own, so frames of padding are zero before it. Hugging
Face leaves in them what the norm before the convolution makes of them: that changes an utterance's last frames.

Axes: B batch, T frames, D features.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2ConformerModel

from gdist.stages.frontend.norms import Scale
from gdist.stages.frontend.padding import zero_padding
from gdist.stages.teachers.base import Teacher
from gdist.stages.teachers.conformer import ConformerTeacher, depthwise


class Wav2Vec2ConformerTeacher(ConformerTeacher):
    """There is no positional convolution."""

    model_class = Wav2Vec2ConformerModel
    used = (
        "feature_extractor.conv_layers.", "feature_projection.", "encoder.embed_positions.", "encoder.layer_norm.",
        "encoder.layers.",
    )  # fmt: skip
    identity_fields = (
        *Teacher.identity_fields, "position_embeddings_type", "rotary_embedding_base", "conv_depthwise_kernel_size",
    )  # fmt: skip
    frontend_names = tuple(row for row in Teacher.frontend_names if "pos_conv_embed" not in row[0].pattern)

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        return config | {"do_stable_layer_norm": True}

    @classmethod
    def blocks(cls, model: Any) -> tuple[Any, Any]:
        layers, _ = super().blocks(model)
        for layer in layers:
            layer.conv_module.batch_norm = folded(layer.conv_module.batch_norm)
        return layers, model.encoder.layer_norm

    def convolve(self, module: Any, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """``Wav2Vec2ConformerConvolutionModule``, with features last."""
        gated_BTD = F.glu(module.pointwise_conv1(module.layer_norm(hidden_BTD)), dim=-1)
        gated_BDT = zero_padding(gated_BTD, mask_BT).transpose(1, 2)
        hidden_BTD = module.batch_norm(depthwise(module.depthwise_conv, gated_BDT).transpose(1, 2))
        output: Tensor = module.pointwise_conv2(module.activation(hidden_BTD))
        return output


@torch.no_grad()
def folded(norm: Any) -> Scale:
    """A batch norm whose statistics no longer change, as a scale and a shift for each feature."""
    scale = Scale(norm.num_features).to(norm.weight.device).requires_grad_(False)
    scale.weight.copy_(norm.weight * (norm.running_var + norm.eps).rsqrt())
    scale.bias.copy_(norm.bias - norm.running_mean * scale.weight)
    return scale.eval()
