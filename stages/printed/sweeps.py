"""What the commands about sweeps print."""

from typing import Any, Literal, TypedDict


class Stopped(TypedDict):
    """Where and why a point was stopped early.

    Attributes:
        value: the mean over its seeds.
    """

    rung: int
    step: int
    value: float
    reason: str


class PointRow(TypedDict):
    """A point and seed.

    Attributes:
        varied: field → value.
        state: trained is not yet evaluated.
        steps: null where ``[equal]`` is yet to be measured.
        value: of the metric; of a stopped point, at its rung.
        log: the last lines, where it failed.
        trial: its number in a search, else null.
        equal: whose cost its steps match, else null.
    """

    name: str
    seed: int
    varied: dict[str, Any]
    state: Literal["new", "begun", "trained", "done", "stopped", "failed"]
    step: int
    steps: int | None
    value: float | None
    run: str
    signature: str
    log: list[str]
    trial: int | None
    equal: str | None
    stopped: Stopped | None


class Swept(TypedDict):
    """Where a sweep stands.

    Attributes:
        done: points that were stopped early count: nothing is left to do for them.
        ran: trained or resumed to the end by this call.
        to_come: those of ``points`` and ``left`` that belong to trials which a search proposes later.
        seconds_left: by the steps measured so far, else null.
    """

    points: int
    done: int
    ran: int
    failed: int
    left: int
    to_come: int
    seconds_left: float | None
    metric: str
    table: list[PointRow]


class _Best(TypedDict):
    metric: str
    split: str | None
    higher_is_better: bool
    point: str
    mean: float
    seeds: int
    of_seeds: int
    run: str
    value: float
    export: str
    second: str | None
    margin: float | None
    error: float | None
    clear: bool | None
    level: list[str]
    left_out: dict[str, str]
    teacher: str | None


class Best(_Best):
    """Which student to take.

    Attributes:
        split: of ``gdist eval``; null for what training measured.
        mean: over its finished seeds.
        of_seeds: how many the sweep has for it.
        run, value: its best one.
        export: the command.
        error: the standard error of the margin over seeds; null with one seed.
        clear: whether the margin is at least twice that; null with one seed.
        level: the points within the scatter of seeds of the best.
        left_out: point → why it has no place: stopped, failed, not measured, not a finite number.
        teacher: of these points.
        other_teachers: the same for the students of each other teacher, where the metric is a fidelity: a cosine to
            one teacher says nothing beside a cosine to another.
    """

    other_teachers: list[Any]
