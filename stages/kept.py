"""`gdist local`: what the local folder has of which caches, and clearing it."""

from typing import Any

from gdist.pipeline import console
from gdist.pipeline.errors import EXIT_OK, UsageError
from gdist.pipeline.local.folder import Kept, LocalFolder
from gdist.pipeline.storage.locations import in_shell


def local_command(local: LocalFolder | None, clear: tuple[str, ...], clear_all: bool, as_json: bool) -> int:
    """List what is kept, after clearing what was asked for."""
    if local is None:
        raise UsageError(
            "which folder is meant? Neither --local nor GDIST_LOCAL names one", "gdist local --local /nvme"
        )
    kept = local.caches()
    chosen = [found for found in kept if clear_all or _uri(found) in clear or found.name in clear]
    unknown = set(clear) - {_uri(found) for found in chosen} - {found.name for found in chosen}
    if unknown:
        known = ", ".join(_uri(found) for found in kept) or "nothing"
        raise UsageError(
            f"nothing is kept of {', '.join(sorted(unknown))} in {local.path} (there is: {known})",
            f"gdist local --local {in_shell(local.path)}",
        )
    shards, size = local.clear([found.name for found in chosen]) if chosen else (0, 0)
    kept = local.caches()
    if as_json:
        cleared = {"shards": shards, "bytes": size}
        console.emit({"folder": str(local.path), "cleared": cleared, "caches": [_row(found) for found in kept]})
        return EXIT_OK
    if clear or clear_all:
        console.say(f"cleared {shards:,} shards, {console.size(size)}", style="green")
    rows = [
        [
            _uri(found),
            str(found.note.get("teacher") or "–"),
            f"{found.shards:,}",
            console.size(found.bytes),
            f"{found.note.get('used_by', '–')}, {found.note.get('used_at', '–')}",
        ]
        for found in kept
    ]
    total = console.size(sum(found.bytes for found in kept))
    console.print_table(f"kept in {local.path}: {total}", ["cache", "teacher", "shards", "size", "last used"], rows)
    return EXIT_OK


def _uri(found: Kept) -> str:
    """Return the cache's location; its folder's name where that is not known."""
    return str(found.note.get("uri") or found.name)


def _row(found: Kept) -> dict[str, Any]:
    return {
        "cache": _uri(found),
        "teacher": found.note.get("teacher"),
        "shards": found.shards,
        "bytes": found.bytes,
        "used_by": found.note.get("used_by"),
        "used_at": found.note.get("used_at"),
    }
