"""SEW (arXiv 2109.06870): wav2vec 2.0's layers over half as many frames, one every 40 ms."""

import re

from transformers import SEWModel

from gdist.stages.teachers.base import Names, Teacher

# The LayerNorm before the projection is the model's own, and the projection is a layer without a norm.
SEW_FRONTEND_NAMES: Names = (
    (re.compile(r"layer_norm\."), "feature_norm."),
    (re.compile(r"feature_projection\."), "projection."),
    *(row for row in Teacher.frontend_names if "feature_projection" not in row[0].pattern),
)


class SEWTeacher(Teacher):
    """Hugging Face's own layers. What it computes from the last one, at twice the rate, is not a hidden state."""

    model_class = SEWModel
    used = (
        "feature_extractor.conv_layers.", "layer_norm.", "feature_projection.", "encoder.pos_conv_embed.",
        "encoder.layer_norm.", "encoder.layers.",
    )  # fmt: skip
    identity_fields = (*Teacher.identity_fields, "squeeze_factor")
    frontend_names = SEW_FRONTEND_NAMES
