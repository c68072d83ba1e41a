"""Which device to compute on."""

import contextlib
import ctypes
import os
import sys

import torch

from gdist.pipeline.errors import ConfigError

KINDS = ("cpu", "cuda")
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # what malloc.h calls M_…


def choose_device(name: str, option: str) -> str:
    """``auto`` → cuda where there is one, else cpu; any other name is checked.

    Args:
        option: what the user typed the name after, for the message.

    Raises:
        ConfigError: no such kind of device, or this machine lacks it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{option}{name}: there is no such kind of device", f"{option}auto") from error
    if wanted.type not in KINDS:
        raise ConfigError(f"{option}{name}: gdist runs on {' or '.join(KINDS)}", f"{option}auto")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"{option}{name}: this machine has {torch.cuda.device_count()} CUDA devices", f"{option}auto"
        )
    return name


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each of the GPUs that this process may use."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def in_own_memory[M: torch.nn.Module](module: M) -> M:
    """The module, each of its tensors copied to where torch itself would place it.

    What safetensors loads is a view of a mapped file and begins at any multiple of 8 bytes. Where a matrix begins may
    decide how it is multiplied, and so the last bits of what comes out; and a mapped file must stay as it is.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()
    return module


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors for the next ones, as CUDA's allocator does.

    Left alone, it hands the end of its heap back to the kernel again and again, and every page that comes back is a
    fault and is zeroed: with a Base model in float32 that was 23 MB and a sixteenth of the time for each second of
    audio. What is larger than 32 MB, such as a pack's rows, still goes back at once; and there is one heap for all
    threads, where each would keep some of its own.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library, which has its own ways
            libc = ctypes.CDLL(None)
            for name, value in ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 128 << 20), (ARENA_MAX, 1)):
                libc.mallopt(name, value)
