"""Paths in a manifest: relative to its folder, absolute, or a URI."""

import os
from pathlib import Path

from gdist.pipeline.storage.locations import join
from gdist.pipeline.storage.paths import Place, RemotePath, is_uri


def folder_of(manifest: Place) -> str:
    """Return the folder that the relative paths of a manifest start from: absolute, or a URI."""
    return str(manifest.parent) if isinstance(manifest, RemotePath) else str(manifest.parent.resolve())


def resolved(path: str, root: str) -> str:
    """Return a path of a manifest in the folder ``root`` as an absolute path or a URI."""
    path = path.removeprefix("file://")
    if is_uri(root) and not is_uri(path) and not Path(path).is_absolute():
        return join(root, path)
    return path if is_uri(path) else os.path.normpath(os.path.join(root, path))  # noqa: PTH118


def relative_to(root: str, path: str) -> str:
    """Return ``path`` (absolute, or a URI) relative to ``root``, if both are in one bucket or on this machine."""
    if is_uri(root):
        return path.removeprefix(f"{root}/")
    return path if is_uri(path) else os.path.relpath(path, root)


def moved_to(root: str, path: str, before: str) -> str:
    """Return a path of a manifest in ``before`` for one in ``root``: absolute paths stay as they are."""
    whole = is_uri(path) or Path(path).is_absolute()
    return path if whole else relative_to(root, resolved(path, before))
