"""What is directly below a place, without what is in the folders there: one level of a folder or a bucket."""

import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gdist.pipeline.storage import requests
from gdist.pipeline.storage.hub import require_lists
from gdist.pipeline.storage.locations import Location
from gdist.pipeline.storage.objects import Storage, _memory

Level = tuple[list[str], dict[str, dict[str, Any]]]
"""Folders by key; and objects, key → {size, last_modified}."""


def level(storage: Storage, prefix: str = "") -> Level:
    """List what is directly below ``prefix``. It takes a request per thousand of folders and objects there, whatever
    is in the folders. On a disk, links are followed.

    Raises:
        CacheError: it may not be listed, or the store does not answer.
    """
    require_lists(storage.uri)
    with storage._explained("list", prefix):
        if storage.folder is not None:
            return _on_disk(storage.folder, prefix)
        found = storage._repeat(requests.level(prefix))
    folders = [str(path).rstrip("/") for path in found["common_prefixes"]]
    return folders, {str(meta["path"]): dict(meta) for meta in found["objects"]}


def in_memory(uri: str) -> list[str]:
    """Return the locations below ``uri``, a location in memory: each is a store of its own."""
    at = Location.parse(uri)
    below = f"{at.key}/" if at.key else ""
    others = [each for each in _memory if each.bucket == at.bucket and each.key.startswith(below) and each != at]
    return [f"{each.root}/{each.key}" for each in others]


def _on_disk(folder: Path, prefix: str) -> Level:
    folders, objects = [], {}
    for path in (folder / prefix).iterdir():
        key = path.relative_to(folder).as_posix()
        with suppress(OSError):  # a link that leads nowhere
            about = path.stat()
            if stat.S_ISDIR(about.st_mode):
                folders.append(key)
            elif stat.S_ISREG(about.st_mode):
                objects[key] = {"size": about.st_size, "last_modified": datetime.fromtimestamp(about.st_mtime, UTC)}
    return folders, objects
