"""SEW-D (arXiv 2109.06870): SEW with DeBERTa's disentangled attention (arXiv 2006.03654).

Axes: B batch, T frames, D features, P buckets of relative positions.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import SEWDModel
from transformers.models.sew_d.modeling_sew_d import build_relative_position

from gdist.pipeline.errors import TeacherError
from gdist.stages.teachers.base import Names, Teacher
from gdist.stages.teachers.sew import SEW_FRONTEND_NAMES

_LAYER_NAMES: Names = (
    (re.compile(r"attention\.self\.(query|key|value)_proj\."), r"attention.\1_proj."),
    (re.compile(r"attention\.output\.dense\."), "attention.out_proj."),
    (re.compile(r"attention\.output\.LayerNorm\."), "layer_norm."),
    (re.compile(r"intermediate\.dense\."), "feed_forward.intermediate_dense."),
    (re.compile(r"output\.dense\."), "feed_forward.output_dense."),
    (re.compile(r"output\.LayerNorm\."), "final_layer_norm."),
)
_SHORT = {"query": "q", "key": "k", "value": "v"}


class Shared(NamedTuple):
    """What all layers of a batch share: the mask ``[B, 1, 1, T]`` and the buckets ``[1, T, T]`` of distances."""

    mask_B11T: Tensor
    buckets_1TT: Tensor | None


class SEWDTeacher(Teacher):
    """Hugging Face's own layers, with the embeddings of relative positions that they share."""

    model_class = SEWDModel
    attention = "eager"  # the only one it has
    used = (
        "feature_extractor.conv_layers.", "layer_norm.", "feature_projection.", "encoder.pos_conv_embed.",
        "encoder.encoder.",
    )  # fmt: skip
    identity_fields = (
        *Teacher.identity_fields, "squeeze_factor", "feature_layer_norm_eps", "relative_attention", "pos_att_type",
        "share_att_key", "norm_rel_ebd", "position_buckets", "max_relative_positions", "max_position_embeddings",
    )  # fmt: skip
    frontend_names = SEW_FRONTEND_NAMES
    layer_names = _LAYER_NAMES

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        if config.get("conv_kernel_size"):
            raise TeacherError(
                "This SEW-D has a convolution after its first layer (conv_kernel_size), which is in no hidden state "
                "that transformers gives.",
                hint="Use a checkpoint without it; the published ones, asapp/sew-d-…, have none.",
            )
        return config

    @classmethod
    def blocks(cls, model: Any) -> tuple[Any, Any]:
        return model.encoder.encoder.layer, None

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        embeddings_PD = model.encoder.encoder.get_rel_embedding()
        self._embeddings_PD = None if embeddings_PD is None else embeddings_PD.detach().to(self.device)

    def prepare(self, num_frames: int, mask_BT: Tensor | None) -> Shared:
        if mask_BT is None:
            mask_BT = torch.ones(1, num_frames, dtype=torch.bool, device=self.device)
        buckets_1TT = None
        if self._embeddings_PD is not None:
            farthest = self.config.get("max_relative_positions", -1)
            buckets_1TT = build_relative_position(
                num_frames,
                num_frames,
                bucket_size=self.config.get("position_buckets", -1),
                max_position=farthest if farthest >= 1 else self.config["max_position_embeddings"],
                device=self.device,
            )
        return Shared(mask_BT[:, None, None], buckets_1TT)

    def run_layer(self, layer: Any, hidden_BTD: Tensor, shared: Shared) -> Tensor:
        hidden: Tensor = layer(
            hidden_BTD, shared.mask_B11T, relative_pos=shared.buckets_1TT, rel_embeddings=self._embeddings_PD
        )
        return hidden

    def layer_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without positions, as for WavLM. Scores are divided by √(E · terms), and a student's by √E alone."""
        terms = 1 + len({"c2p", "p2c"} & set(self.config.get("pos_att_type") or ()))
        tensors = super().layer_state(state)
        for long, short in _SHORT.items():
            for part in ("weight", "bias"):
                tensor = tensors.pop(f"attention.{long}_proj.{part}")
                tensors[f"attention.{short}_proj.{part}"] = tensor * terms**-0.5 if long == "query" else tensor
        return tensors
