"""Exports: a finished student in a form that another tool can load.

To add a format, write one file here with what ``base.Format`` requires, and add its row to ``FORMATS``. The
conformance tests run over the table. ``gdist export --help`` reads it, so nothing heavy is imported here.
"""

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from gdist.stages.export.formats.base import Format

__all__ = ["FORMATS", "format_named"]

FORMATS: dict[str, str] = {
    "hf": "a folder for transformers' AutoModel.from_pretrained, with its code and a model card",
    "s3prl": "an upstream for s3prl and torch.hub, which needs no transformers",
    "onnx": "a file for ONNX Runtime, without torch, in float32, float16 or int8",
}


def format_named(name: str) -> "Format":
    """Return the module of a format, which is only imported now."""
    return cast("Format", importlib.import_module(f"gdist.stages.export.formats.{name}"))
