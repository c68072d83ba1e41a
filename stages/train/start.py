"""Beginning a run with the weights of another student: ``--start-from``. The optimizer begins anew, at step 0."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdist.pipeline.config import differences
from gdist.pipeline.errors import ConfigError, GdistError
from gdist.pipeline.run import Run
from gdist.pipeline.run.documents import read_document
from gdist.pipeline.run.schema import Mark
from gdist.pipeline.run.snapshot import run_and_step, snapshot
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.students import Student, StudentConfig, load_student
from gdist.stages.train.caches import recorded

EXPORTED = "gdist-export.json"  # what an export says of itself


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
        record: what run.json says of it; ``sha256`` is that of the weights, wherever they are.
        student: None where it is not there any more, and the run has checkpoints of its own.
    """

    record: dict[str, Any]
    student: Student | None


def start_of(run: Run | None, given: Path) -> Start:
    """Read what was typed after ``--start-from``: ``RUN``, ``RUN@STEP`` or the folder of an export.

    Args:
        run: that begins with it; None where there is none yet. One that has begun goes on from its own checkpoints,
            so what it began with may have gone since, or gone on.

    Raises:
        RunError: there is no student.
    """
    before = recorded(run).get("start") if run else None
    folder, step = run_and_step(given)
    if run and before and str(folder.absolute()) == before["folder"] and step in (None, before.get("step")):
        try:
            return _read(folder, before.get("step"))
        except GdistError:
            if not run.steps():
                raise
            return Start(before, None)
    return _read(folder, step)


def _read(folder: Path, step: int | None) -> Start:
    record: dict[str, Any] = {"folder": str(folder.absolute())}
    if (folder / "config.toml").exists():
        at = snapshot(folder if step is None else f"{folder}@{step}")
        student, origin = load_student(at), at.run.provenance()
        record |= {"run": at.run.name, **at.progress}
    else:
        student, origin = load_student(folder), {}
        if (folder / EXPORTED).exists():
            exported = read_document(folder / EXPORTED, Mark, "export the student again")
            record["exported"] = {
                key: exported[key] for key in ("run", "step", "steps", "finished") if key in exported
            }
            origin = exported.get("provenance", {})
    record["sha256"] = digest(student.state_dict())
    record |= {key: origin[key] for key in ("signature", "cache_checksum", "start") if key in origin}
    if teacher := origin.get("teacher"):
        record["teacher"] = {key: teacher.get(key) for key in ("name", "fingerprint")}
    return Start(record, student)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of weights by name, which is the same in a checkpoint, in a run's student and in an export."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def require_alike(config: StudentConfig, start: Start) -> None:
    """Raise ConfigError where the weights belong to another student than that of ``config``; the first difference is
    named."""
    if start.student is None:
        return
    other, place = start.student.config, in_shell(start.record["folder"])
    if config.model_type != other.model_type:
        theirs, own = (each.model_type.removeprefix("gdist-") for each in (other, config))
        raise ConfigError(
            f"cannot start from {place}: it is a {theirs}, and this run's student is a {own}",
            "name the same with --student",
        )
    if found := differences(other.in_use(), config.in_use()):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ConfigError(
            f"cannot start from {place}: this run's student is another one: {found[0]}{more}",
            "--set student.… for each, as it was; what is not a field of the student's follows from the teacher",
        )


def begin_with(student: Student, start: Start, frozen: bool) -> None:
    """Give a new student the weights that a run begins with: of the front-end, the layers, everything.

    Args:
        frozen: whether its front-end is, which then has the teacher's weights.

    Raises:
        ConfigError: they belong to another student, or the front-end is not the teacher's.
    """
    require_alike(student.config, start)
    if start.student is None:
        return
    place, state = in_shell(start.record["folder"]), start.student.state_dict()
    teachers = {f"frontend.{name}": tensor for name, tensor in student.frontend.state_dict().items()}
    if frozen and not all(torch.equal(state[name], tensor) for name, tensor in teachers.items()):
        raise ConfigError(
            f"cannot start from {place} with a frozen front-end: that must be the teacher's, and its own was trained",
            "--set student.frontend=trained",
        )
    try:
        student.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"cannot start from {place}: its weights do not fit: {error}") from error
