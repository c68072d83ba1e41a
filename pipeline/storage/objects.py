"""Where a cache's objects are: a folder, a bucket or memory, through obstore; and JSON documents with a seal.

Every write is one whole object: on disk a temporary file and a rename, in a bucket one put. Readers never see a
half-written object.
"""

import hashlib
import json
import os
import re
from collections.abc import Buffer, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, MemoryStore

from gdist.pipeline.errors import CacheDamagedError, CacheError
from gdist.pipeline.files import LINK_HINT, UnreadableError, link_below, make_folder, regular, require_size, walk
from gdist.pipeline.schema import parse
from gdist.pipeline.storage import requests
from gdist.pipeline.storage.buckets import Bucket, is_repeated
from gdist.pipeline.storage.failures import code_of, explain, first_line, is_missing_bucket, is_refused_range
from gdist.pipeline.storage.hints import SYSTEM, hint
from gdist.pipeline.storage.hub import is_read_only, require_lists, require_writable
from gdist.pipeline.storage.locations import S3, Location, folder_of, require_text, scheme_of
from gdist.pipeline.storage.patience import Patience
from gdist.pipeline.storage.requests import Request

_memory: dict[Location, MemoryStore] = {}  # memory://NAME names one store for the life of the process
_STAGED = re.compile(r"#\d+$")  # obstore's local store writes PATH#1 and renames it to PATH


class Storage:
    """The objects under one URI, by key. All failures are CacheErrors that name the key and the likely cause. What is
    ``read_only`` is a web server: nothing is written there, or listed. ``patience`` is the environment's if none is
    given."""

    def __init__(self, uri: str, create: bool = False, patience: Patience | None = None) -> None:
        self.uri = uri
        self.folder: Path | None = None
        self.bucket: Bucket | None = None
        self._scheme = scheme = scheme_of(uri)
        self.read_only = is_read_only(scheme)
        if create:
            require_writable(uri)
        with self._explained("open", ""):
            if scheme == "memory":
                self.store: Any = _memory.setdefault(Location.parse(uri), MemoryStore())
            elif scheme == "file":
                self.folder = folder_of(uri)
                if create:
                    require_text(uri)
                    make_folder(self.folder)
                elif not self.folder.is_dir():
                    raise OSError(0, "it is not a folder" if self.folder.exists() else "there is no such folder")
                self.store = LocalStore(self.folder)
            else:
                self.bucket = Bucket(uri, patience)
                self.store = self.bucket.reading

    def get(self, key: str, limit: int | None = None) -> bytes:
        """Return the whole object; FileNotFoundError when there is none, CacheDamagedError when it has more than
        ``limit`` bytes or is no file."""
        with self._explained("read", key, missing_is_fine=True):
            if self.folder is not None:
                with regular(self.folder / key) as file:
                    require_size(os.fstat(file.fileno()).st_size, limit)
                    return file.read()
            return bytes(self._repeat(requests.get(key, limit=limit))[0])

    def get_part(self, key: str, start: int, length: int) -> tuple[memoryview, int]:
        """Return up to ``length`` bytes from ``start``, which must be within the object, and the whole object's size,
        in one request; the bytes are not copied. FileNotFoundError when there is no such object."""
        with self._explained("read", key, missing_is_fine=True):
            if self.folder is not None:
                with regular(self.folder / key) as file:
                    return memoryview(os.pread(file.fileno(), length, start)), file.seek(0, os.SEEK_END)
            try:
                return self._repeat(requests.get(key, {"range": (start, start + length)}))
            except obstore.exceptions.NotSupportedError:  # a plain web server
                whole, size = self._repeat(requests.get(key))
                return whole[start : start + length], size
            except obstore.exceptions.BaseError as error:
                if start == 0 and self._may_be_short(error) and not self._size(key):
                    return memoryview(b""), 0  # an empty object has no first byte: stores refuse the range
                raise

    def get_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Return the last ``length`` bytes (of a shorter object, all) and the whole object's size, in one request.
        FileNotFoundError when there is no such object."""
        with self._explained("read", key, missing_is_fine=True):
            if self.folder is not None:
                with regular(self.folder / key) as file:
                    size = file.seek(0, os.SEEK_END)
                    return os.pread(file.fileno(), length, max(size - length, 0)), size
            try:
                part, size = self._repeat(requests.get(key, {"range": {"suffix": length}}))
            except obstore.exceptions.NotSupportedError:  # Azure
                size = self._size(key)
                part = self.get_part(key, max(size - length, 0), length)[0] if size else memoryview(b"")
            except obstore.exceptions.BaseError as error:
                if not self._may_be_short(error) or self._size(key):
                    raise
                return b"", 0  # an empty object has no last byte: stores refuse the range
            return bytes(part), size

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Iterator[Buffer]:
        """Yield the bytes of each [start, stop), in order, cut off at the object's end. Only ranges that touch are
        fetched together. FileNotFoundError when there is no such object, ValueError when a range begins past its
        end."""
        starts, stops = zip(*ranges, strict=True)
        with self._explained("read", key, missing_is_fine=True):
            try:
                parts = self._repeat(requests.get_ranges(key, starts, stops))
            except obstore.exceptions.BaseError as error:
                if not self._may_be_short(error) or (size := self._size(key)) > max(starts):
                    raise
                raise ValueError(f"the object has only {size} bytes") from error
        yield from parts

    def size(self, key: str) -> int:
        """Return an object's size; FileNotFoundError when there is none."""
        with self._explained("read", key, missing_is_fine=True):
            return self._size(key)

    @contextmanager
    def filling(self, key: str) -> Iterator[Callable[[Sequence[Buffer], int], int]]:
        """Open an object in a folder. The function fills buffers, one after another, with what follows a position,
        and returns how many bytes there were. FileNotFoundError when there is no such object."""
        assert self.folder is not None
        with (
            self._explained("read", key, missing_is_fine=True),
            regular(self.folder / key) as file,
        ):
            yield lambda parts, start: os.preadv(file.fileno(), parts, start)

    def _size(self, key: str) -> int:
        return self._repeat(requests.size(key))

    def _may_be_short(self, error: Exception) -> bool:
        """Whether a read failed because the object may be shorter than was thought. A server that does not answer is
        not asked for its size: it would be waited for all over again."""
        return self.bucket is None or is_refused_range(error)

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write one whole object, replacing an older one if there is one. Afterwards ``data`` may change."""
        require_writable(self.uri)
        if self.folder is None and self.bucket is None:
            data = bytes(data)  # obstore's memory keeps what it is given, without a copy
        self.require_no_links([key])
        with self._explained("write", key):
            self._repeat(requests.put(key, data), len(data))

    def put_new(self, key: str, data: bytes) -> bool:
        """Create an object; False when there is one already, which is then left unchanged."""
        require_writable(self.uri)
        self.require_no_links([key])
        with self._explained("write", key):
            try:
                self._repeat(requests.put(key, data, create=True), len(data))
            except obstore.exceptions.AlreadyExistsError as error:
                if code_of(error) == "ContainerBeingDeleted":
                    raise
                # A try whose answer was lost may have been the one that wrote it.
                return is_repeated(error) and self.get(key) == data
            return True

    def objects(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """Return key → {size, last_modified} of every object under ``prefix``, in order of key.

        An object "PATH/", which consoles create for an empty folder, does not count as an object below PATH.
        """
        require_lists(self.uri)
        with self._explained("list", prefix):
            found = self._repeat(requests.objects(prefix))
        return {
            meta["path"]: dict(meta) for meta in sorted(found, key=lambda meta: str(meta["path"])) if meta["path"]
        }

    def found(self) -> list[str]:
        """List every key, in order: what may be deleted. On a disk, a link counts as a key and is not followed."""
        if self.folder is None:
            return list(self.objects())
        with self._explained("list", ""):
            return sorted(key for key in walk(self.folder) if not _STAGED.search(key))

    def require_no_links(self, keys: Iterable[str]) -> None:
        """Raise CacheError where a link is on the way to one of ``keys``: it may lead to other people's files, so
        nothing is written or deleted there. Reading follows links, also on the way to the folder itself."""
        if self.folder is None:
            return
        for key in keys:
            if link := link_below(self.folder, self.folder / key):
                raise CacheError(
                    f"{link} is a link (to {link.readlink()}); nothing is written or deleted through it", LINK_HINT
                )

    def delete(self, keys: list[str]) -> None:
        """Delete objects, the first before all others; missing ones are ignored."""
        require_writable(self.uri)
        self.require_no_links(keys)
        for first, some in enumerate([keys[:1], *(keys[i : i + 1000] for i in range(1, len(keys), 1000))]):
            with self._explained("delete", some[0] if some else ""):
                if self.bucket and first and self.bucket.location.scheme in S3:  # a thousand per request
                    self._repeat(requests.delete(some))
                    continue
                for key in some:
                    with suppress(FileNotFoundError):
                        self._repeat(requests.delete(key))

    def sweep_staged(self, ours: Callable[[str], bool]) -> int:
        """Remove the temporary files that a killed process left on a local disk. Returns how many there were.

        Args:
            ours: whether a key is one that gdist writes; other people's files may also have names like ``notes#1``.
        """
        if self.folder is None:
            return 0
        staged = 0
        with self._explained("clean up", ""):
            for name in walk(self.folder):
                key, swept = _STAGED.subn("", name)
                path = self.folder / name
                if swept and ours(key) and path.is_file() and not path.is_symlink():
                    path.unlink(missing_ok=True)
                    staged += 1
        return staged

    def require_reachable(self, error: Exception, key: str) -> None:
        """Raise what :meth:`get` would raise, if ``error`` (from a reader that uses ``store``) is an error of the
        store: a server that does not answer is not damage."""
        if isinstance(error, obstore.exceptions.BaseError):
            with self._explained("read", key):
                raise error

    def _repeat[T](self, request: Request[T], size: int = 0) -> T:
        """Return the answer to a request, which is repeated in a bucket. ``size``: bytes it uploads."""
        return self.bucket.repeat(request, size) if self.bucket else request.now(self.store)

    @contextmanager
    def _explained(self, verb: str, key: str, missing_is_fine: bool = False) -> Iterator[None]:
        what = f"cannot {verb} {self.uri.rstrip('/')}{'/' + key if key else ''}"
        try:
            yield
        except FileNotFoundError as error:
            if is_missing_bucket(error):
                raise CacheError(f"{what}: {explain(error)}", hint(error, self._scheme)) from error
            if missing_is_fine:
                raise
            raise CacheError(f"{what}: it does not exist") from error
        except UnreadableError as error:
            raise CacheDamagedError(f"{self.uri.rstrip('/')}/{key} {error}") from error
        except OSError as error:
            raise CacheError(
                f"{what}: {error.strerror or first_line(error)}", SYSTEM.get(error.errno or 0)
            ) from error
        except obstore.exceptions.BaseError as error:
            raise CacheError(f"{what}: {explain(error)}", hint(error, self._scheme)) from error


def sha256(data: bytes | memoryview) -> str:
    """Return the hex digest of an object's bytes."""
    return hashlib.sha256(data).hexdigest()


def canonical(document: dict[str, Any]) -> bytes:
    """Return a document's canonical JSON text: sorted keys, two spaces, UTF-8, a newline at the end."""
    return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()


def seal(document: dict[str, Any], holder: dict[str, Any]) -> bytes:
    """Return the text of ``document`` with ``holder["checksum"]`` set to the digest of everything else.

    Args:
        holder: a mapping inside ``document``, or ``document`` itself.
    """
    holder["checksum"] = ""
    holder["checksum"] = sha256(canonical(document))
    return canonical(document)


def unseal(data: bytes, path_to_holder: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the document that :func:`seal` wrote; CacheDamagedError when a single byte has changed.

    That proves no sense: a stranger can seal anything. What it contains is to be checked (pipeline/schema.py).
    """
    try:
        document: dict[str, Any] = parse(data)
        holder: Any = document
        for key in path_to_holder:
            holder = holder[key]
        checksum = holder["checksum"]
        if seal(document, holder) == data and holder["checksum"] == checksum:
            return document
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # also SchemaError
        raise CacheDamagedError(f"not a gdist document: {first_line(error)}") from error
    raise CacheDamagedError("its bytes do not match its checksum")
