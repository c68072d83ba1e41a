"""Caches that were copied with a change that no extraction gives: only another copy makes their bytes again."""

import shlex
from collections.abc import Mapping
from typing import Any

from gdist.pipeline.errors import CacheMismatchError
from gdist.pipeline.storage.locations import in_shell


def require_extracted(uri: str, gdist: Mapping[str, Any], attempt: str) -> None:
    """Raise CacheMismatchError where a teacher would not give the cache's bytes.

    Args:
        gdist: the root document's description.
        attempt: what the teacher was to run for, the message's first words.
    """
    if "copied" not in gdist["identity"]:
        return
    about = gdist["about"]
    source, options = about.get("copied_from", "SRC"), about.get("copied_options", "")
    # A cache's text is data: every word of the command is quoted, whatever somebody wrote there.
    command = f"gdist copy {in_shell(source)} {in_shell(uri)} {shlex.join(shlex.split(options))}"
    raise CacheMismatchError(
        f"cannot {attempt} {uri}: it was copied from {source} ({options}), and the teacher would not give the same "
        "bytes",
        f"{command} (writes what is missing or damaged)",
    )
