"""A student's folder, whoever wrote it: its config and the shapes of its weights are checked before modules are made
and filled. No code in it is run, and none is fetched.

What from_pretrained would follow of a config (kernels from the Hub, quantizers) is refused by name. ``auto_map``, by
which gdist's own exports tell others where their code is, is not followed.
"""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from gdist.pipeline.files import content_of, regular
from gdist.pipeline.run.schema import DOCUMENT_BYTES
from gdist.pipeline.schema import SchemaError, parse
from gdist.stages.teacher_config import require_plain

REFUSED = ("peft_config", "base_model_name_or_path")
# What Python, torch, transformers and huggingface_hub raise for a damaged config or damaged weights.
LOADING_FAILS = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, ImportError, ArithmeticError),
    *(AssertionError, MemoryError, SafetensorError, StrictDataclassError),
)
DTYPES = (None, "float32", "float16", "bfloat16", "float64")


def config_fields(folder: Path) -> dict[str, Any]:
    """The fields of a student's config.json.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or has what gdist does not follow.
    """
    try:
        fields: dict[str, Any] = parse(content_of(folder / "config.json", DOCUMENT_BYTES))
    except SchemaError as error:
        raise ValueError(f"config.json is damaged: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("model_type"), str):
        raise ValueError("config.json names no model_type")
    try:
        require_plain(fields)
    except SchemaError as error:
        raise ValueError(f"config.json cannot be used: {error}") from error
    if followed := next((name for name in REFUSED if fields.get(name) is not None), None):
        raise ValueError(f"config.json has {followed}, which gdist does not follow")
    for name in ("dtype", "torch_dtype"):
        if fields.get(name) not in DTYPES:
            raise ValueError(f"config.json has {name} = {fields[name]!r:.60}; it must be one of float32, float16 …")
    return fields


def require_weights(folder: Path, model_class: type[PreTrainedModel], config: Any) -> None:
    """Compare the names and shapes in model.safetensors with what the config makes, before any of it is allocated.

    Raises:
        OSError: the file cannot be read.
        ValueError: a tensor is missing, or has another shape or kind.
        SafetensorError: it is damaged.
    """
    path = folder / "model.safetensors"
    regular(path).close()
    with torch.device("meta"):
        wanted = model_class(config).state_dict()
    prefix = f"{model_class.base_model_prefix}."
    with safe_open(path, "pt") as file:
        found = {name.removeprefix(prefix): name for name in file.keys()}  # noqa: SIM118  not a dictionary
        for name, tensor in wanted.items():
            if name not in found:
                raise ValueError(f"model.safetensors lacks {name}")
            stored = file.get_slice(found[name])
            if list(stored.get_shape()) != list(tensor.shape):
                raise ValueError(f"{name} in model.safetensors is {stored.get_shape()}, not {list(tensor.shape)}")
            if stored.get_dtype() not in ("F32", "F16", "BF16", "F64"):
                raise ValueError(f"{name} in model.safetensors is {stored.get_dtype()}, not floating point")
