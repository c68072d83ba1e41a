"""Where manifests and audio are: a path on this machine, or an object in a bucket that has the same methods."""

import io
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from gdist.pipeline.errors import UsageError
from gdist.pipeline.storage.locations import Location, join, local_path, scheme_of
from gdist.pipeline.storage.objects import Storage


def is_uri(path: str) -> bool:
    """Whether ``path`` names an object in a store (``s3://…``, ``gs://…``) rather than a local file."""
    return scheme_of(path) != "file"


@lru_cache(maxsize=64)
def _storage(root: str) -> Storage:
    return Storage(root)


@dataclass(frozen=True)
class RemotePath:
    """An object in a bucket, or everything below a "folder" of it: as much of pathlib.Path as manifests need.

    Attributes:
        root: the bucket, ``s3://BUCKET``.
        key: the object's key, without a leading slash.
    """

    root: str
    key: PurePosixPath

    @classmethod
    def parse(cls, uri: str) -> "RemotePath":
        """Parse ``s3://BUCKET/a/b`` into bucket and key; UsageError where they cannot be kept as typed."""
        location = Location.parse(uri)
        return cls(location.root, PurePosixPath(location.key))

    def __str__(self) -> str:
        return self.root if self.key == PurePosixPath() else f"{self.root}/{self.key}"

    def __truediv__(self, below: str | PurePosixPath) -> "RemotePath":
        return RemotePath.parse(join(str(self), str(below)))

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def suffix(self) -> str:
        return self.key.suffix

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.root, self.key.parent)

    @property
    def parents(self) -> "list[RemotePath]":
        return [RemotePath(self.root, parent) for parent in self.key.parents]

    def with_name(self, name: str) -> "RemotePath":
        return RemotePath(self.root, self.key.with_name(name))

    def with_suffix(self, suffix: str) -> "RemotePath":
        return RemotePath(self.root, self.key.with_suffix(suffix))

    def relative_to(self, other: "RemotePath") -> PurePosixPath:
        return self.key.relative_to(other.key)

    @cached_property  # detecting the kind of a source and reading it need the same listing
    def files(self) -> "list[RemotePath]":
        """Every object below, in the order in which a folder is walked: a folder's own files come first."""

        def as_walked(key: PurePosixPath) -> list[tuple[bool, str]]:
            return [(True, part) for part in key.parts[:-1]] + [(False, key.name)]

        folder = "" if self.key == PurePosixPath() else str(self.key)
        keys = sorted(map(PurePosixPath, _storage(self.root).objects(folder)), key=as_walked)
        return [RemotePath(self.root, key) for key in keys if key != self.key]

    def is_dir(self) -> bool:
        return bool(self.files)

    def is_file(self) -> bool:
        if self.key == PurePosixPath():  # the bucket itself
            return False
        try:
            self.read_part(0, 1)
        except FileNotFoundError:
            return False
        return True

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        return _storage(self.root).get(self._object)

    def read_part(self, start: int, length: int) -> tuple[memoryview, int]:
        """Return a range of the bytes, and the size of the whole object."""
        return _storage(self.root).get_part(self._object, start, length)

    def write_bytes(self, data: bytes) -> None:
        _storage(self.root).put(self._object, data)

    @property
    def _object(self) -> str:
        if self.key == PurePosixPath():
            why = f"cannot read or write {self.root}: it names a bucket, and no object in it"
            raise UsageError(why, f"give the object's name too: {self.root}/PATH")
        return str(self.key)

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        return io.BytesIO(self.read_bytes())


type Place = Path | RemotePath


def place(path: "str | Place") -> Place:
    """Turn a path or a URI into something that can be read."""
    if isinstance(path, str):
        return RemotePath.parse(path) if is_uri(path) else local_path(path)
    return path
