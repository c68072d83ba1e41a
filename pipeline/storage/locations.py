"""Locations, as they are typed: each is kept character for character, or it is refused before anything is read.

Two locations that differ are two places, except that a slash at the end changes nothing. Names are not decoded
(``%20`` is three characters of a name), ``#`` and ``?`` have no special meaning, and spaces stay. So stores are made
from a bucket and a prefix (buckets.py), never from a URL, because obstore would drop or decode some parts of it.
"""

import os
import posixpath
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

from gdist.pipeline.errors import UsageError
from gdist.pipeline.printing import without_credentials

PLACES = (
    "a folder, s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH or memory://NAME; "
    "to be read only, also hf://datasets/ORG/NAME/PATH or https://HOST/PATH"
)
S3, GOOGLE, AZURE, WEB = ("s3", "s3a"), ("gs",), ("az", "azure", "adl", "abfs", "abfss"), ("http", "https")
HUB = ("hf",)
_URI = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL | re.IGNORECASE)
_BUCKET = re.compile(r"(?!\.+$)[\w$.-]+", re.ASCII)
_AZURE_ACCOUNT = re.compile(r"(.+)@([a-z0-9]+)\.dfs\.core\.windows\.net")
_NAME = r"(?!\.+(?:/|@|$))[\w.-]+"
_DATASET = re.compile(rf"(datasets/{_NAME}/{_NAME})(?:@({_NAME}))?(?:/(.*))?", re.ASCII | re.DOTALL)
_HOST = re.compile(r"([\w.-]+|\[[0-9a-f:]+\])(:\d+)?", re.ASCII)
# Control characters, bytes that are not UTF-8, and what XML cannot contain: servers list and delete in XML.
_UNKEPT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Location:
    """A place in an object store.

    Attributes:
        bucket: the bucket, the container, the server, or ``datasets/ORG/NAME`` on the Hugging Face Hub.
        key: an object's key, or the prefix of the keys of all objects below; no slash at either end, and "" for all.
        account: Azure's storage account, or the Hub's revision, where it is part of the location.
    """

    scheme: str
    bucket: str
    key: str
    account: str = ""

    @classmethod
    def parse(cls, uri: str) -> "Location":
        """Parse ``s3://BUCKET/a/b`` into its parts; UsageError where they cannot be kept exactly."""
        scheme, _, rest = uri.partition("://")
        authority, _, key = rest.partition("/")
        key = key.removesuffix("/")
        if scheme not in (*S3, *GOOGLE, *AZURE, *WEB, *HUB, "memory"):
            known = scheme.lower() in ("file", "memory", *S3, *GOOGLE, *AZURE, *WEB, *HUB)
            hint = f"type {scheme.lower()}://{rest}" if known else f"a cache is {PLACES}"
            _refuse(uri, f"{scheme}:// is not supported", hint)
        if scheme in HUB:
            return cls._on_hub(uri, rest)
        account = _AZURE_ACCOUNT.fullmatch(authority) if scheme in AZURE else None
        bucket, owner = account.groups() if account else (authority, "")
        if not (_HOST if scheme in WEB else _BUCKET).fullmatch(bucket):
            of = "server" if scheme in WEB else "bucket"
            allowed = "letters, digits, dots, hyphens and underscores"
            why = f"{bucket!r} is not the name of a {of}: names have {allowed}" if bucket else f"it names no {of}"
            if "@" in bucket:  # what is before it may be a secret, and is not repeated
                why = f"what is before its @ is not the name of a {of}; credentials are read from the environment"
            _refuse(uri, why, f"a cache is {PLACES}")
        _require_kept(uri, scheme, key)
        return cls(scheme, bucket, key, owner)

    @classmethod
    def _on_hub(cls, uri: str, rest: str) -> "Location":
        """Parse ``hf://datasets/ORG/NAME[@REVISION]/a/b``, as huggingface_hub spells it."""
        found = _DATASET.fullmatch(rest)
        if not found:
            why = "a cache on the Hub is in a data set, with the name of its owner"
            _refuse(uri, why, "type hf://datasets/ORG/NAME/PATH, or hf://datasets/ORG/NAME@REVISION/PATH")
        dataset, revision, key = found[1], found[2] or "", (found[3] or "").removesuffix("/")
        _require_kept(uri, "hf", key)
        return cls("hf", dataset, key, revision)

    @property
    def root(self) -> str:
        """The bucket, as a URI."""
        if self.scheme in HUB:
            return f"{self.scheme}://{self.bucket}{f'@{self.account}' if self.account else ''}"
        at = f"@{self.account}.dfs.core.windows.net" if self.account else ""
        return f"{self.scheme}://{self.bucket}{at}"


def scheme_of(uri: str) -> str:
    """Return ``s3``, ``memory``, …, or ``file`` for a plain path."""
    return found[1] if (found := _URI.match(uri)) else "file"


def local_path(uri: str) -> Path:
    """Return the path of a plain path or a ``file://`` URI: ``file://`` is removed and everything else is kept.

    Raises:
        UsageError: it is empty, means another machine, or contains what only a shell would replace.
    """
    path = uri.removeprefix("file://")
    if not path:
        _refuse(repr(uri), "it names no folder or file", "to name the current folder, type .")
    if "\0" in path:
        _refuse(repr(uri), "it has a NUL character, which no path may have", "use a name without it")
    if path != uri and not path.startswith("/"):
        _refuse(uri, "the path after file:// must begin with a slash", f"type file://{Path(path).absolute()}")
    if path.startswith("~"):
        home = os.path.expanduser(path)  # noqa: PTH111 — Path.expanduser would raise for an unknown user
        meant = f"type {home}, or " if home != path else "type "
        _refuse(uri, "shells replace a ~ at the beginning, gdist does not", f"{meant}./{path} if that is its name")
    return Path(path)


def folder_of(uri: str) -> Path:
    """Return :func:`local_path` as an absolute path."""
    return local_path(uri).absolute()


def lasting(uri: str) -> str:
    """Return a location as it can be recorded: a relative path would mean another place in another folder."""
    return uri if scheme_of(uri) != "file" else str(folder_of(uri))


def require_text(uri: str) -> None:
    """Raise UsageError for a new folder whose name is no text: no document could say where it is."""
    if re.search("[\ud800-\udfff]", uri):
        _refuse(repr(uri), "it has a byte that is not UTF-8, and no run could record it", "use a name without it")


def require_no_server(uri: str, named_by: object, hint: str | None = None) -> None:
    """Refuse a web address that a document names, and nobody typed: reading it would ask a server of the document's
    author's choosing. A bucket is asked for at the store that is configured here.

    Raises:
        UsageError: it is one.
    """
    if uri.partition("://")[0].lower() in WEB:
        raise UsageError(
            f"the cache {without_credentials(uri)} is only named in {named_by}; a server is asked if it is typed",
            hint,
        )


def in_shell(location: object) -> str:
    """Return a location as it is typed in a command: with quotes where a shell would interpret a part of it."""
    return shlex.quote(str(location))


def join(uri: str, below: str) -> str:
    """Resolve a relative path, found in a file of the folder ``uri``. Only ``.`` and ``..`` are resolved.

    A path that leaves the bucket or has empty parts is returned as such, and refused when it is parsed.
    """
    scheme, _, rest = uri.partition("://")
    parts = rest.removesuffix("/").split("/")
    top = 3 if scheme in HUB else 1  # the parts that name a data set, or a bucket
    for part in below.split("/"):
        if part == ".." and len(parts) > top and parts[-1] not in ("", ".."):
            parts.pop()
        elif part != ".":
            parts.append(part)
    return f"{scheme}://{'/'.join(parts)}"


def _require_kept(uri: str, scheme: str, key: str) -> None:
    """Raise UsageError where a store, or obstore on the way to it, would change or reinterpret the key."""
    before = uri.removesuffix("/").removesuffix(key)
    if found := _UNKEPT.search(key):
        byte = "\ud800" <= found[0] <= "\udfff"
        why = "a byte that is not UTF-8" if byte else f"the control character U+{ord(found[0]):04X}"
        _refuse(repr(uri), f"it has {why}, which object stores do not keep", "use a name without it")
    parts = key.split("/") if key or uri.endswith("//") else []
    if "" in parts:
        shorter = "/".join(filter(None, parts))
        _refuse(uri, "it has an empty name between two slashes", f"type {before}{shorter}")
    if {".", ".."} & set(parts):
        resolved = posixpath.normpath(f"/{key}").lstrip("/")
        _refuse(uri, "object keys cannot contain . or .. as a name", f"if that is meant, type {before}{resolved}")
    if scheme in (*WEB, *HUB) and (odd := re.search(r"[%?#]", key)):
        why = f"{odd[0]} has a special meaning in web addresses, and gdist supports plain paths only"
        typed = unquote(key)
        plain = typed != key and not re.search(r"[%?#]", typed)
        _refuse(uri, why, f"type {before}{typed}" if plain else "copy the file to a folder or a bucket")
    if scheme in AZURE and (odd := re.search(r"\\|\.(?=/|$)", key)):
        why = "treats a backslash as a slash" if odd[0] == "\\" else "does not allow a dot at the end of a name"
        _refuse(uri, f"Azure {why}", "use a name without it")


def _refuse(shown: str, why: str, hint: str) -> NoReturn:
    """Refuse a location. What may be a secret in it is not repeated: a manifest's go into receipts."""
    raise UsageError(without_credentials(f"cannot use {shown}: {why}"), without_credentials(hint))
