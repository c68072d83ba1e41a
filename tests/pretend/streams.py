"""Streams and events of a pretended GPU, and copies that are on their way until something waits for them."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pretend.counts import COUNTS, here

MAX_QUEUED = 256  # uploads that nobody waits for are forgotten, the oldest first

Arrive = Callable[[], None]
_pinned: dict[int, "weakref.ref[torch.UntypedStorage]"] = {}  # by address: addresses are used again, storages are not


def pin(tensor: Tensor) -> Tensor:
    """The tensor, its memory noted as pinned."""
    storage = tensor.untyped_storage()
    _pinned[storage.data_ptr()] = weakref.ref(storage)
    return tensor


def is_pinned(tensor: Tensor) -> bool:
    """Whether the tensor's memory is pinned."""
    storage = tensor.untyped_storage()
    noted = _pinned.get(storage.data_ptr())
    return noted is not None and noted() is storage


def clone(tensor: Tensor) -> Tensor:
    """A copy of a CPU tensor's values in memory of their own, with the same strides."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def poison(tensor: Tensor) -> None:
    """Fill with what nobody would take for a result."""
    with torch.no_grad():
        tensor.detach().fill_(torch.nan if tensor.is_floating_point() else 1 if tensor.dtype == torch.bool else 85)


class Download:
    """A copy to pinned memory: it arrives when its event is waited for."""

    def __init__(self, host: Tensor, values: Tensor) -> None:
        self.host, self.values = host.detach(), clone(values.detach())
        self.arrived = False
        poison(self.host)

    def __call__(self) -> None:
        if not self.arrived:
            self.arrived = True
            self.host.copy_(self.values)


class Upload:
    """A copy from pinned memory, which must stay as it is until the copy has been waited for.

    It has no strong reference to that memory, since torch's own copies have none that its owner could see.
    """

    def __init__(self, host: Tensor) -> None:
        self.values, self.where = clone(host.detach()), here()
        self.storage = weakref.ref(host.untyped_storage())
        self.place = (host.storage_offset(), host.shape, host.stride())
        self.arrived = False

    def __call__(self) -> None:
        if self.arrived or (storage := self.storage()) is None:
            return
        self.arrived = True
        with torch.no_grad():
            now = torch.empty(0, dtype=self.values.dtype).set_(storage, *self.place)
            same = torch.equal(torch.nan_to_num(now), torch.nan_to_num(self.values))
        if not same:
            raise RuntimeError(f"pinned memory was overwritten before its copy to the device, {self.where}, had left")


class Stream:
    """A queue of copies."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.queued: list[Arrive] = []
        self.device, self.device_index, self.device_type = torch.device("cuda:0"), 0, 1

    def put(self, copy: Arrive) -> None:
        """Queue a copy."""
        self.queued = [*self.queued[-MAX_QUEUED + 1 :], copy]

    def arrive(self) -> None:
        """Everything that is queued arrives."""
        queued, self.queued = self.queued, []
        for copy in queued:
            copy()

    def synchronize(self) -> None:
        """Wait for the whole stream."""
        COUNTS.syncs[f"stream.synchronize @ {here()}"] += 1
        self.arrive()

    def wait_stream(self, other: "Stream") -> None:
        """What follows here comes after what is queued there."""
        self.queued = [*self.queued, *other.queued]

    def wait_event(self, event: "Event") -> None:
        """What follows here comes after the event."""
        self.queued = [*self.queued, *event.queued]

    def record_event(self, event: "Event | None" = None) -> "Event":
        """An event that stands for all that is queued."""
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        """Whether everything has arrived: a device that is never late."""
        self.arrive()
        return True

    def __enter__(self) -> "Stream":
        _current.stack = [*getattr(_current, "stack", []), self]
        return self

    def __exit__(self, *_: object) -> None:
        _current.stack = _current.stack[:-1]


class Event:
    """A place in a stream's queue."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.queued: list[Arrive] = []

    def record(self, stream: Stream | None = None) -> None:
        """Stand for what is queued by now."""
        self.queued = list((stream or current_stream()).queued)

    def wait(self, stream: Stream | None = None) -> None:
        """What follows in the stream comes after this event."""
        (stream or current_stream()).wait_event(self)

    def synchronize(self) -> None:
        """Wait until the stream has come here."""
        COUNTS.waits[f"event.synchronize @ {here()}"] += 1
        self.query()

    def query(self) -> bool:
        """Whether the stream has come here: a device that is never late."""
        queued, self.queued = self.queued, []
        for copy in queued:
            copy()
        return True

    def elapsed_time(self, _: "Event") -> float:
        """Milliseconds between two events: time means nothing here."""
        return 1.0


_current = threading.local()
_default = Stream()


def current_stream(*_: Any) -> Stream:
    """This thread's stream."""
    stack = getattr(_current, "stack", [])
    return stack[-1] if stack else _default


@contextlib.contextmanager
def use(stream: Stream | None) -> Iterator[None]:
    """What ``torch.cuda.stream`` is."""
    with stream or contextlib.nullcontext():
        yield


def sync(what: str) -> None:
    """The host waits for this thread's stream."""
    COUNTS.syncs[f"{what} @ {here()}"] += 1
    current_stream().arrive()


def synchronize(*_: Any) -> None:
    """What ``torch.cuda.synchronize`` is."""
    sync("torch.cuda.synchronize")


def forget() -> None:
    """Forget what is queued and pinned."""
    _default.queued = []
    _pinned.clear()
