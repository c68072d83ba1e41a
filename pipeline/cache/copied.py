"""Caches that were copied with a change that no extraction gives: only another copy makes their bytes again."""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gdist.pipeline.errors import CacheMismatchError
from gdist.pipeline.storage.locations import in_shell


def command_of(uri: str, gdist: Mapping[str, Any]) -> str | None:
    """Return the command that makes a copied cache again; None where a teacher can do that.

    A cache's text is data: every word of the command is quoted, whatever somebody wrote there.

    Args:
        gdist: the root document's description.
    """
    if "copied" not in gdist["identity"]:
        return None
    about, options = gdist["about"], ["…"]
    with suppress(ValueError):  # a quote that is not closed: gdist did not write it
        options = shlex.split(about.get("copied_options", ""))
    return f"gdist copy {in_shell(about.get('copied_from', 'SRC'))} {in_shell(uri)} {shlex.join(options)}"


def require_extracted(uri: str, gdist: Mapping[str, Any], attempt: str) -> None:
    """Raise CacheMismatchError where a teacher would not give the cache's bytes.

    Args:
        gdist: the root document's description.
        attempt: what the teacher was to run for, the message's first words.
    """
    if command := command_of(uri, gdist):
        about = gdist["about"]
        source = f"{about.get('copied_from')} ({about.get('copied_options')})"
        raise CacheMismatchError(
            f"cannot {attempt} {uri}: it was copied from {source}, and a teacher would not give the same bytes",
            f"{command} (writes what is missing or damaged)",
        )
