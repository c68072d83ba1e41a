"""The JSON documents of a run, as they are read back: a damaged one is named before anything of it is used.

Each is sealed: its ``checksum`` is the SHA-256 of all the rest, so that a digit that changed on a disk is noticed. It
proves nothing about who wrote the document, and one without (older, or written by hand) is read as it is.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from gdist.pipeline.errors import RunError
from gdist.pipeline.files import content_of, reason
from gdist.pipeline.run.schema import DOCUMENT_BYTES
from gdist.pipeline.schema import SchemaError, conform, parse

CHECKSUM = "checksum"


def read_document(
    path: Path, schema: Any, hint: str | None = None, measured: bool = False, largest: int = DOCUMENT_BYTES
) -> dict[str, Any]:
    """Read a document that gdist wrote.

    Args:
        hint: what to type where it is damaged.
        largest: bytes that it may have.
        measured: whether its numbers were measured; see :func:`gdist.pipeline.schema.parse`.

    Raises:
        RunError: it is missing, cannot be read, or is not as its schema says; the message says what is wrong.
    """
    try:
        document = unsealed(content_of(path, largest), measured)
        return cast("dict[str, Any]", conform(document, schema))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing", hint) from error
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}", hint) from error
    except SchemaError as error:
        raise RunError(f"{path} is damaged: {error}", hint) from error


def text_of(name: str, document: Mapping[str, Any], schema: Any, measured: bool = False) -> str:
    """The document ``name`` as it is written, sealed; RunError where it could not be read again."""
    try:
        # As it will be read: what was measured of a student that diverged may be NaN then.
        known = parse(json.dumps(dict(document)).encode(), measured)
        conform(known, schema)
    except SchemaError as error:
        raise RunError(f"cannot write {name}: {error}") from error
    known.pop(CHECKSUM, None)
    return json.dumps(known | {CHECKSUM: _digest(known)}, indent=2)


def unsealed(data: bytes, measured: bool = False) -> Any:
    """Return what :func:`text_of` wrote, without its checksum.

    Raises:
        SchemaError: it is no JSON, or not what was written.
    """
    document = parse(data, measured)
    if isinstance(document, dict) and CHECKSUM in document and document.pop(CHECKSUM) != _digest(document):
        raise SchemaError("its content does not match its checksum")
    return document


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
