"""Checks that a checkpoint belongs to this run: every tensor and field, before any of it is used.

The optimizer's kernels trust the sizes of their inputs. A tensor of another size would make them read beyond its end,
and a number that is not finite would spread from there to all weights.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdist.pipeline.errors import RunError
from gdist.pipeline.schema import LARGEST

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
STATE = {"loader", "seconds", "step"}
PLACE = {"epoch", "position"}  # the fields of the loader's state

type Tensors = Mapping[str, Tensor]


class MismatchError(Exception):
    """What was found, and what was expected."""


def require_match(
    folder: Path,
    step: int,
    files: Mapping[str, Tensors],
    state: Any,
    wanted: Mapping[str, Tensors],
    params: Tensors,
    batches: Callable[[int], int],
) -> None:
    """Raise RunError unless ``files`` and ``state`` can be what this run saved at ``step``.

    Args:
        wanted: file → tensors with the required names, shapes and dtypes; without the optimizer's file.
        params: the trained parameters, by name.
        batches: epoch → its number of batches.
    """
    try:
        _check_names("its folder", files, {*wanted, "optimizer"})
        for file, tensors in wanted.items():
            _check_names(f"{file}.safetensors", files[file], tensors)
            for name, tensor in tensors.items():
                _check_tensor(f"{name} in {file}.safetensors", files[file][name], tensor.shape, tensor.dtype)
        _check_optimizer(files["optimizer"], params, step)
        averaged = files.get("average", {}).get("n_averaged")
        if averaged is not None and int(averaged) != step:
            raise MismatchError(f"n_averaged in average.safetensors is {int(averaged)}, not {step}")
        _check_state(state, step)
        epoch, position = state["loader"]["epoch"], state["loader"]["position"]
        if position > batches(epoch):
            raise MismatchError(
                f"loader.position in state.json is {position}, but epoch {epoch} has only {batches(epoch)} batches"
            )
    except MismatchError as mismatch:
        raise RunError(f"the checkpoint {folder} does not belong to this run: {mismatch}") from mismatch


def _check_names(where: str, found: Any, wanted: Any) -> None:
    if not isinstance(found, Mapping):
        raise MismatchError(f"{where} is {found!r}, not an object with {', '.join(sorted(wanted))}")
    for kind, names in (("lacks", set(wanted) - set(found)), ("has", set(found) - set(wanted))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            which = "" if kind == "lacks" else ", which this run does not have"
            raise MismatchError(f"{where} {kind} {min(names)}{more}{which}")


def _check_tensor(what: str, found: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
    if (found.shape, found.dtype) != (shape, dtype):
        raise MismatchError(f"{what} is {_form(found.shape, found.dtype)}, not {_form(shape, dtype)}")
    if found.is_floating_point() and not found.isfinite().all():
        raise MismatchError(f"{what} contains numbers that are not finite")


def _check_optimizer(found: Tensors, params: Tensors, step: int) -> None:
    """A parameter has all moments, or none if no step has used it; every step uses some parameter."""
    kinds: dict[str, set[str]] = {}
    for key in found:
        name, _, kind = key.rpartition(".")
        if name not in params or kind not in MOMENTS:
            raise MismatchError(f"optimizer.safetensors has {key}, which this run does not have")
        kinds.setdefault(name, set()).add(kind)
    if not kinds:
        raise MismatchError(f"optimizer.safetensors is empty after {step} steps")
    for name, some in kinds.items():
        if lost := [kind for kind in MOMENTS if kind not in some]:
            raise MismatchError(f"optimizer.safetensors lacks {name}.{lost[0]}, but has {name}.{min(some)}")
        for kind in MOMENTS:
            shape, dtype = (
                (torch.Size(), torch.float32) if kind == "step" else (params[name].shape, params[name].dtype)
            )
            _check_tensor(f"{name}.{kind} in optimizer.safetensors", found[f"{name}.{kind}"], shape, dtype)
        count = float(found[f"{name}.step"])
        if not (count.is_integer() and 1 <= count <= step):
            raise MismatchError(
                f"{name}.step in optimizer.safetensors is {count:g}, not a whole number from 1 to {step}"
            )
        if (found[f"{name}.exp_avg_sq"] < 0).any():
            raise MismatchError(
                f"{name}.exp_avg_sq in optimizer.safetensors is a mean of squares, but contains values below zero"
            )


def _check_state(found: Any, step: int) -> None:
    _check_names("state.json", found, STATE)
    _check_names("loader in state.json", found["loader"], PLACE)
    if type(found["step"]) is not int or found["step"] != step:
        raise MismatchError(f"step in state.json is {found['step']!r}, not {step}")
    for name, value in found["loader"].items():
        if type(value) is not int or not 0 <= value <= LARGEST:
            raise MismatchError(f"loader.{name} in state.json is {value!r}, not a whole number of at least 0")
    seconds = found["seconds"]
    if type(seconds) not in (int, float) or not math.isfinite(seconds) or seconds < 0:
        raise MismatchError(f"seconds in state.json is {seconds!r}, not a number of seconds")


def _form(shape: torch.Size, dtype: torch.dtype) -> str:
    return f"{list(shape)} of {str(dtype).removeprefix('torch.')}"
