"""The JSON documents of a run, as they are read back: a damaged one is named before anything of it is used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from gdist.pipeline.errors import RunError
from gdist.pipeline.files import content_of, reason
from gdist.pipeline.run.schema import DOCUMENT_BYTES
from gdist.pipeline.schema import SchemaError, conform, parse


def read_document(path: Path, schema: type, hint: str | None = None, measured: bool = False) -> dict[str, Any]:
    """Read a document that gdist wrote.

    Args:
        hint: what to type where it is damaged.
        measured: whether its numbers were measured; see :func:`gdist.pipeline.schema.parse`.

    Raises:
        RunError: it is missing, cannot be read, or is not as its schema says; the message says what is wrong.
    """
    try:
        document = parse(content_of(path, DOCUMENT_BYTES), measured)
        return cast("dict[str, Any]", conform(document, schema))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing", hint) from error
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}", hint) from error
    except SchemaError as error:
        raise RunError(f"{path} is damaged: {error}", hint) from error


def text_of(document: Mapping[str, Any], schema: type) -> str:
    """A document as it is written; RunError where it could not be read again."""
    try:
        text = json.dumps(document, indent=2)
        conform(parse(text.encode()), schema)
    except (SchemaError, UnicodeEncodeError) as error:
        raise RunError(f"cannot record where the run comes from: {error}") from error
    return text
