"""A teacher's config, whoever wrote it: what shapes the model, and what nobody follows who only wants its weights.

It is checked before transformers reads it, which believes what a config says: that a million layers are to be made,
that code or a kernel is to be fetched, or what its own methods are.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta
from transformers import PreTrainedConfig

from gdist.pipeline.cache.schema import MAX_WIDTH
from gdist.pipeline.schema import SchemaError, Word, conform

Size = Annotated[int, Meta(ge=1, le=MAX_WIDTH)]
SizeOrNone = Annotated[int, Meta(ge=0, le=MAX_WIDTH)] | None
Sizes = Annotated[list[Size], Meta(min_length=1, max_length=64)]
Layers = Annotated[int, Meta(ge=1, le=256)]  # published are up to 48; a module is made of each, several times
Heads = Annotated[int, Meta(ge=1, le=1024)]
Inner = Annotated[int, Meta(ge=1, le=1 << 17)]
Small = Annotated[float, Meta(gt=0, le=1)]
Distance = Annotated[int, Meta(ge=-1, le=1 << 20)]
Words = Annotated[list[Word], Meta(max_length=64)]
Floating = Literal["float32", "float16", "bfloat16", "float64"] | None


class TeacherConfig(TypedDict, total=False):
    """What of a config shapes a model of any family, or a student of it; it has many other fields."""

    model_type: Word
    hidden_size: Size
    d_model: Size
    intermediate_size: Inner
    encoder_ffn_dim: Inner
    num_hidden_layers: Layers
    encoder_layers: Layers
    num_attention_heads: Heads
    encoder_attention_heads: Heads
    hidden_act: Word
    activation_function: Word
    do_stable_layer_norm: bool
    do_normalize: bool
    final_norm: bool
    layer_norm_eps: Small
    feature_layer_norm_eps: Small
    conv_dim: Sizes
    conv_kernel: Sizes
    conv_stride: Sizes
    conv_bias: bool
    conv_pos_kernel_size: Size
    conv_pos_batch_norm: bool
    num_feat_extract_layers: Annotated[int, Meta(ge=1, le=64)]
    feat_extract_norm: Word
    feat_extract_activation: Word
    feat_proj_layer_norm: bool
    num_conv_pos_embeddings: Size
    num_conv_pos_embedding_groups: Size
    num_buckets: Annotated[int, Meta(ge=4, le=MAX_WIDTH)]
    max_bucket_distance: Annotated[int, Meta(ge=2, le=1 << 20)]
    squeeze_factor: Annotated[int, Meta(ge=1, le=64)]
    num_mel_bins: Annotated[int, Meta(ge=1, le=1024)]
    max_source_positions: Size
    window: Word
    stride: Annotated[int, Meta(ge=1, le=64)]
    feature_projection_input_dim: Size
    position_embeddings_type: Word | None
    rotary_embedding_base: Annotated[float, Meta(ge=1, le=1e12)]
    left_max_position_embeddings: Annotated[int, Meta(ge=0, le=MAX_WIDTH)]
    right_max_position_embeddings: Annotated[int, Meta(ge=0, le=MAX_WIDTH)]
    conv_depthwise_kernel_size: Size
    position_buckets: Distance
    max_relative_positions: Distance
    max_position_embeddings: Size
    relative_attention: bool
    share_att_key: bool
    pos_att_type: Word | Words | None
    norm_rel_ebd: Word | None
    conv_kernel_size: SizeOrNone
    adapter_attn_dim: SizeOrNone
    num_adapter_layers: Annotated[int, Meta(ge=0, le=64)]
    add_adapter: bool | None
    dtype: Floating
    torch_dtype: Floating


# Fields that choose how attention is computed, perhaps by a kernel of the Hub; also with an underscore before.
CHOSEN = ("attn_implementation", "experts_implementation")
_KNOWN = (None, True, False, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
# Fields by which transformers fetches or makes something else than the model.
_FOLLOWED = (
    *("kernels", "use_kernels", "kernel_config", "fusion_config", "per_layer_config", "transformers_weights"),
    *("distributed_config", "quantization_config", "compression_config"),
)
# Names that mean something to a config itself: its methods, and what its class says of every config.
_OWN = {
    name for name in dir(PreTrainedConfig) if not isinstance(getattr(PreTrainedConfig, name), property)
} - {field.name for field in dataclasses.fields(PreTrainedConfig)} - {"model_type"}  # fmt: skip


def require_plain(fields: Mapping[str, Any]) -> None:
    """Raise SchemaError for a field by which transformers would do more than build a model of numbers."""
    for name, value in _everywhere(fields):
        chosen = name.lstrip("_").startswith(CHOSEN) and not any(value is known or value == known for known in _KNOWN)
        if chosen or (name in _FOLLOWED and value not in (None, False)):
            raise SchemaError(f"it has {name} = {value!r:.60}, which gdist does not follow")
    if own := next((name for name in fields if name in _OWN), None):
        raise SchemaError(f"it has {own!r:.60}, which is a part of transformers and no field of a config")


def require_config(fields: Mapping[str, Any]) -> None:
    """Raise SchemaError for what is no config of a teacher, and for one whose model is code."""
    conform(fields, TeacherConfig)
    _require_buckets(fields)
    if fields.get("auto_map"):
        raise SchemaError("it has auto_map, by which its model is code of its own, and gdist runs no such code")
    require_plain(fields)


def _require_buckets(fields: Mapping[str, Any]) -> None:
    """Raise SchemaError where a distance has no bucket: a quarter of WavLM's buckets are for one distance each, and
    those beyond are for what lies between there and the largest distance."""
    defaults = {"num_buckets": 320, "max_bucket_distance": 800}  # transformers' own
    buckets, farthest = (fields.get(name, default) for name, default in defaults.items())
    if defaults.keys() & fields.keys() and farthest <= buckets // 4:
        raise SchemaError(f"its max_bucket_distance of {farthest} is within a quarter of its {buckets} num_buckets")


def _everywhere(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every field, and those of the tables inside."""
    tables = [fields]
    while tables:
        for name, value in tables.pop().items():
            yield str(name), value
            if isinstance(value, Mapping):
                tables.append(value)
