"""Tensors of a pretended GPU: a wrapper that says cuda:0 around a CPU tensor, and what CUDA does with operators."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pretend import attention
from pretend.counts import COUNTS, here
from pretend.streams import Download, Upload, current_stream, is_pinned, pin, sync

CUDA = torch.device("cuda:0")

NO_KERNEL = {
    f"aten::{name}"
    for name in (
        "detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
        "_unsafe_view", "_reshape_alias", "set_", "resize_",
    )
}  # fmt: skip
# Their result's value or shape is needed by the host.
SYNCHRONISING = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim",
        "unique_consecutive", "bincount",
    )
}  # fmt: skip
RETURNS_TO_HOST = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"}
# An index may be on the CPU: torch copies it, and waits.
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
OWN_KERNELS = {
    "aten::_scaled_dot_product_efficient_attention": attention.forward,
    "aten::_scaled_dot_product_efficient_attention_backward": attention.backward,
}


class Cuda(Tensor):
    """A tensor that says it is on cuda:0, around the CPU tensor ``held``."""

    held: Tensor

    @staticmethod
    def __new__(cls: type["Cuda"], held: Tensor) -> "Cuda":
        made: Cuda = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=CUDA, requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Cuda({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return run(func, args, kwargs or {})

    # What torch does behind the dispatcher's back.

    def record_stream(self, stream: Any) -> None:
        pass

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def is_pinned(self, *_: Any) -> bool:
        return False

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def __deepcopy__(self, memo: Any) -> Any:
        made: Tensor = Cuda(self.held.detach().clone())
        if getattr(self, "_is_param", False):
            made = torch.nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made

    def tolist(self) -> Any:
        sync("tolist")
        return self.held.tolist()

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None, *_: Any, **__: Any) -> Tensor:
        sync("new_tensor")
        return Cuda(torch.tensor(data, dtype=dtype or self.dtype))

    def __getitem__(self, index: Any) -> Any:  # lists in an index become CPU tensors
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, list) for part in parts):
            parts = tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts)
            index = parts if isinstance(index, tuple) else parts[0]
        return super().__getitem__(index)


def to_cpu(tensor: Tensor) -> Tensor:
    """The values, whichever device the tensor says it is on; nothing is counted."""
    return tensor.held if isinstance(tensor, Cuda) else tensor


def is_cuda(tensor: Tensor) -> bool:
    """Whether the tensor is on the pretended GPU."""
    return isinstance(tensor, Cuda)


class Device(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes the calls that make a tensor on the GPU or in pinned memory: they have no argument that is there yet."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        there = device is not None and torch.device(device).type == "cuda"
        if there or Cuda in types or kwargs.get("pin_memory"):
            return run(func, args, kwargs)
        return func(*args, **kwargs)


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operator, as a GPU would run it."""
    name = func._schema.name
    if name == "aten::_to_copy":
        return _to_copy(func, args[0], kwargs)
    if name == "aten::copy_":
        return _copy(args[0], args[1], bool(args[2] if len(args) > 2 else kwargs.get("non_blocking")))
    tensors = [*_tensors(args), *_tensors(kwargs)]
    there = [x for x in tensors if isinstance(x, Cuda)]
    if there:
        _refuse_mixture(name, args, tensors)
        _synchronise(name, args)
    device = kwargs.get("device")
    to_device = torch.device(device).type == "cuda" if device is not None else bool(there)
    pinned = bool(kwargs.get("pin_memory"))
    local = dict(kwargs)
    if device is not None:
        local["device"] = torch.device("cpu")
    if "pin_memory" in local:
        local["pin_memory"] = False
    kernel: Any = OWN_KERNELS.get(name, func)
    result = kernel(*_each(args, to_cpu), **_each(local, to_cpu))
    if pinned:
        pin(result)
    if not to_device:
        return result
    if name not in NO_KERNEL and not _is_view(func):
        _launch(name)
    if name in RETURNS_TO_HOST:
        return result
    known = {id(x.held): x for x in there}  # operators in place return the tensor they were given
    return _each(result, lambda x: known[id(x)] if id(x) in known else Cuda(x))


def _tensors(found: Any) -> Iterator[Tensor]:
    """The tensors among an operator's arguments."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, list | tuple | dict):
        for one in found.values() if isinstance(found, dict) else found:
            yield from _tensors(one)


def _each(found: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An operator's arguments or results with each tensor changed."""
    if isinstance(found, Tensor):
        return change(found)
    if isinstance(found, list | tuple):
        return type(found)([_each(one, change) for one in found])
    if isinstance(found, dict):
        return {name: _each(one, change) for name, one in found.items()}
    return found


def _launch(name: str) -> None:
    COUNTS.launches[f"{name} @ {here()}"] += 1


@functools.cache
def _is_view(func: Any) -> bool:
    return any(out.alias_info is not None and not out.alias_info.is_write for out in func._schema.returns)


def _refuse_mixture(name: str, args: Any, tensors: list[Tensor]) -> None:
    """CUDA takes CPU tensors without dimensions, and as indices; any other raises."""
    strangers = [x for x in tensors if not isinstance(x, Cuda) and x.dim()]
    if strangers and name in INDEXING and isinstance(args[0], Cuda):
        values = args[2] if len(args) > 2 else None
        if all(x is not values for x in strangers):
            sync(f"copy of a CPU index ({name})")
            return
    if strangers:
        shown = [(tuple(x.shape), str(x.device)) for x in tensors]
        raise RuntimeError(f"{name} got tensors on the CPU and on CUDA at {here()}: {shown}")


def _synchronise(name: str, args: Any) -> None:
    if name in SYNCHRONISING or (name == "aten::repeat_interleave" and isinstance(args[0], Tensor)):
        sync(name)
    elif name in INDEXING and any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1]):
        sync("index of booleans")


# --- copies ---------------------------------------------------------------------------------------------------------


def _to_copy(func: Any, source: Tensor, kwargs: dict[str, Any]) -> Tensor:
    there = isinstance(source, Cuda)
    device = kwargs.get("device")
    to_device = torch.device(device).type == "cuda" if device is not None else there
    waits = not kwargs.get("non_blocking", False)
    local = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
    made: Tensor = func(to_cpu(source), **local)
    if made is to_cpu(source):
        made = made.clone()
    if not to_device:
        if there:
            _download(pin(made) if not waits else made, made, waits)  # torch pins what it is asked not to wait for
        return pin(made) if kwargs.get("pin_memory") else made
    if not there:
        _upload(source, waits)
    _launch("aten::_to_copy")
    return Cuda(made)


def _copy(target: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
    if isinstance(target, Cuda):
        if not isinstance(source, Cuda):
            _upload(source, not non_blocking)
        _launch("aten::copy_")
        target.held.copy_(to_cpu(source))
    elif isinstance(source, Cuda):
        target.copy_(source.held)
        _download(target, target, not non_blocking)
    else:
        target.copy_(source)
    return target


def _upload(host: Tensor, waits: bool) -> None:
    if waits:
        sync("copy to the device")
    elif is_pinned(host):
        current_stream().put(Upload(host))
    else:
        COUNTS.pageable[here()] += 1


def _download(host: Tensor, values: Tensor, waits: bool) -> None:
    if waits:
        sync("copy to the host")
    elif is_pinned(host):
        current_stream().put(Download(host, values))
    else:
        sync("copy to the host, whose memory is not pinned")
