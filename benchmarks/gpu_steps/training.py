"""A step from the cache against one that runs the teacher, the loader alone, and what the profiler counts in a step.

    online      the audio is read, gdist's own teacher in bf16 computes the targets, then the step
    cached      what `gdist train` does
    (a)         with some layers only: train.layers_per_step
    (b)         with student.frontend = frozen: from cached layer 0, without audio
    (c)         both

Axes: B batch, L layers.
"""

import contextlib
import itertools
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading import loader as loading
from gdist.pipeline.loading.batch import Batch, Selection
from gdist.pipeline.loading.loader import Loader
from gdist.stages.extract.extract import extract
from gdist.stages.extract.plan import ExtractConfig
from gdist.stages.teachers import Teacher, load_teacher
from gdist.stages.train.config import TrainConfig, load_config
from gdist.stages.train.learner import Learner
from gdist.stages.train.ranks import Ranks
from gdist.stages.train.student_store import build_student
from gdist.stages.train.train import train
from gpu_steps.setting import Say, Setting

WAYS: dict[str, tuple[str, ...]] = {
    "online": (),
    "cached": (),
    "(a)": ("train.layers_per_step",),
    "(b)": ("student.frontend=frozen",),
    "(c)": ("student.frontend=frozen", "train.layers_per_step"),
}
SOME_LAYERS = {"gendistiller": 4, "distilhubert": 1}
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
SYNCHRONISATIONS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def cache_of(setting: Setting, encoding: str) -> Cache:
    """A cache of the speech, made once for all steps."""
    folder = setting.work / f"cache-{encoding}"
    config = ExtractConfig(
        setting.teacher, str(setting.speech), str(folder), encoding=encoding, precision="bf16", device=setting.device,
        pack_frames=setting.pack_frames,
    )  # fmt: skip
    extract(config, show_progress=False)
    loading.RESIDENT_BYTES = 0  # so that every batch is read
    return Cache.open(str(folder))


def config_of(setting: Setting, student: str, precision: str, *fields: str) -> TrainConfig:
    """A run with the batches that a GPU takes."""
    layers = f"train.layers_per_step={2 if setting.small and student == 'gendistiller' else SOME_LAYERS[student]}"
    chosen = [layers if field == "train.layers_per_step" else field for field in fields]
    seconds = 6.0 if setting.small else 300.0
    sizes = (f"train.batch_seconds={seconds}", "data.crop_seconds=0", f"train.device={setting.device}")
    return load_config(None, student, (f"train.precision={precision}", *sizes, *chosen))


def learner_of(setting: Setting, cache: Cache, config: TrainConfig) -> Learner:
    """The student on its device."""
    return Learner(build_student(cache, config), config, Ranks(device=torch.device(setting.device)))


def run(setting: Setting, say: Say) -> None:
    """The speed of each way; then the real ``train()``, and how long it waits for data."""
    cache = cache_of(setting, "fp16")
    teacher = load_teacher(setting.teacher, precision="bf16", device=setting.device)
    for precision in setting.precisions:
        for student in SOME_LAYERS:
            speeds: dict[str, float] = {}
            for way, fields in WAYS.items():
                config = config_of(setting, student, precision, *fields)
                setting.forget_peak()
                speeds[way] = speed(setting, cache, config, teacher if way == "online" else None)
                speeds[f"{way} peak_GB"] = setting.peak()
            over = {f"{way} over online": speeds[way] / speeds["online"] for way in WAYS}
            say(**{f"{student}, {precision}": speeds | over})
    for way in ("cached", "(c)"):
        waiting(setting, say, cache_of(setting, "int8"), way)


def waiting(setting: Setting, say: Say, cache: Cache, way: str) -> None:
    """Some steps of the real ``train()``: how much of its time does it wait for data? The aim is 0.02."""
    steps = (f"train.steps={3 if setting.small else 40}", "train.warmup_steps=2", "train.validate_seconds=1")
    config = config_of(setting, "gendistiller", "bf16", *WAYS[way], *steps)
    result = train(cache.uri, setting.work / "run", config, show_progress=False)
    assert result is not None
    wanted = ("step_seconds", "audio_seconds_per_second", "data_wait_fraction")
    say(**{f"train() of {way}, targets in int8": {name: result[name] for name in wanted}})
    shutil.rmtree(setting.work / "run")


def speed(setting: Setting, cache: Cache, config: TrainConfig, teacher: Teacher | None) -> float:
    """Seconds of audio per second, of whole steps with their reading."""
    learner = learner_of(setting, cache, config)
    choose = learner.objective.training_selection if teacher is None else Selection(())
    reader = Loader(cache, cache.entries, choose, config.train.batch_seconds, device=setting.device)
    heard = 0.0

    def step(number: int, batch: Batch) -> None:
        nonlocal heard
        heard += batch.audio_seconds
        learner.step(number, [batch if teacher is None else taught(learner, batch, teacher, number)])

    with contextlib.closing(iter(reader)) as stream:
        for number in (1, 2):  # warm up
            step(number, next(stream))
        heard = 0.0

        def measured() -> None:
            for number in range(3, 4 if setting.small else 11):
                step(number, next(stream))

        took = setting.seconds(measured)
    return heard / took


def taught(learner: Learner, batch: Batch, teacher: Teacher, number: int) -> Batch:
    """The batch with the targets that the teacher computes for it."""
    selection = learner.objective.training_selection(0, number)
    assert batch.waveform_BS is not None
    states = [hidden.clone() for hidden in teacher.hidden_states(batch.waveform_BS, batch.num_samples_B)]
    hidden_BLTD = torch.stack([states[layer] for layer in selection.layers], dim=1)
    return replace(batch, hidden_BLTD=hidden_BLTD, selection=selection)


def loader(setting: Setting, say: Say) -> None:
    """How fast batches of all layers arrive on the device, in GB of stored values per second."""
    for encoding in ("fp16", "int8"):
        cache = cache_of(setting, encoding)
        selection = Selection(tuple(layer for layer in cache.layers if layer))
        reader = Loader(cache, cache.entries, selection, 6.0 if setting.small else 300.0, device=setting.device)
        frame = len(selection.layers) * cache.identity["dim"] * cache.encoding.bytes_per_value
        with contextlib.closing(iter(reader)) as stream:
            next(stream)
            some = itertools.islice(stream, 2 if setting.small else 24)
            frames: list[int] = []
            took = setting.seconds(partial(frames.extend, (batch.frames for batch in some)))
        say(**{f"{encoding} stored_GBps": frame * sum(frames) / 1e9 / took, f"{encoding} batches": len(frames)})


def launches(setting: Setting, say: Say) -> None:
    """Launches and synchronisations of one step and one forward pass, as the profiler counts them; 0 on a CPU."""
    cache = cache_of(setting, "fp16")
    for name, precision, *fields in (
        ("gendistiller", "bf16"), ("gendistiller", "bf16", *WAYS["(c)"]), ("distilhubert", "bf16")
    ):  # fmt: skip
        config = config_of(setting, name, precision, *fields)
        learner = learner_of(setting, cache, config)
        reader = Loader(cache, cache.entries, Selection(()), config.train.batch_seconds, device=setting.device)
        spans = reader.epoch_batches(0)[0]
        selection = learner.objective.training_selection(0, 0)
        batch = reader.read(spans, selection)
        learner.step(1, [batch])
        counted = calls(setting, partial(learner.step, 2, [batch]))
        say(**{f"step of {', '.join((name, precision, *fields))}": counted})
    teacher = load_teacher(setting.teacher, precision="bf16", device=setting.device)
    num_samples_B = torch.full((2 if setting.small else 25,), 16_000 if setting.small else 192_000)
    waveform_BS = torch.randn(len(num_samples_B), int(num_samples_B[0]), device=setting.device) * 0.1
    say(forward=calls(setting, lambda: [None for _ in teacher.hidden_states(waveform_BS, num_samples_B)]))


def calls(setting: Setting, call: Callable[[], object]) -> dict[str, Any]:
    """What the host asks of the device in one call, and the kernels that take longest."""
    call()
    setting.wait()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.cuda else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        call()
    averages = profiler.key_averages()
    counts = Counter({event.key: event.count for event in averages})
    took = "self_device_time_total" if setting.cuda else "self_cpu_time_total"
    longest = sorted(averages, key=lambda event: -getattr(event, took))[:12]
    return {
        "launches": sum(counts[name] for name in LAUNCHES),
        "synchronisations": sum(counts[name] for name in SYNCHRONISATIONS),
        "longest, ms": {event.key[:80]: getattr(event, took) / 1e3 for event in longest},
    }
