"""Tars: which bytes of them each member is. Only headers are read, in a bucket too; nothing is unpacked."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, head, is_there, readable
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.paths import Place
from gdist.pipeline.storage.ranged import opened

_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_RANGE = re.compile(r"(?:_OP_|\{)(\d+)\.\.(\d+)(?:_CL_|\})")
_MAX_TEXT = 1 << 24  # bytes of a member with labels


@dataclass(frozen=True)
class Member:
    """A file in a tar: ``size`` bytes from ``offset`` on."""

    tar: Place
    name: str
    offset: int
    size: int

    def row(self) -> ManifestRow:
        """The columns that say where the audio is."""
        return {"path": str(self.tar), "byte_offset": self.offset, "byte_size": self.size}


def members(tar: Place) -> Iterator[tuple[Member, BinaryIO]]:
    """Yield every regular file of a tar, and the open tar, whose position may be moved.

    Raises:
        ManifestError: the tar is compressed, cut short, damaged, or has a member whose bytes are not in one piece.
    """
    refuse_compressed(tar)
    try:
        with readable(tar), opened(tar) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while info := archive.next():
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    raise ManifestError(
                        f"{tar}: the member {info.name} is a link or has holes, so its audio is not a range of bytes",
                        "pack the files themselves: tar --dereference -cf AUDIO.tar FOLDER",
                    )
                yield Member(tar, info.name, info.offset_data, info.size), file
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"cannot read {tar}: not a whole tar: {error}", "fetch or write it again") from error


class Tars:
    """Members of tars by name. The tars of one build are read once each."""

    def __init__(self) -> None:
        self._indexes: dict[Place, dict[str, Member]] = {}

    def find(self, tar: Place, name: str) -> Member | None:
        """Return the member of this name, else one whose name without folders and suffix is the same."""
        if tar not in self._indexes:
            found = [member for member, _ in members(tar)]
            stems = {PurePosixPath(member.name).stem: member for member in found}
            self._indexes[tar] = stems | {member.name: member for member in found}
        index = self._indexes[tar]
        return index.get(name) or index.get(PurePosixPath(name).stem)


def text(member: Member, file: BinaryIO) -> bytes:
    """Return the content of a member with labels."""
    if member.size > _MAX_TEXT:
        raise ManifestError(f"{member.tar}: {member.name} has {member.size} bytes, which are no labels")
    file.seek(member.offset)
    parts, left = [], member.size
    while left and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def is_tar(src: Place) -> bool:
    """Whether a file is a tar, or a compressed one."""
    name = src.name.lower()
    return name.endswith((".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")) or (
        head(src, 262)[257:262] == b"ustar"
    )


def refuse_compressed(tar: Place) -> None:
    """Raise ManifestError if ``tar`` is compressed: its members are then not ranges of its bytes."""
    magic = head(tar, 8)
    for start, command in _COMPRESSED.items():
        if magic.startswith(start):
            plain = re.sub(r"\.(gz|bz2|xz|zst)$", "", re.sub(r"\.tgz$", ".tar", str(tar)))
            raise ManifestError(
                f"{tar} is compressed, so its members cannot be read by themselves",
                f"{command} --stdout {in_shell(tar)} > {in_shell(plain if plain != str(tar) else f'{tar}.tar')}",
            )


def expanded(src: Place) -> list[Place]:
    """Return the files that a name such as ``audio_{0..7}.tar`` or ``audio__OP_0..7_CL_.tar`` means, else ``src``."""
    found = _RANGE.search(src.name)
    if not found or is_there(src):
        return [src]
    first, last = found.groups()
    width = len(first) if first.startswith("0") else 0
    names = (
        f"{src.name[: found.start()]}{n:0{width}}{src.name[found.end() :]}" for n in range(int(first), int(last) + 1)
    )
    return [path for name in names for path in expanded(src.with_name(name))]
