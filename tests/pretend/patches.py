"""Puts a pretended GPU into torch, and takes it out again completely."""

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from pretend import attention, gradients, streams
from pretend.counts import COUNTS, Counts
from pretend.streams import is_pinned, pin
from pretend.tensors import Device

PROPERTIES = SimpleNamespace(
    name="pretended GPU", uuid="GPU-pretended", total_memory=80 << 30, major=9, minor=0, multi_processor_count=132
)
_thread_run = threading.Thread.run


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _run_with_device(self: threading.Thread) -> None:
    with Device():  # type: ignore[no-untyped-call] # a dispatch mode belongs to one thread
        _thread_run(self)


def _enter_inference(self: Any) -> None:
    self._pretended = torch.no_grad() if self.mode else contextlib.nullcontext()
    self._pretended.__enter__()


def _exit_inference(self: Any, *error: Any) -> None:
    self._pretended.__exit__(*error)


REPLACED: list[tuple[Any, str, Any]] = [
    (torch.cuda, "_lazy_init", _nothing),
    (torch.cuda, "is_available", lambda: True),
    (torch.cuda, "is_initialized", lambda: True),
    (torch.cuda, "device_count", lambda: 1),
    (torch.cuda, "current_device", lambda: 0),
    (torch.cuda, "set_device", _nothing),
    (torch.cuda, "get_device_properties", lambda *_: PROPERTIES),
    (torch.cuda, "get_device_name", lambda *_: PROPERTIES.name),
    (torch.cuda, "get_device_capability", lambda *_: (PROPERTIES.major, PROPERTIES.minor)),
    (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
    (torch.cuda, "mem_get_info", lambda *_: (PROPERTIES.total_memory, PROPERTIES.total_memory)),
    (torch.cuda, "memory_allocated", lambda *_: 0),
    (torch.cuda, "max_memory_allocated", lambda *_: 0),
    (torch.cuda, "max_memory_reserved", lambda *_: 0),
    (torch.cuda, "reset_peak_memory_stats", _nothing),
    (torch.cuda, "empty_cache", _nothing),
    (torch.cuda, "manual_seed", _nothing),
    (torch.cuda, "manual_seed_all", _nothing),
    (torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state()),
    (torch.cuda, "set_rng_state", _nothing),
    (torch.cuda, "is_current_stream_capturing", lambda: False),
    (torch.cuda.graphs, "is_current_stream_capturing", lambda: False),
    (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
    (torch.cuda, "Stream", streams.Stream),
    (torch.cuda, "Event", streams.Event),
    (torch.cuda, "current_stream", streams.current_stream),
    (torch.cuda, "default_stream", lambda *_: streams._default),
    (torch.cuda, "stream", streams.use),
    (torch.cuda, "synchronize", streams.synchronize),
    (torch.Tensor, "is_pinned", lambda self, *_: is_pinned(self)),
    (torch.Tensor, "pin_memory", lambda self, *_: self if is_pinned(self) else pin(self.clone())),
    (torch.inference_mode, "__enter__", _enter_inference),
    (torch.inference_mode, "__exit__", _exit_inference),
    (torch.autograd, "backward", gradients.backward),
    (F, "scaled_dot_product_attention", attention.attention),
    (threading.Thread, "run", _run_with_device),
]


@contextlib.contextmanager
def pretended() -> Iterator[Counts]:
    """A GPU for the length of a ``with`` block, in all threads that are started within it.

    One thing stays in the process, and is not seen without a GPU's tensors: torch's guard of the current CUDA device.

    Yields:
        what the device does, counted from the beginning of the block or the last ``clear()``.
    """
    assert not torch.cuda.is_available(), "there is a real GPU, or this block is within another"
    torch._C._ensureCUDADeviceGuardSet()
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    COUNTS.clear()
    with contextlib.ExitStack() as undo:
        undo.callback(streams.forget)
        undo.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a CPU tensor cannot become a wrapper
        for owner, name, replacement in REPLACED:
            if name in vars(owner):
                undo.callback(setattr, owner, name, vars(owner)[name])
            else:  # inherited
                undo.callback(delattr, owner, name)
            setattr(owner, name, replacement)
        undo.enter_context(torch.autograd.set_multithreading_enabled(False))
        undo.enter_context(Device())  # type: ignore[no-untyped-call]
        yield COUNTS
