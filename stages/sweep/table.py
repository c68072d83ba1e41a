"""Where a sweep stands, as a table: for people and for ``--json``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.run import Run
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.sweep.folder import Standing, SweepFolder
from gdist.stages.sweep.points import Point


def seconds_left(folder: SweepFolder, points: Sequence[Point], point: Point, step: int) -> float | None:
    """About how long a point takes from here, by the steps that it, its other seeds or any other point has made."""
    same = [other for other in points if other.name == point.name]
    for others in ([point], same, points):
        rates = [rate for other in others if (rate := seconds_per_step(Run(folder.run(other)))) is not None]
        if rates:
            return (point.config.train.steps - step) * sum(rates) / len(rates)
    return None


def seconds_per_step(run: Run) -> float | None:
    """The wall time of a run's steps, validations included; None before its first report."""
    rows = run.read_metrics()
    return float(rows[-1]["seconds"]) / rows[-1]["step"] if rows and rows[-1]["step"] else None


def result(
    folder: SweepFolder,
    points: Sequence[Point],
    chosen: Sequence[Point],
    ran: set[str],
    failed_now: set[str],
    jobs: int,
) -> dict[str, Any]:
    """What ``--json`` prints (see docs/commands.md).

    Args:
        chosen: those of ``points`` that this call was about.
        ran, failed_now: signatures of those that it trained to the end, and that failed in it.
    """
    standings = {point.signature: folder.standing(point) for point in points}
    states = [standings[point.signature].state for point in chosen]
    estimates = [
        seconds_left(folder, points, point, standings[point.signature].step)
        for point in chosen
        if standings[point.signature].state in ("new", "begun")
    ]
    known = [seconds for seconds in estimates if seconds is not None]
    return {
        "points": len(chosen),
        "done": states.count("done"),
        "ran": len(ran),
        "failed": states.count("failed") + sum(standings[s].state == "trained" for s in failed_now),
        "left": sum(state in ("new", "begun", "trained") for state in states),
        "seconds_left": sum(known) / jobs if known and len(known) == len(estimates) else None,
        "metric": folder.judge.metric,
        "table": [_row(folder, point, standings[point.signature]) for point in chosen],
    }


def _row(folder: SweepFolder, point: Point, standing: Standing) -> dict[str, Any]:
    return {
        "name": point.name,
        "seed": point.seed,
        "varied": point.varied,
        "state": standing.state,
        "step": standing.step,
        "steps": point.config.train.steps,
        "value": standing.value,
        "run": str(folder.run(point)),
        "signature": point.signature,
        "log": standing.failure["log"] if standing.failure else [],
    }


def show(found: dict[str, Any], file: Path, out: Path) -> None:
    """Print the table for people."""
    rows = [
        [
            row["name"] or "–",
            str(row["seed"]),
            f"{row['state']}" + (f", step {row['step']} of {row['steps']}" if row["state"] == "begun" else ""),
            "–" if row["value"] is None else f"{row['value']:.4f}",
        ]
        for row in found["table"]
    ]
    console.print_table(str(out), ["point", "seed", "state", found["metric"]], rows)
    for row in found["table"]:
        if row["state"] == "failed":
            console.say(f"{row['name']} seed {row['seed']} failed:", style="red")
            for line in row["log"]:
                console.say(f"  {line}")
    time_left = "" if found["seconds_left"] is None else f", about {found['seconds_left'] / 60:.0f} min"
    console.say(
        f"{found['points']} points: {found['done']} done, {found['ran']} of them now, {found['failed']} failed, "
        f"{found['left']} left{time_left if found['left'] else ''}"
    )
    if found["failed"]:
        again = f"gdist sweep {in_shell(file)} --out {in_shell(out)} … --retry-failed"
        console.say(f"  to try failed points again: {again}")
