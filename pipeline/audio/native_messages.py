"""What a decoder in C prints on stderr belongs to the file that it decodes.

mpg123, inside libsndfile, prints its warnings without a file's name. While a file is decoded here, C's ``stderr`` is
a stream that calls back in the thread that prints, so each thread gets its own file's messages. What any other thread
prints from C meanwhile goes where it would have gone. Python's own ``sys.stderr`` is not affected, nor is the
descriptor 2. Needs glibc; elsewhere messages are printed as before.
"""

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_lock, _local = threading.Lock(), threading.local()
_active = 0
_printed: int | None = None  # C's stderr, while it is replaced

_Write = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Functions(ctypes.Structure):
    _fields_ = (("read", ctypes.c_void_p), ("write", _Write), ("seek", ctypes.c_void_p), ("close", ctypes.c_void_p))


@contextmanager
def messages() -> Iterator[list[str]]:
    """Collect the lines that C code prints on stderr in this thread, each once."""
    global _active, _printed
    lines: list[str] = []
    stream = _stream()
    if stream is None:
        yield lines
        return
    stderr = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr")
    with _lock:
        _active += 1
        if _active == 1:
            _printed, stderr.value = stderr.value, stream
    _local.lines = lines
    try:
        yield lines
    finally:
        _local.lines = None
        with _lock:
            _active -= 1
            if not _active:
                stderr.value = _printed


def _write(_cookie: Any, text: Any, length: int) -> int:
    said = ctypes.string_at(text, length)
    lines: list[str] | None = getattr(_local, "lines", None)
    if lines is None:
        os.write(2, said)
    elif (line := said.decode(errors="replace").strip()) and line not in lines:
        lines.append(line)
    return length


_callback = _Write(_write)  # C calls it for as long as the process lives


@cache
def _stream() -> int | None:
    """A C stream that calls :func:`_write`, without a buffer; None where C's stderr cannot be replaced."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    libc.fopencookie.restype = ctypes.c_void_p
    libc.fopencookie.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _Functions]
    stream: int | None = libc.fopencookie(None, b"w", _Functions(None, _callback, None, None))
    unbuffered = 2
    if stream is not None:
        libc.setvbuf(ctypes.c_void_p(stream), None, unbuffered, ctypes.c_size_t(0))
    return stream
