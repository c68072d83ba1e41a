"""Where a cache's objects lie: a folder, a bucket or memory, through obstore; and JSON documents that carry a seal.

Every write is one whole object: on disk a temporary file and a rename, in a bucket one put. Nothing is ever seen
half-written.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, MemoryStore, from_url

from gdist.pipeline.errors import CacheDamagedError, CacheError, UsageError

_memory: dict[str, MemoryStore] = {}  # memory://NAME names one store for the life of the process
_GENERIC = re.compile(r"^Generic \w+ error: ")
_STAGED = re.compile(r"#\d+$")  # obstore's local store writes PATH#1 and renames it to PATH


class Storage:
    """The objects under one URI, by key. All failures are CacheErrors that name the key and the likely cause."""

    def __init__(self, uri: str, create: bool = False) -> None:
        self.uri = uri
        self.folder: Path | None = None
        scheme = uri.split("://", 1)[0] if "://" in uri else "file"
        with self._explained("open", ""):
            if scheme == "memory":
                self.store: Any = _memory.setdefault(uri, MemoryStore())
            elif scheme == "file":
                self.folder = Path(uri.removeprefix("file://")).expanduser().absolute()
                if create:
                    _make_folder(self.folder)
                elif not self.folder.is_dir():
                    raise OSError(0, "it is not a folder" if self.folder.exists() else "there is no such folder")
                self.store = LocalStore(self.folder)
            else:
                self.store = _bucket(uri)

    def get(self, key: str) -> bytes:
        """The whole object; FileNotFoundError when it is not there."""
        with self._explained("read", key, missing_is_fine=True):
            return bytes(self.store.get(key).bytes())

    def put(self, key: str, data: bytes) -> None:
        """Write one whole object, over an older one if need be."""
        with self._explained("write", key):
            obstore.put(self.store, key, data)

    def put_new(self, key: str, data: bytes) -> bool:
        """Create-only write: False when the object is there already, which is then left as it was."""
        with self._explained("write", key):
            try:
                obstore.put(self.store, key, data, mode="create")
            except obstore.exceptions.AlreadyExistsError:
                return False
            return True

    def objects(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """Key → {size, last_modified} of every object under ``prefix``, in order of key."""
        with self._explained("list", prefix):
            found = obstore.list(self.store, prefix=prefix or None).collect()
        return {meta["path"]: dict(meta) for meta in sorted(found, key=lambda meta: str(meta["path"]))}

    def delete(self, keys: list[str]) -> None:
        """Delete objects; one that is not there is fine."""
        with self._explained("delete", keys[0] if keys else ""):
            for key in keys:
                with suppress(FileNotFoundError):
                    self.store.delete(key)

    def sweep_staged(self, ours: Callable[[str], bool]) -> int:
        """Remove the temporary files that a killed process left on a local disk. Returns how many there were.

        Args:
            ours: whether a key is one that gdist writes; other people's files may be called ``notes#1`` too.
        """
        if self.folder is None:
            return 0
        staged = 0
        with self._explained("clean up", ""):
            for path in self.folder.rglob("*#*"):
                key, swept = _STAGED.subn("", path.relative_to(self.folder).as_posix())
                if swept and ours(key) and path.is_file():
                    path.unlink(missing_ok=True)
                    staged += 1
        return staged

    @contextmanager
    def _explained(self, verb: str, key: str, missing_is_fine: bool = False) -> Iterator[None]:
        what = f"cannot {verb} {self.uri.rstrip('/')}{'/' + key if key else ''}"
        try:
            yield
        except FileNotFoundError as error:
            if missing_is_fine:
                raise
            raise CacheError(f"{what}: it is not there") from error
        except OSError as error:
            raise CacheError(f"{what}: {error.strerror or first_line(error)}", HINTS.get(error.errno or 0)) from error
        except obstore.exceptions.BaseError as error:
            raise CacheError(f"{what}: {first_line(error)}", _store_hint(error)) from error


def _bucket(uri: str) -> Any:
    """A bucket, with endpoint and credentials from the environment, as cloud tools expect."""
    # Other tools accept a plain-HTTP endpoint (MinIO, a test server) without a further switch; so do we.
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    try:
        return from_url(uri, client_options={"allow_http": True} if plain else None)
    except (ValueError, obstore.exceptions.GenericError) as error:
        hint = "a cache is a folder, s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH or memory://NAME"
        raise UsageError(f"cannot use {uri}: {first_line(error)}", hint) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # /proc, an unmounted share: there is a parent, and it takes no folders
        raise OSError(errno.EACCES, "no folder can be made there") from error


def first_line(error: Exception) -> str:
    """What an exception says, without the pages that follow and obstore's "Generic S3 error: " before it."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _GENERIC.sub("", line).removesuffix(': <?xml version="1.0" encoding="utf-8"?>')


HINTS = {
    errno.ENOSPC: "free some space and run the same command again: finished packs are kept",
    errno.EACCES: "choose a place you may write to, or mend its permissions",
    errno.EPERM: "choose a place you may write to, or mend its permissions",
    errno.EROFS: "the file system is mounted read-only; choose another place",
    errno.ENOTDIR: "a part of the path is a file; choose another place",
    errno.EEXIST: "a file of that name is in the way; choose another place",
}


def _store_hint(error: Exception) -> str | None:
    text = str(error)
    refused = (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError)
    # Without credentials in the environment the metadata server is asked, which answers inside the cloud only.
    if isinstance(error, refused) or "169.254." in text or "metadata.google" in text:
        return (
            "check the credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …)"
        )
    if "NoSuchBucket" in text:
        return "there is no such bucket (or AWS_ENDPOINT_URL points elsewhere): make it, or choose another place"
    if "error sending request" in text:
        return "check the network and AWS_ENDPOINT_URL"
    # obstore reports what the operating system said as text.
    return next((hint for code, hint in HINTS.items() if os.strerror(code) in text), None)


def sha256(data: bytes) -> str:
    """Hex digest of an object's bytes."""
    return hashlib.sha256(data).hexdigest()


def canonical(document: dict[str, Any]) -> bytes:
    """The one JSON text of a document: sorted keys, two spaces, UTF-8, a newline at the end."""
    return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()


def seal(document: dict[str, Any], holder: dict[str, Any]) -> bytes:
    """The text of ``document`` with ``holder["checksum"]`` (a mapping inside it) set to the rest's digest."""
    holder["checksum"] = ""
    holder["checksum"] = sha256(canonical(document))
    return canonical(document)


def unseal(data: bytes, path_to_holder: tuple[str, ...] = ()) -> dict[str, Any]:
    """The document behind :func:`seal`; CacheDamagedError when a single byte is not what was sealed."""
    try:
        document: dict[str, Any] = json.loads(data)
        holder: Any = document
        for key in path_to_holder:
            holder = holder[key]
        checksum = holder["checksum"]
        if seal(document, holder) == data and holder["checksum"] == checksum:
            return document
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CacheDamagedError(f"not a gdist document: {first_line(error)}") from error
    raise CacheDamagedError("its bytes do not match its checksum")
