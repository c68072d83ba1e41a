"""Which device to compute on, how tensors get there, and what is said when its memory is full."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from gdist.pipeline import console
from gdist.pipeline.errors import ConfigError, DeviceMemoryError

KINDS = ("cpu", "cuda")
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # M_TRIM_THRESHOLD and so on in malloc.h


def choose_device(name: str, option: str) -> str:
    """``auto`` → cuda where there is one, else cpu; any other name is checked.

    Args:
        option: what the user typed before the name, for the message.

    Raises:
        ConfigError: there is no such kind of device, or this machine does not have it.
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
    """The names, as in CUDA_VISIBLE_DEVICES, of the GPUs that this process may use."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor, in memory that ``device`` reads without this thread waiting for it; itself if that is a CPU."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor
    return torch.empty_like(tensor, pin_memory=True).copy_(tensor)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; this thread does not wait for a GPU to have received it."""
    return pinned(tensor, device).to(device, non_blocking=True)


class Arriving:
    """A small tensor on its way to this machine's memory: only who asks for its values waits, and for it alone."""

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._arrived = tensor, None
        if tensor.device.type == "cuda":
            self._host = torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.current_stream(tensor.device).record_event()

    def tolist(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[float] = self._host.tolist()
        return values


@contextlib.contextmanager
def enough_memory(attempt: str, device: torch.device, hint: str) -> Iterator[None]:
    """Raise DeviceMemoryError where the memory of ``device``, or of this machine, does not suffice for the block.

    Args:
        attempt: what the block does, the message's first words.
        hint: what to type next.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # On a CPU, torch raises a plain RuntimeError.
        full = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        if not full:
            raise
        peak = f"the peak was {_peak(device)}; " if device.type == "cuda" else ""
        reason = (str(error).strip() or "no memory is left").splitlines()[0]
        raise DeviceMemoryError(f"{attempt}: the memory of {device} is full: {peak}{reason}", hint) from error


def _peak(device: torch.device) -> str:
    """The most memory that this process has used on a GPU, of all that it has."""
    total = torch.cuda.get_device_properties(device).total_memory
    return f"{console.size(torch.cuda.max_memory_allocated(device))} of {console.size(total)}"


def in_own_memory[M: torch.nn.Module](module: M) -> M:
    """The module, each of its tensors copied to where torch itself would place it.

    What safetensors loads is a view of a mapped file and begins at any multiple of 8 bytes. Where a matrix begins may
    decide how it is multiplied, and so the last bits of what comes out; and a mapped file must stay as it is.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()
    return module


def keep_freed_memory() -> None:
    """Make glibc keep the memory of freed tensors for the next ones, as CUDA's allocator does.

    By default, glibc repeatedly returns the end of its heap to the kernel, and every page that it gets again costs a
    page fault and is zeroed. With a Base model in float32 that was 23 MB per second of audio, and a sixteenth of the
    time. Blocks of more than 32 MB, such as a pack's rows, are still returned at once. All threads share one heap;
    otherwise each would keep memory of its own.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library, without these settings
            libc = ctypes.CDLL(None)
            for name, value in ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 128 << 20), (ARENA_MAX, 1)):
                libc.mallopt(name, value)
