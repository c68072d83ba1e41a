"""What is measured: students together over the same alone, and a sweep over distillation with the teacher online."""

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bucket_steps.server import Bucket
from timing import timed_both
from train import online, s3prl_like

from gdist.pipeline.loading.batch import Batch, Selection
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import choose_splits, usable_entries
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.learner import Learner
from gdist.stages.train.student_store import build_student
from sweep_steps.setting import FRONTENDS, STUDENTS, Seconds, Setting

MANY = 8
SWEEP = 24  # students
SWEEP_STEPS, SWEEP_SECONDS = 120, 16.0  # of each student and of a batch, as in the demo's recipe
LAYERS = 4  # per step, of the fastest settings
LIMITS = {"line": 0.2, "apart": 1.05, "sweep, fastest": 0.2}
LINE_SECONDS = 30.0  # of a batch behind the line
COSTLESS = f"{Path(__file__).parents[1] / 'bucket_steps' / 'paced.py'}:Paced"


def say(what: str, found: Seconds, limit: float | None = None) -> None:
    bound = "" if limit is None else f"   limit {limit:g}: {'kept' if found.wall <= limit else 'NOT KEPT'}"
    print(f"  {what:44} {found.wall:7.3f}   by processor seconds {found.cpu:7.3f}{bound}", flush=True)


def median(ratios: Sequence[Seconds]) -> Seconds:
    return Seconds(*(statistics.median(each) for each in zip(*ratios, strict=True)))


def together(setting: Setting, found: dict[str, Any]) -> None:
    """N students from one stream, over N times one of them alone, measured before and after."""
    for student in STUDENTS:
        for frontend in FRONTENDS:
            fields = (f"student.frontend={frontend}",)
            ratios: dict[int, list[Seconds]] = {}
            one = setting.config(student, *fields)
            setting.alone(one)  # the first training of a process is slower
            for _ in range(setting.options.rounds):
                before = setting.alone(one)
                for count in setting.options.counts:
                    configs = [setting.config(student, *fields, number=number) for number in range(count)]
                    cost, after = setting.together(configs), setting.alone(one)
                    ratios.setdefault(count, []).append(cost.over((before + after).times(count / 2)))
                    before = after
            for count, some in ratios.items():
                middle = median(some)
                say(f"{student}, front-end {frontend}, {count} together", middle)
                for name, value in (("together", middle.wall), ("together_cpu", middle.cpu)):
                    found.setdefault(name, {}).setdefault(student, {}).setdefault(frontend, {})[str(count)] = value


def line(setting: Setting, found: dict[str, Any]) -> None:
    """The same where reading is all there is: a bucket behind a slow line, and students that cost nothing."""
    with Bucket(setting.place / "server") as bucket:
        shutil.copytree(setting.uri, bucket.folder / "cache")
        behind = replace(setting, uri=f"{bucket.uri}/cache")
        entries = choose_splits(usable_entries(setting.cache()), setting.config("gendistiller").data)["train"]
        order = Loader(setting.cache(), entries, Selection(()), LINE_SECONDS, 15.0)
        steps = len(order.epoch_batches(0))
        configs = [
            setting.config(
                COSTLESS, "student.frontend=frozen", "student.pace=1e9", f"train.batch_seconds={LINE_SECONDS}",
                f"train.log_every={steps}",  # a report costs more than such a student
                "student.predict_layers=" + ",".join(str(layer) for layer in setting.cache().layers if layer),
                steps=steps, number=number,
            )
            for number in range(MANY)
        ]  # fmt: skip
        ratios = []
        for _ in range(setting.options.rounds):
            bucket.line(0.03, setting.options.megabytes)
            one = behind.alone(configs[0], skip=0)
            bucket.line(0.03, setting.options.megabytes)
            ratios.append(behind.together(configs, skip=0).over(one.times(MANY)))
        say(f"reading alone limits, {MANY} together", median(ratios), LIMITS["line"])
        found["line"] = {str(MANY): median(ratios).wall}


def apart(setting: Setting, found: dict[str, Any]) -> None:
    """Eight together, over one reading of each batch and eight students that learn from it, each measured apart."""
    for student in STUDENTS:
        for frontend in FRONTENDS:
            configs = [
                setting.config(student, f"student.frontend={frontend}", number=number) for number in range(MANY)
            ]
            reading = students = both = Seconds(0.0, 0.0)
            rounds: list[float] = []
            for _ in range(setting.options.rounds):
                read, learned = _apart(setting, configs)
                shared = setting.together(configs)
                rounds.append(shared.over(read + learned).wall)
                reading, students, both = reading + read, students + learned, both + shared
            ratio = both.over(reading + students)
            say(f"{student}, front-end {frontend}, {MANY} together", ratio, LIMITS["apart"])
            print(f"    each round: {', '.join(f'{each:.3f}' for each in rounds)}", flush=True)
            print(f"    reading {reading.wall / students.wall:.2%} of {MANY} students", flush=True)
            found.setdefault("apart", {}).setdefault(student, {})[frontend] = {
                "ratio": ratio.wall, "ratio_cpu": ratio.cpu, "rounds": rounds,
                "reading_of_students": reading.wall / students.wall,
            }  # fmt: skip


def _apart(setting: Setting, configs: Sequence[TrainConfig]) -> tuple[Seconds, Seconds]:
    """Seconds of the same steps: of reading their batches, and of learning from them. All have the same plans."""
    cache = setting.cache()
    learners = [Learner(build_student(cache, config), config) for config in configs]
    entries = choose_splits(usable_entries(cache), configs[0].data)["train"]
    choose = learners[0].objective.training_selection
    reader = Loader(cache, entries, choose, setting.options.batch_seconds, configs[0].data.crop_seconds)
    reading = students = Seconds(0.0, 0.0)
    for step in range(setting.options.steps + 1):  # the first warms up
        took, batch = _read(reader, step)
        batch = replace(batch, total_frames=batch.frames)
        costs = [Seconds(*timed_both(partial(learner.step, step + 1, [batch]))) for learner in learners]
        if step:
            reading += took
            for cost in costs:
                students += cost
    return reading, students


def _read(reader: Loader, number: int) -> tuple[Seconds, Batch]:
    """The ``number``-th batch from the start, and how long reading it took."""
    spans, selection = _place(reader, number)
    found: list[Batch] = []
    return Seconds(*timed_both(lambda: found.append(reader.read(spans, selection)))), found[0]


def _place(reader: Loader, number: int) -> tuple[Any, Any]:
    """The spans of the ``number``-th batch from the start, and what is read of it."""
    epoch = 0
    while number >= len(reader.epoch_batches(epoch)):
        number -= len(reader.epoch_batches(epoch))
        epoch += 1
    return reader.epoch_batches(epoch)[number], reader.choose(epoch, number)


def sweep(setting: Setting, found: dict[str, Any]) -> None:
    """24 students from a cache, extraction included, over as many with s3prl's kind of teacher in every step.

    Steps of both are measured in turns, and scaled to those of the demo's recipe.
    """
    ways = {"equal": (), "fastest": ("student.frontend=frozen", f"train.layers_per_step={LAYERS}")}
    seconds = f"train.batch_seconds={SWEEP_SECONDS}"
    every = SWEEP * SWEEP_STEPS
    ratios: dict[str, list[Seconds]] = {way: [] for way in ways}
    for _ in range(setting.options.rounds):
        one = _online(setting, setting.config("gendistiller", seconds))
        for way, fields in ways.items():
            configs = [setting.config("gendistiller", seconds, *fields, number=number) for number in range(MANY)]
            step = setting.together(configs).times(1 / (MANY * setting.options.steps))
            ratios[way].append((setting.extraction + step.times(every)).over(one.times(every)))
    for way, some in ratios.items():
        say(f"{SWEEP} students of {SWEEP_STEPS} steps, {way} settings", median(some), LIMITS.get(f"sweep, {way}"))
    print(f"    extraction {setting.extraction.wall:.1f} s, an online step {one.wall:.3f} s; scaled, not run whole")
    found["sweep_of_online"] = {way: median(some).wall for way, some in ratios.items()}
    found["sweep_of_online_cpu"] = {way: median(some).cpu for way, some in ratios.items()}


def _online(setting: Setting, config: TrainConfig) -> Seconds:
    """Seconds of one step with the teacher online, over the same batches."""
    cache = setting.cache()
    learner = Learner(build_student(cache, config), config)
    entries = choose_splits(usable_entries(cache), config.data)["train"]
    choose = learner.objective.training_selection
    reader = Loader(cache, entries, choose, config.train.batch_seconds, config.data.crop_seconds)
    teach = s3prl_like(setting.teacher, "cpu")
    total = Seconds(0.0, 0.0)
    for number in range(setting.options.steps + 1):
        spans, selection = _place(reader, number)
        took = Seconds(*timed_both(partial(online(learner, spans, reader, selection, teach), number + 1)))
        total += took if number else Seconds(0.0, 0.0)
    return total.times(1 / setting.options.steps)
