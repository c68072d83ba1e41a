"""Stage two: a student learns the cached hidden states. It needs only the cache: no teacher, no audio files.

A step depends only on the config, the cache, the weights and its own number: every random draw is seeded by
(seed, step), and the loader's order by (seed, epoch). That is why a run that was killed and resumed ends with exactly
the same weights.

Axes: B batch, K predicted layers, L teacher layers, T frames, D features, S samples.
"""

import contextlib
import functools
import importlib.metadata
import itertools
import signal
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.near import Traffic
from gdist.pipeline.config import to_tables
from gdist.pipeline.errors import CacheError
from gdist.pipeline.extensions import Extension
from gdist.pipeline.framing import Framing
from gdist.pipeline.loading.batch import Batch
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import choose_splits, usable_entries
from gdist.pipeline.local.folder import LocalFolder
from gdist.pipeline.run import Run
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.device import enough_memory
from gdist.stages.students import STUDENTS, Student
from gdist.stages.train.ahead import augmented
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.learner import Learner
from gdist.stages.train.losses import LOSSES
from gdist.stages.train.meter import Meter, MetricsWriter, summarize
from gdist.stages.train.ranks import Ranks, join
from gdist.stages.train.repeatable import repeatable
from gdist.stages.train.student_store import build_student, layers_to_read, open_cache, save_student


def train(
    uri: str,
    out: Path,
    config: TrainConfig,
    show_progress: bool = True,
    local: LocalFolder | None = None,
    until: int | None = None,
) -> dict[str, Any] | None:
    """Train a student from the cache at ``uri`` into the folder ``out``, or continue where an earlier run stopped.

    Under `torchrun` each rank calls this, and they train one student together.

    Args:
        local: where the shards of a cache in a bucket are kept, once they are fetched.
        until: pause after this step, with a validation and a checkpoint; a later call goes on from there, to the same
            student as if it had never paused.

    Returns:
        the fields of ``gdist train --json`` (see docs/commands.md); None on every rank except the first.

    Raises:
        CacheError: the cache cannot be used for this student.
        RunError: the folder or a checkpoint in it cannot be used, or the loss is not finite.
        ConfigError: the config is impossible.
        DeviceMemoryError: a batch does not fit into memory. In all cases, what is already written is kept.
    """
    with join(config.train.device, config.train.peer_timeout) as ranks, contextlib.ExitStack() as alone:
        alone.enter_context(repeatable(config.train.deterministic, ranks.device))
        run = Run(out)
        with ranks.together():
            cache = open_cache(run, uri, local)
            student = build_student(cache, config)
            layers = layers_to_read(cache, student, config)
            entries = usable_entries(cache, config.data.skip_missing, layers)
            splits = choose_splits(entries, config.data)
            learner = Learner(student, config, ranks)
        with ranks.together():
            if ranks.first:
                alone.enter_context(run.owned())
                origin = provenance(cache, student, config, splits, ranks)
                run.begin(to_tables(config), origin, extensions_of(cache, config))
        with ranks.together():
            if run.provenance()["cache_checksum"] != cache.gdist["checksum"]:
                raise CacheError(f"{uri} grew while the ranks were opening it", "run the same command again")
        read = functools.partial(
            Loader,
            cache,
            choose=learner.objective.training_selection,
            batch_seconds=config.train.batch_seconds,
            rank=ranks.rank,
            world=ranks.world,
            device=str(ranks.device),
            skip_damaged=config.data.skip_damaged,
            layers=layers,
        )
        loader = read(
            splits["train"],
            crop_seconds=config.data.crop_seconds,
            seed=config.train.seed,
            audio_on_cpu=config.augment.enabled,  # it is augmented there
        )
        held_out = read(at_most(splits["valid"], config.train.validate_seconds, cache.framing))
        attempt = f"training {out} on batches of {config.train.batch_seconds:g} s of audio"
        with enough_memory(attempt, ranks.device, config.smaller):
            finished = _steps(run, learner, loader, held_out, ranks, show_progress, until)
        with ranks.together():
            if ranks.first and finished:
                save_student(run, learner.result)
        if not ranks.first:
            return None
        result = summarize(run)
        run.note({name: result[name] for name in ("bytes_fetched", "bytes_local", "data_wait_fraction")})
        return result


def _steps(
    run: Run,
    learner: Learner,
    loader: Loader,
    held_out: Loader,
    ranks: Ranks,
    show_progress: bool,
    until: int | None = None,
) -> bool:
    """Run the remaining steps, with their reports, validations and checkpoints. Returns whether all are done."""
    optim = learner.config.train
    end = min(until or optim.steps, optim.steps)
    step, seconds = 0, 0.0
    if run.steps():
        with ranks.together():
            step, seconds = learner.restore(run, loader)
        console.say(f"resuming {run.folder} after step {step}")
    with ranks.together():
        metrics = MetricsWriter(run, step) if ranks.first else None
    began = time.monotonic() - seconds
    meter = Meter(loader.cache.near.traffic if loader.cache.near else Traffic())

    def report(kind: str, row: dict[str, Any]) -> None:
        fetched, local = map(int, ranks.total(*meter.moved()))
        row = row | {"bytes_fetched": fetched, "bytes_local": local}
        if metrics is not None:
            metrics.report(row | {"step": step, "kind": kind, "seconds": time.monotonic() - began})

    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(stop_on_signal())
        if metrics is not None:
            stack.enter_context(contextlib.closing(metrics))
        bar = console.progress(f"train {run.name}", optim.steps, "steps", start=step, enabled=show_progress)
        advance = stack.enter_context(bar)
        stream = _stream(learner, loader, step)
        stack.callback(stream.close)
        while step < end:
            step += 1
            waiting = time.monotonic()
            batches = list(itertools.islice(stream, optim.accumulate))
            waited = time.monotonic() - waiting
            loss, cosine, stop = learner.step(step, batches, bool(stopping))
            meter.add(loss, cosine, sum(batch.audio_seconds for batch in batches), waited)
            advance(1, str(meter))

            last = step == end
            checkpoint = last or step % optim.checkpoint_every == 0 or stop
            if checkpoint or step % optim.log_every == 0:
                report("train", meter.flush() | {"lr": learner.rate(step), "grad_norm": learner.grad_norm})
            with meter.paused():
                if last or step % optim.validate_every == 0:
                    report("valid", learner.validate(held_out.once(learner.objective.validation_selection())))
                if checkpoint:
                    with ranks.together():
                        if ranks.first:
                            learner.save(run, step, loader, time.monotonic() - began)
            if stop and not last:
                raise KeyboardInterrupt
    return step == optim.steps


def _stream(learner: Learner, loader: Loader, step: int) -> Generator[Batch]:
    """The batches of every step after ``step``.

    When the front-end thaws, batches that were read ahead lack the audio: from there on everything is read again.
    """
    optim = learner.config.train
    if optim.thaw_step and learner.frozen:
        before = max(optim.thaw_step - 1 - step, 0)
        with contextlib.closing(loader.stream(before * optim.accumulate)) as cold:
            yield from cold
        learner.thaw()
        step += before
    with contextlib.closing(loader.stream((optim.steps - step) * optim.accumulate)) as stream:
        yield from augmented(learner, loader, stream, step) if learner.objective.augments else stream


def at_most(entries: Sequence[Entry], seconds: float, framing: Framing) -> list[Entry]:
    """The first utterances whose audio adds up to at most ``seconds``; at least one."""
    ends = itertools.accumulate(entry.num_frames / framing.frames_per_second for entry in entries)
    return [
        entry for place, (entry, end) in enumerate(zip(entries, ends, strict=True)) if place == 0 or end <= seconds
    ]


def provenance(
    cache: Cache, student: Student, config: TrainConfig, splits: Mapping[str, Sequence[Entry]], ranks: Ranks
) -> dict[str, Any]:
    """Where a run comes from, for run.json."""
    teacher = cache.identity["teacher"]
    return {
        "cache": cache.uri,
        "cache_checksum": cache.gdist["checksum"],
        "encoding": cache.identity["encoding"],
        "layers": list(cache.layers),
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
        "ranks": ranks.world,
        "utterances": {name: len(entries) for name, entries in splits.items()},
        "packages": {
            name: record
            for registry, name in (
                (STUDENTS, config.student["name"]),
                (LOSSES, config.loss.name),
                (ENCODINGS, cache.identity["encoding"]),
            )
            if (record := registry.package(name))
        },
        "versions": {name: importlib.metadata.version(name) for name in ("gdist", "torch", "transformers")},
    }


def extensions_of(cache: Cache, config: TrainConfig) -> list[Extension]:
    """The user's own files that a run uses."""
    named = (
        STUDENTS.extension(config.student["name"]),
        LOSSES.extension(config.loss.name),
        ENCODINGS.extension(cache.identity["encoding"]),
    )
    return [extension for extension in named if extension is not None]


@contextlib.contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM let the step finish; the list is then not empty. A second signal stops at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        console.say("stopping after this step (a second signal stops at once)")

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(out: Path, result: dict[str, Any]) -> None:
    """Print the result for people."""
    console.say(
        f"{out}: {result['steps']} steps, loss {result['loss']:.3f}; {result['step_seconds']:.2f} s per step, "
        f"{result['audio_seconds_per_second']:.0f}× real time, waiting for data {result['data_wait_fraction']:.1%}",
        style="green",
    )
    run = Run(out)
    if not (run.student / "model.safetensors").exists():
        console.say(f"  paused after step {result['steps']}; run it again without --until to finish")
        return
    origin = run.provenance()
    every = range(origin["teacher"]["num_layers"] + 1)
    if absent := set(every) - set(origin.get("layers", every)):
        console.say(f"  gdist eval compares every layer, and the cache lacks {sorted(absent)}")
        console.say(f"  next: gdist export {in_shell(out)} --format hf --out FOLDER{run.use_options}")
    else:
        console.say(f"  next: gdist eval {in_shell(out)}{run.use_options}")
