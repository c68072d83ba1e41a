"""One evaluation, as it is read and written."""

import json
import math
from pathlib import Path
from typing import Any

from gdist.pipeline.errors import RunError
from gdist.pipeline.run.documents import read_document, text_of
from gdist.pipeline.run.evaluated import Complete, Evaluated, References
from gdist.pipeline.schema import SchemaError, conform, parse

Evaluation = dict[str, Any]
"""What `gdist eval --json` prints, with the probes that were run before. Older ones do not say of which weights."""


def read_evaluation(path: Path, hint: str | None = None) -> Evaluation:
    """Read one.

    Args:
        hint: what to type where it is damaged.

    Raises:
        RunError: it is missing, cannot be read, or is not as it should be.
    """
    found = read_document(path, Evaluated, hint, measured=True)
    try:
        _require_coherent(found)
    except SchemaError as error:
        raise RunError(f"{path} is damaged: {error}", hint) from error
    return found


def as_read(result: Evaluation) -> Evaluation:
    """One as it will be read; RunError where it could not be."""
    try:
        found: Evaluation = parse(json.dumps(result).encode(), measured=True)
        conform(found, Evaluated)
        _require_coherent(found)
    except SchemaError as error:
        raise RunError(f"the evaluation cannot be kept: {error}") from error
    return found


def text_of_evaluation(evaluation: Evaluation) -> str:
    """One as it is written."""
    return text_of("the evaluation", evaluation, Evaluated, measured=True)


def _require_coherent(found: Evaluation) -> None:
    """Raise SchemaError where its parts contradict each other."""
    if "weights" in found:
        conform(found, Complete)
    rows = found["layers"]
    layers = [row["layer"] for row in rows]
    if layers != sorted(set(layers)):
        raise SchemaError("its layers do not ascend")
    is_finite, are_finite = math.isfinite(found["mean_cosine"]), all(map(_is_finite, rows))
    if is_finite and not are_finite:
        raise SchemaError("its mean_cosine is a finite number, and those of its layers are not")
    if are_finite and not is_finite:
        raise SchemaError("its mean_cosine is not a finite number, and those of its layers are")
    for name in References.__annotations__:
        if not all(map(_is_finite, (found.get("references") or {}).get(name, []))):
            raise SchemaError(f"its references.{name} has numbers that are not finite")


def _is_finite(row: dict[str, float]) -> bool:
    return math.isfinite(row["cosine"]) and math.isfinite(row["relative_error"])
