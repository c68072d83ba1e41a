"""What a power cut must not take: objects on a disk, once another object says that they are there."""

from collections.abc import Iterable

from gdist.pipeline.errors import CacheError
from gdist.pipeline.files import sync
from gdist.pipeline.storage.hints import SYSTEM
from gdist.pipeline.storage.objects import Storage


def make_durable(storage: Storage, keys: Iterable[str]) -> None:
    """Wait until objects and their names are on the disk. In a bucket they are safe once they are written.

    Raises:
        CacheError: the disk fails, or is full after all.
    """
    if storage.folder is None:
        return
    paths = [storage.folder / key for key in keys]
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(storage.folder)}
    for path in (*paths, *sorted(folders, reverse=True)):
        try:
            sync(path)
        except OSError as error:
            raise CacheError(f"cannot write {path}: {error.strerror}", SYSTEM.get(error.errno or 0)) from error
