"""Going on with a run to another number of steps, or by another schedule: where no step taken would have differed."""

from dataclasses import dataclass, field

from gdist.pipeline.config import build, differences, to_tables
from gdist.pipeline.errors import RunError
from gdist.pipeline.run import Run
from gdist.pipeline.run.identity import identifying
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.train.config import OptimConfig, TrainConfig
from gdist.stages.train.schedule import learning_rate

# Nothing else of a step depends on them: what is forced, thawed or drawn depends on its own number.
SCHEDULE = frozenset({"steps", "schedule"})


@dataclass(frozen=True)
class _OptimOnly:
    train: OptimConfig = field(default_factory=OptimConfig)


def may_change(run: Run, config: TrainConfig) -> frozenset[str]:
    """The fields of [train] in which ``config`` may differ from that of a run which has begun.

    Raises:
        RunError: they are all that differs, and steps that are taken already would have had other rates.
    """
    if not (run.folder / "config.toml").exists():
        return frozenset()
    try:
        before, now = run.tables(), to_tables(config)
    except RunError:  # it is damaged: `Run.begin` says so, or mends it
        return frozenset()
    if not any(before["train"].get(key) != now["train"][key] for key in SCHEDULE):
        return frozenset()
    was = build(_OptimOnly, {"train": before["train"]}).train
    if reason := _obstacle(run, was, config.train):
        if not differences(identifying(before, SCHEDULE), identifying(now, SCHEDULE)):
            raise RunError(*reason)
        return frozenset()
    return SCHEDULE


def _obstacle(run: Run, was: OptimConfig, now: OptimConfig) -> tuple[str, str] | None:
    """Why a run cannot go on by another schedule, and what to type; None where it can."""
    taken = max(run.steps(), default=0)
    anew = f"begin a run of its own from it: gdist train … --start-from {in_shell(run.folder)} --out NEW"
    if (run.folder.absolute().parent.parent / "sweep.json").exists():
        return (
            f"{run.folder} belongs to a sweep, whose file says how its runs are trained",
            f"change that file, or {anew}",
        )
    if run.is_finished and taken < was.steps:
        return f"{run.folder} has its student after step {was.steps}, but no checkpoint to go on from", anew
    if now.steps < taken:
        kept = f"gdist eval {in_shell(f'{run.folder}@{now.steps}')} is about" if now.steps in run.steps() else ""
        end = f"{kept} its student at step {now.steps}" if kept else "choose another --out"
        return f"{run.folder} has taken {taken} steps already, more than train.steps = {now.steps}", end
    differs = next(
        (step for step in range(1, taken + 1) if learning_rate(was, step) != learning_rate(now, step)), None
    )
    if differs is None:
        return None
    return (
        f"{run.folder} has taken {taken} steps with train.steps = {was.steps} and train.schedule = {was.schedule}; "
        f"with {now.steps} and {now.schedule}, the rates from step {differs} on would have been others",
        f"{anew}. A run that begins with --set train.schedule=constant can go on to any number of steps",
    )
