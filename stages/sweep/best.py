"""`gdist best`: which run of a sweep to take, by how much it is ahead, and whether that is more than scatter."""

from pathlib import Path
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.errors import RunError, UsageError
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.standings.ranking import OF_EVAL, OF_TRAINING, Ranking, is_clear, rank, scatter
from gdist.stages.standings.record import read_sweep
from gdist.stages.standings.teachers import by_teacher

MAX_NAMED = 5  # points that a line names before it counts the rest


def best(folder: Path, metric: str | None = None, split: str | None = None) -> dict[str, Any]:
    """The best point of a sweep, and its best run.

    How close students are to different teachers cannot be compared: there is one for each teacher. Probes can be.

    Args:
        metric, split: by default, those by which the sweep itself judges its points.

    Returns:
        the fields of ``gdist best --json`` (see docs/reference/json.md).

    Raises:
        RunError: the folder contains no sweep, or nothing in it is finished.
        UsageError: no finished run has this metric.
    """
    sweep = read_sweep(folder)
    metric, split = metric or sweep.metric, split or sweep.split
    apart = by_teacher(sweep)
    if metric not in OF_TRAINING and metric != OF_EVAL:
        whose = {entry.folder: name for name, own in apart for entry in own.entries}
        answer = _answer(rank(sweep, metric, split))
        return answer | {"teacher": whose[Path(answer["run"])], "other_teachers": []}
    answers, failed = [], None
    for name, own in apart:
        try:
            answers.append(_answer(rank(own, metric, split)) | {"teacher": name, "other_teachers": []})
        except (RunError, UsageError) as error:
            failed = failed or error
            if len(apart) > 1:
                console.say(f"left out: the students of {name}: {error.message}", style="yellow")
    if not answers and failed is not None:
        raise failed
    return answers[0] | {"other_teachers": answers[1:]}


def _answer(ranking: Ranking) -> dict[str, Any]:
    first = ranking.candidates[0]
    value, run = first.best(ranking.higher)
    answer: dict[str, Any] = {
        "metric": ranking.metric,
        "split": ranking.split,
        "higher_is_better": ranking.higher,
        "point": first.name,
        "mean": first.mean,
        "seeds": len(first.seeds),
        "of_seeds": first.of_seeds,
        "run": str(run),
        "value": value,
        "export": f"gdist export {in_shell(run)} --format hf --out FOLDER",
        "second": None,
        "margin": None,
        "error": None,
        "clear": None,
        "level": [other.name for other in ranking.level()],
        "left_out": ranking.left_out,
    }
    if len(ranking.candidates) > 1:
        second = ranking.candidates[1]
        margin, error = abs(first.mean - second.mean), scatter(first, second)
        clear = None if error is None else is_clear(margin, error)
        answer |= {"second": second.name, "margin": margin, "error": error, "clear": clear}
    return answer


def show(answer: dict[str, Any]) -> None:
    """Print the answer for people; of several teachers, one after another."""
    others = answer["other_teachers"]
    for one in (answer, *others):
        if others:
            console.say(f"students of {one['teacher']}:")
        _show(one)
    if others:
        console.say(
            "a cosine to one teacher says nothing beside a cosine to another; probes can be compared: --metric"
        )


def _show(answer: dict[str, Any]) -> None:
    of = f" of {answer['of_seeds']}" if answer["of_seeds"] > answer["seeds"] else ""
    seeds = f"mean of {answer['seeds']}{of} seeds" if answer["seeds"] > 1 else f"one{of} seed{'s' if of else ''}"
    where = f" on the split {answer['split']}" if answer["split"] else ""
    console.say(
        f"{answer['point'] or 'the only point'}: {answer['metric']} {answer['mean']:.4f}{where} ({seeds})",
        style="green",
    )
    if answer["second"] is not None:
        words = {True: "more than the scatter of seeds", False: "within the scatter of seeds"}
        how = words.get(answer["clear"], "whether that is more than scatter takes two seeds of each to know")
        error = "" if answer["error"] is None else f" ± {answer['error']:.4f}"
        console.say(f"  ahead of {answer['second'] or 'the other'} by {answer['margin']:.4f}{error}: {how}")
    if answer["clear"] is False and len(answer["level"]) > 1:
        console.say(f"  not clearly behind it: {_named(answer['level'])}")
    console.say(f"  its best run: {answer['run']} ({answer['value']:.4f})")
    for point, reason in list(answer["left_out"].items())[:MAX_NAMED]:
        console.say(f"  left out: {point}: {reason}", style="yellow")
    if (more := len(answer["left_out"]) - MAX_NAMED) > 0:
        console.say(f"  and {more} more were left out", style="yellow")
    console.say(f"  next: {answer['export']}")


def _named(points: list[str]) -> str:
    more = len(points) - MAX_NAMED
    return ", ".join(points[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
