"""The JSON documents of a run, as they are read back: a damaged one is named before anything of it is used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdist.pipeline.errors import RunError

type Needs = Mapping[str, type | tuple[type, ...]]
"""Fields that a document must have, and of which types their values are."""


def read_document(path: Path, needs: Needs, hint: str | None = None) -> dict[str, Any]:
    """Read a document that gdist wrote.

    Args:
        hint: what to type where it is damaged.

    Raises:
        RunError: it is missing, cannot be read, or lacks something; the message says what is wrong with it.
    """
    try:
        document = json.loads(path.read_bytes().decode())
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing", hint) from error
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}", hint) from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {_what_is_wrong(path, error)}", hint) from error
    if wrong := mismatch(document, needs):
        raise RunError(f"{path} is damaged: {wrong}", hint)
    found: dict[str, Any] = document
    return found


def mismatch(document: Any, needs: Needs) -> str:
    """What a document lacks of what it must have; nothing if all is there."""
    if not isinstance(document, dict):
        return f"it contains {document!r:.40}, which is no table"
    for name, kinds in needs.items():
        if name not in document:
            return f"it lacks {name}"
        if not isinstance(document[name], kinds) or isinstance(document[name], bool):
            return f"its {name} is {document[name]!r:.40}"
    return ""


def _what_is_wrong(path: Path, error: Exception) -> str:
    """What is wrong with the content of a file, in the words of people who did not write its parser."""
    content = path.read_bytes()
    if not content:
        return "it is empty"
    if not content.strip(b"\0"):
        return "it contains only zeros"
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"it is not whole ({error})"
