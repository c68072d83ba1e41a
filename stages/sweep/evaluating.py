"""Evaluates the finished points of a sweep, where its file asks for more than training measures."""

from collections.abc import Sequence

from gdist.pipeline import console
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.jobs import Job
from gdist.stages.sweep.options import SweepConfig, Tally
from gdist.stages.sweep.points import Point
from gdist.stages.sweep.training import Advance, gpus, stopped_by_hand, threads_each


def evaluate_points(
    folder: SweepFolder, points: Sequence[Point], config: SweepConfig, tally: Tally, advance: Advance
) -> None:
    """Evaluate what is trained, in as many processes: each shares what its runs have in common."""
    judge = folder.judge
    todo = [point for point in points if folder.standing(point).state == "trained"] if judge.evaluates else []
    shares: dict[str, list[Point]] = {}
    by_cache: dict[str, list[Point]] = {}
    for point in todo:
        by_cache.setdefault(judge.cache or point.cache, []).append(point)
    for found in by_cache.values():
        for share in range(min(config.jobs, len(found))):
            shares[f"evaluation {len(shares) + 1}"] = found[share :: config.jobs]
    options = ["--split", judge.split, "--probes", judge.probes, "--minutes", str(judge.minutes)]
    options += ["--cache", judge.cache] if judge.cache else []
    jobs = [
        Job(
            name,
            ["eval", *(str(folder.run(p)) for p in share), *options, *config.passed],
            folder.logs / f"{name}.log",
        )
        for name, share in shares.items()
    ]

    def ended(job: Job, code: int) -> bool:
        for point in shares[job.name]:
            if code and not stopped_by_hand(code) and folder.standing(point).state == "trained":
                tally.failed_now.add(point.signature)
        if code and not stopped_by_hand(code):
            console.say(f"{job.name} failed with exit code {code}; see {job.log}", style="red")
        return True

    def watch(running: Sequence[Job]) -> None:
        left = sum(folder.standing(point).state == "trained" for point in todo)
        advance(0, f"evaluating: {left} of {len(todo)} runs left")

    if jobs and config.run(jobs, config.jobs, threads_each(config.jobs), gpus(), ended, watch):
        raise KeyboardInterrupt
