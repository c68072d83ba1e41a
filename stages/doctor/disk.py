"""A folder on this machine: room, permissions, speed, and locks."""

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from gdist.pipeline import console
from gdist.pipeline.files import reason
from gdist.pipeline.storage.hints import SYSTEM
from gdist.stages.doctor.check import Check, note, ok, problem, speed
from gdist.stages.doctor.filesystem import file_system

BLOCK, MEASURED = 4 * 10**6, 64 * 10**6  # bytes that are written at once, and in all
LONGEST = 2.0  # seconds after which a slow disk has been measured well enough
LITTLE_ROOM = 10 * 10**9  # bytes: a cache of some hours of speech
SLOW = 20 * 10**6  # bytes per second


def check_folder(folder: Path, named: bool, read_only: bool) -> Generator[Check, None, None]:
    """Check one folder. Everything is written into a new folder below it, which is deleted whatever happens.

    Args:
        folder: it need not be there: gdist makes folders, so the nearest one above it that is there is examined.
        named: whether somebody asked for this one; else it is worth a note only that it cannot be written to.
        read_only: write nothing.
    """
    area = str(folder)
    try:
        there = nearest(folder)
        if not os.access(there, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
        where, room, nodes = file_system(there), shutil.disk_usage(there), os.statvfs(there)
    except (OSError, RuntimeError) as error:  # of links that lead to each other, Python 3.12 has a RuntimeError
        code = error.errno or 0 if isinstance(error, OSError) else errno.ELOOP
        why = reason(error) if isinstance(error, OSError) else os.strerror(errno.ELOOP)
        yield problem(area, "folder", "cannot be used", f"{folder}: {why}", SYSTEM.get(code, "name another folder"))
        return
    if there != folder:
        yield ok(area, "folder", f"not there yet; {there} is examined")
    value = f"{where.kind or 'unknown'}, mounted at {where.at or '?'}"
    if where.is_bucket:
        means = "it looks like a bucket that is mounted as a folder: renames and locks may not work there"
        yield note(area, "file system", value, means, "name the bucket itself: s3://BUCKET/PATH")
    elif where.is_network:
        means = "it is shared through a network: reading a cache by pieces may be slow"
        hint = "keep what is read often on a disk of this machine: --local DIR, or gdist copy"
        yield note(area, "file system", value, means, hint)
    else:
        yield ok(area, "file system", value)
    if nodes.f_files and not nodes.f_favail:
        yield problem(area, "free space", "no file more", "the disk has no inodes left", "delete files there")
    elif room.free < LITTLE_ROOM:
        means = f"less than {console.size(LITTLE_ROOM)} is free, and caches are large"
        hint = "gdist plan says how much a cache takes"
        yield note(area, "free space", f"{console.size(room.free)} of {console.size(room.total)}", means, hint)
    else:
        yield ok(area, "free space", f"{console.size(room.free)} of {console.size(room.total)}")
    if read_only:
        return
    try:
        own = Path(tempfile.mkdtemp(prefix=".gdist-doctor-", dir=there))
    except OSError as error:
        yield _refused(area, error, named)
        return
    try:
        yield from _written(area, own, min(MEASURED, room.free // 4), named)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there.

    Raises:
        NotADirectoryError: that is a file.
        OSError: it cannot be looked at.
    """
    for each in (folder, *folder.parents):
        if each.exists():
            if not each.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is a file", str(each))
            return each
        if each.is_symlink():
            raise FileNotFoundError(errno.ENOENT, f"the link {each} leads nowhere")
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _refused(area: str, error: OSError, named: bool) -> Check:
    hint = SYSTEM.get(error.errno or 0)
    if named or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
        return problem(area, "write", reason(error), "nothing can be written there", hint)
    return note(area, "write", reason(error), "runs and caches cannot be written there; other places may do", hint)


def _written(area: str, own: Path, size: int, named: bool) -> Iterator[Check]:
    """Write a file as gdist does, and lock it, and read it."""
    path, staged = own / "file", own / "file.tmp"
    try:
        written, seconds = _write(staged, size)
        staged.rename(path)
    except OSError as error:
        yield _refused(area, error, named)
        return
    yield _speed(area, "write", written, seconds, "extraction waits for the disk")
    try:
        read, seconds = _read(path)
    except OSError as error:
        yield problem(area, "read", reason(error), "what was written there cannot be read", "check the disk: dmesg")
        return
    if read != written:
        value = f"{console.size(read)} of {console.size(written)}"
        yield problem(area, "read", value, "what was written is not read back", "check the disk: dmesg")
    else:
        yield _speed(area, "read", read, seconds, "training from a cache there waits for the disk")
    yield _locks(area, path)


def _speed(area: str, name: str, size: int, seconds: float, means: str) -> Check:
    value = speed(size, seconds) + (", with fsync" if name == "write" else "")
    if size / max(seconds, 1e-9) >= SLOW or size < BLOCK:
        return ok(area, name, value)
    hint = "choose a faster disk, or gdist extract --encoding int8, which writes half as much"
    return note(area, name, value, f"that is slow: {means}", hint)


def _write(path: Path, size: int) -> tuple[int, float]:
    """Write up to ``size`` bytes that cannot be compressed, to the disk itself. Returns how many, and seconds."""
    block, written, began = os.urandom(BLOCK), 0, time.perf_counter()
    with path.open("xb", buffering=0) as file:
        while written < max(size, 1) and time.perf_counter() - began < LONGEST:
            written += file.write(block[: min(max(size, 1) - written, BLOCK)])
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # or it would be read from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return written, time.perf_counter() - began


def _read(path: Path) -> tuple[int, float]:
    """Read a file to its end, or for as long as is worth it. Returns how many bytes, and seconds."""
    read, began = 0, time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while part := len(file.read(BLOCK)):
            read += part
    return read, time.perf_counter() - began


def _locks(area: str, path: Path) -> Check:
    """Whether a lock keeps others out, and lets them in when it is given up. Each of two opened files is another
    owner to the kernel, as two processes are."""
    why = "extractions, sweeps and --local use locks to keep out of each other's way"
    hint = "choose another file system; of Lustre, it is to be mounted with -o flock, of NFS with version 4"
    with path.open("rb") as one, path.open("rb") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return problem(area, "locks", reason(error), f"files cannot be locked there: {why}", hint)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return problem(area, "locks", "two at once", f"a lock keeps nobody out there: {why}", hint)
        except BlockingIOError:
            fcntl.flock(one, fcntl.LOCK_UN)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return problem(area, "locks", reason(error), f"a lock that is given up stays: {why}", hint)
    return ok(area, "locks", "work")
