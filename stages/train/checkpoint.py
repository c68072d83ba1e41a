"""Whether a checkpoint is one of this run: every tensor and field, before any of it is used.

The optimizer's kernels trust the sizes of what they are given. A tensor of another size would have them read beyond
its end, and a number that is not finite would spread from there to all weights.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdist.pipeline.errors import RunError

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
STATE = {"loader", "seconds", "step"}
PLACE = {"epoch", "position"}  # the loader's

type Tensors = Mapping[str, Tensor]


class MisfitError(Exception):
    """What was found, and what was wanted."""


def require_fit(
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
        wanted: file → tensors of the names, shapes and types that it has to have; without the optimizer's.
        params: what is learnt, by name.
        batches: how many of them an epoch has.
    """
    try:
        _check_names("files", files, {*wanted, "optimizer"})
        for file, tensors in wanted.items():
            _check_names(f"{file}.safetensors", files[file], tensors)
            for name, tensor in tensors.items():
                _check_tensor(f"{name} in {file}.safetensors", files[file][name], tensor.shape, tensor.dtype)
        _check_optimizer(files["optimizer"], params, step)
        averaged = files.get("average", {}).get("n_averaged")
        if averaged is not None and int(averaged) != step:
            raise MisfitError(f"n_averaged in average.safetensors is {int(averaged)}, and not {step}")
        _check_state(state, step)
        epoch, position = state["loader"]["epoch"], state["loader"]["position"]
        if position > batches(epoch):
            raise MisfitError(
                f"loader.position in state.json is {position}, and epoch {epoch} has {batches(epoch)} batches"
            )
    except MisfitError as misfit:
        raise RunError(
            f"the checkpoint {folder} is not one of this run: {misfit}",
            f"delete {folder} to go on from the one before",
        ) from misfit


def _check_names(where: str, found: Any, wanted: Any) -> None:
    if not isinstance(found, Mapping):
        raise MisfitError(f"{where} is {found!r}, and not an object with {', '.join(sorted(wanted))}")
    for kind, names in (("lack", set(wanted) - set(found)), ("have", set(found) - set(wanted))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            which = "" if kind == "lack" else ", which this run does not have"
            raise MisfitError(f"its {where} {kind} {min(names)}{more}{which}")


def _check_tensor(what: str, found: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
    if (found.shape, found.dtype) != (shape, dtype):
        raise MisfitError(f"{what} is {_form(found.shape, found.dtype)}, and not {_form(shape, dtype)}")
    if found.is_floating_point() and not found.isfinite().all():
        raise MisfitError(f"{what} holds numbers that are not finite")


def _check_optimizer(found: Tensors, params: Tensors, step: int) -> None:
    """A parameter that never learnt has no moments, one that did has all of them; and a step teaches something."""
    kinds: dict[str, set[str]] = {}
    for key in found:
        name, _, kind = key.rpartition(".")
        if name not in params or kind not in MOMENTS:
            raise MisfitError(f"its optimizer.safetensors has {key}, which this run does not have")
        kinds.setdefault(name, set()).add(kind)
    if not kinds:
        raise MisfitError(f"its optimizer.safetensors is empty, after {step} steps")
    for name, some in kinds.items():
        if lost := [kind for kind in MOMENTS if kind not in some]:
            raise MisfitError(f"its optimizer.safetensors lacks {name}.{lost[0]}, and has {name}.{min(some)}")
        for kind in MOMENTS:
            shape, dtype = (
                (torch.Size(), torch.float32) if kind == "step" else (params[name].shape, params[name].dtype)
            )
            _check_tensor(f"{name}.{kind} in optimizer.safetensors", found[f"{name}.{kind}"], shape, dtype)
        count = float(found[f"{name}.step"])
        if not (count.is_integer() and 1 <= count <= step):
            raise MisfitError(f"{name}.step in optimizer.safetensors is {count:g}, and not a number from 1 to {step}")
        if (found[f"{name}.exp_avg_sq"] < 0).any():
            raise MisfitError(f"{name}.exp_avg_sq in optimizer.safetensors is a mean of squares, and below zero")


def _check_state(found: Any, step: int) -> None:
    _check_names("state.json", found, STATE)
    _check_names("loader in state.json", found["loader"], PLACE)
    if type(found["step"]) is not int or found["step"] != step:
        raise MisfitError(f"step in state.json is {found['step']!r}, and not {step}")
    for name, value in found["loader"].items():
        if type(value) is not int or value < 0:
            raise MisfitError(f"loader.{name} in state.json is {value!r}, and not a number from 0 on")
    seconds = found["seconds"]
    if type(seconds) not in (int, float) or not math.isfinite(seconds) or seconds < 0:
        raise MisfitError(f"seconds in state.json is {seconds!r}, and not a number of seconds")


def _form(shape: torch.Size, dtype: torch.dtype) -> str:
    return f"{list(shape)} of {str(dtype).removeprefix('torch.')}"
