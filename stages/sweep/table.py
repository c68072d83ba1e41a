"""Where a sweep stands, as a table: for people and for ``--json``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.sweep.folder import Standing, SweepFolder
from gdist.stages.sweep.options import Tally
from gdist.stages.sweep.plan import Plan
from gdist.stages.sweep.points import Point
from gdist.stages.sweep.rates import Rates


def result(folder: SweepFolder, plan: Plan, chosen: Sequence[Point], tally: Tally) -> dict[str, Any]:
    """What ``--json`` prints (see docs/reference/json.md).

    Args:
        chosen: the points that this call was about.
        tally: what it did.
    """
    standings = {point.signature: folder.standing(point) for point in chosen}
    states = [standings[point.signature].state for point in chosen]
    rates = Rates(folder, plan.points)
    estimates = [
        None if point.pending else rates.seconds(point, standings[point.signature].step)
        for point in chosen
        if standings[point.signature].state in ("new", "begun")
    ]
    known = [seconds for seconds in estimates if seconds is not None]
    to_come = 0 if plan.config.only or plan.config.first else plan.runs_to_come
    whole = known and len(known) == len(estimates) and not to_come
    return {
        "points": len(chosen) + to_come,
        "done": sum(state in ("done", "stopped") for state in states),
        "ran": len(tally.ran),
        "failed": states.count("failed")
        + sum(signature in standings and standings[signature].state == "trained" for signature in tally.failed_now),
        "left": sum(state in ("new", "begun", "trained") for state in states) + to_come,
        "to_come": to_come,
        "seconds_left": sum(known) / plan.config.jobs if whole else None,
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
        "steps": None if point.pending else point.config.train.steps,
        "value": standing.value,
        "run": str(folder.run(point)),
        "signature": point.signature,
        "log": standing.failure["log"] if standing.failure else [],
        "trial": point.trial,
        "equal": point.equal,
        "stopped": dataclasses.asdict(standing.stopped) if standing.stopped else None,
    }


def _state(row: dict[str, Any]) -> str:
    if row["steps"] is None:
        return f"new, equal to {row['equal']}, to be measured"
    if row["state"] == "stopped":
        return f"stopped, {row['stopped']['reason']}"
    return f"begun, step {row['step']} of {row['steps']}" if row["state"] == "begun" else str(row["state"])


def show(found: dict[str, Any], file: Path, out: Path) -> None:
    """Print the table for people."""
    rows = [
        [
            row["name"] or "–",
            str(row["seed"]),
            _state(row),
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
    to_come = f" (of those {found['to_come']} of trials that are proposed later)" if found["to_come"] else ""
    time_left = "" if found["seconds_left"] is None else f", about {found['seconds_left'] / 60:.0f} min"
    console.say(
        f"{found['points']} points: {found['done']} done, {found['ran']} of them now, {found['failed']} failed, "
        f"{found['left']} left{to_come}{time_left if found['left'] else ''}"
    )
    if found["failed"]:
        again = f"gdist sweep {in_shell(file)} --out {in_shell(out)} … --retry-failed"
        console.say(f"  to try failed points again: {again}")
