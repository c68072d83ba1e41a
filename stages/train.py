"""Stage two: a student learns the cached hidden states. The cache is all it needs: no teacher, no audio files.

A step depends on nothing but the config, the cache, the weights and its own number: every random draw is seeded by
(seed, step), and the loader's order by (seed, epoch). That is why a run that was killed ends in the same bits.

Axes: B batch, K predicted layers, L teacher layers, T frames, D features, S samples.
"""

import contextlib
import importlib.metadata
import itertools
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import safetensors.torch
import torch
from torch.utils.tensorboard import SummaryWriter

from gdist.pipeline import console, framing
from gdist.pipeline.cache import Cache
from gdist.pipeline.config import to_tables
from gdist.pipeline.errors import CacheError
from gdist.pipeline.layout import Entry
from gdist.pipeline.loader import Loader, choose_splits, usable_entries
from gdist.pipeline.run import Run, write_atomically
from gdist.stages.device import choose_device
from gdist.stages.learner import Learner
from gdist.stages.meter import Meter, report, summarize
from gdist.stages.students import STUDENTS, Student, student_config
from gdist.stages.train_config import STUDENT_DEFAULTS, TrainConfig


def train(uri: str, out: Path, config: TrainConfig, show_progress: bool = True) -> dict[str, Any]:
    """Train a student from the cache at ``uri`` into the folder ``out``, or go on where an earlier run stopped.

    Returns:
        the fields of ``gdist train --json`` (see docs/commands.md).

    Raises:
        CacheError, RunError, ConfigError: as their messages say; nothing written is lost.
    """
    run = Run(out)
    cache = run.open_cache(uri)
    device = torch.device(choose_device(config.train.device, "train.device = "))
    student = build_student(cache, config).to(device)
    frozen = config.student["frontend"] == "frozen"
    layers = layers_to_read(cache, student, frozen)
    splits = choose_splits(usable_entries(cache, config.data.skip_missing), config.data)
    resumed = run.begin(to_tables(config), provenance(cache, student, config, splits))
    learner = Learner(student, config, layers, device)
    loader = Loader(
        cache,
        splits["train"],
        layers,
        config.train.batch_seconds,
        config.data.crop_seconds,
        config.train.seed,
        waveforms=not frozen,
        device=str(device),
    )
    held_out = Loader(
        cache,
        at_most(splits["valid"], config.train.validate_seconds),
        layers,
        config.train.batch_seconds,
        waveforms=not frozen,
        device=str(device),
    )
    step, seconds = 0, 0.0
    if resumed and run.steps():
        step, seconds = learner.restore(run, loader)
        console.say(f"resuming {out} after step {step}")
    run.rewind_metrics(step)
    curves = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
    began = time.monotonic() - seconds
    meter = Meter()
    stream = iter(loader)
    with (
        contextlib.closing(stream),  # type: ignore[type-var]  # it is a generator
        contextlib.closing(curves),
        stop_on_signal() as stopping,
        console.progress(
            f"train {run.name}", config.train.steps, "steps", start=step, enabled=show_progress
        ) as advance,
    ):
        while step < config.train.steps:
            step += 1
            waiting = time.monotonic()
            batches = list(itertools.islice(stream, config.train.accumulate))
            waited = time.monotonic() - waiting
            loss, cosine = learner.step(step, batches)
            meter.add(loss, cosine, sum(batch.audio_seconds for batch in batches), waited)
            advance(1, str(meter))

            last = step == config.train.steps
            checkpoint = last or step % config.train.checkpoint_every == 0 or bool(stopping)
            if checkpoint or step % config.train.log_every == 0:
                row = meter.flush() | {"lr": learner.rate(step), "grad_norm": learner.grad_norm}
                report(run, curves, row | {"step": step, "kind": "train", "seconds": time.monotonic() - began})
            with meter.paused():
                if last or step % config.train.validate_every == 0:
                    row = learner.validate(held_out.once())
                    report(run, curves, row | {"step": step, "kind": "valid", "seconds": time.monotonic() - began})
                if checkpoint:
                    learner.save(run, step, loader, time.monotonic() - began)
            if stopping and not last:
                raise KeyboardInterrupt
    save_student(run, student)
    return summarize(run)


def build_student(cache: Cache, config: TrainConfig) -> Student:
    """The student for the cache's teacher, started from the teacher's weights as far as the config says."""
    teacher_config = json.loads(cache.document("config.json"))
    teacher_config["do_normalize"] = cache.identity["teacher"]["do_normalize"]
    fields = {key: value for key, value in config.student.items() if key not in STUDENT_DEFAULTS}
    described = student_config(config.student["name"], teacher_config, **fields)
    torch.manual_seed(config.train.seed)
    student = STUDENTS[config.student["name"]][1](described)
    initialize = config.student["initialize"]
    if initialize != "none":
        frontend = safetensors.torch.load(cache.document("frontend.safetensors"))
        layers = safetensors.torch.load(cache.document("layers.safetensors")) if initialize == "layers" else None
        student.initialize_from_teacher(frontend, layers)
    if config.student["frontend"] == "frozen":
        student.frontend.requires_grad_(False)
    return student


def layers_to_read(cache: Cache, student: Student, frozen: bool) -> list[int]:
    """The cached layers a step needs: those the student answers for, and layer 0 for a frozen front-end."""
    layers = [0] * frozen + list(student.predicted_layers)
    absent = [layer for layer in layers if layer not in cache.layers]
    if absent:
        raise CacheError(
            f"this student needs layers {absent}, which the cache at {cache.uri} does not hold ({cache.layers})",
            "gdist extract … --layers all, into another cache",
        )
    return layers


def at_most(entries: list[Entry], seconds: float) -> list[Entry]:
    """The first utterances that make up ``seconds`` of audio, at least one."""
    ends = itertools.accumulate(entry.num_frames / framing.FRAMES_PER_SECOND for entry in entries)
    return [
        entry for place, (entry, end) in enumerate(zip(entries, ends, strict=True)) if place == 0 or end <= seconds
    ]


def provenance(cache: Cache, student: Student, config: TrainConfig, splits: dict[str, list[Entry]]) -> dict[str, Any]:
    """Where a run comes from, for run.json."""
    teacher = cache.identity["teacher"]
    return {
        "cache": cache.uri,
        "cache_checksum": cache.gdist["checksum"],
        "encoding": cache.identity["encoding"],
        "student": config.student["name"],
        "params": student.num_parameters(),
        "params_with_heads": student.num_parameters_with_heads(),
        "teacher": {
            "name": cache.gdist["about"]["teacher"],
            "family": teacher["family"],
            "fingerprint": teacher["fingerprint"],
            "params": teacher["num_params"],
            "num_layers": teacher["num_layers"],
            "dim": cache.identity["dim"],
        },
        "utterances": {name: len(entries) for name, entries in splits.items()},
        "versions": {name: importlib.metadata.version(name) for name in ("gdist", "torch", "transformers")},
    }


@contextlib.contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM let the step finish: the list is then no longer empty. A second one stops at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        console.say("stopping after this step (once more: at once)")

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def save_student(run: Run, student: Student) -> None:
    """The finished student, in Hugging Face's format, whole or not at all."""
    staged = run.student.with_name("student.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    student.save_pretrained(staged)
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": student.config.do_normalize,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": framing.SAMPLE_RATE,
    }
    write_atomically(staged / "preprocessor_config.json", json.dumps(extractor, indent=2))
    shutil.rmtree(run.student, ignore_errors=True)
    staged.rename(run.student)


def show(out: Path, result: dict[str, Any]) -> None:
    """The result for people."""
    console.say(
        f"{out}: {result['steps']} steps, loss {result['loss']:.3f}; {result['step_seconds']:.2f} s a step, "
        f"{result['audio_seconds_per_second']:.0f}× real time, waiting for data {result['data_wait_fraction']:.1%}",
        style="green",
    )
    console.say(f"  next: gdist eval {out}")
