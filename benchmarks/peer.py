"""A training step from the cache beside one of s3prl's own distiller, which runs its own WavLM in every step.

s3prl lives in an environment of its own (`make s3prl`), so it runs in another process, which takes steps in turns
with ours: on the same batches, with as many threads, each waiting while the other computes. What s3prl reads is in
its memory beforehand; our steps read their batch from the disk. The parts of our step are its processors' seconds.

    s3prl         the teacher in eval mode: the arithmetic that is meant
    s3prl, train  the teacher in train mode, with dropout: what its runner does, which calls train() on everything
    cached        ours: the baseline student from the cache, in each precision that was asked for
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step_parts import step_parts
from timing import timed_both

from gdist.pipeline import framing
from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.loader import Loader
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.learner import Learner
from gdist.stages.train.objective import StepSelection
from gdist.stages.train.ranks import Ranks
from gdist.stages.train.student_store import build_student

AIM = 2.5  # cached over s3prl
MODES = {"s3prl": "eval", "s3prl, train": "train"}  # of s3prl's teacher
Seconds = tuple[float, float]  # by the clock, and of the processors
STEPS_OF_S3PRL = Path(__file__).with_name("s3prl_steps.py")


class Peer:
    """The process in s3prl's environment."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.parameters = int(self._reply()["parameters"])

    def step(self, batch: int, teacher: str) -> Seconds:
        """Take one step."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"batch": batch, "teacher": teacher}) + "\n")
        self.process.stdin.flush()
        reply = self._reply()
        return reply["seconds"], reply["cpu_seconds"]

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("s3prl's process ended; its messages are above")
        reply: dict[str, Any] = json.loads(line)
        return reply


@contextmanager
def s3prl(python: Path, waveforms: list[tuple[torch.Tensor, torch.Tensor]], device: str) -> Iterator[Peer]:
    """Start s3prl on these batches, each (waveform_BS, num_samples_B)."""
    if not python.exists():
        raise SystemExit(f"{python} does not exist: `make s3prl` makes it, or name another with --peer-python")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(waveforms, f"{folder}/batches.pt")
        command = [str(python), str(STEPS_OF_S3PRL), f"{folder}/batches.pt", str(torch.get_num_threads()), device]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            yield Peer(process)
        finally:
            process.kill()
            process.wait()


def beside_s3prl(options: argparse.Namespace, cache: Cache, configs: dict[str, TrainConfig]) -> dict[str, Any]:
    """Take turns, and return the speeds, the ratios to s3prl's step and the parts of ours.

    Args:
        configs: precision → the config of our student.
    """
    device = options.device
    reader = Loader(cache, cache.entries, Selection(()), options.batch_seconds, device=device)
    full = [spans for spans in reader.epoch_batches(0) if seconds_of(spans) > 0.8 * options.batch_seconds]
    batches = [full[place % len(full)] for place in range(options.rounds)]
    waveforms = []
    for spans in batches:
        batch = reader.read(spans, Selection((), True))
        assert batch.waveform_BS is not None
        waveforms.append((batch.waveform_BS.cpu(), batch.num_samples_B))
    took: dict[str, list[Seconds]] = {}
    parts: dict[str, list[dict[str, float]]] = {}
    with s3prl(options.peer_python, waveforms, device) as peer:
        ways: dict[str, Callable[[int, int], Seconds]] = {
            way: lambda place, number, mode=mode: peer.step(place, mode)  # type: ignore[misc]
            for way, mode in MODES.items()
        }
        ours = {f"cached, {name}": Ours(cache, config, reader, batches) for name, config in configs.items()}
        ways |= {way: own.step for way, own in ours.items()}
        for step in ways.values():
            step(0, 1)  # warm up
        for place in range(options.rounds):
            for turn in range(options.steps):
                for way, step in ways.items():
                    took.setdefault(way, []).append(step(place, 2 + place * options.steps + turn))
                last = ", ".join(f"{way} {times[-1][0]:.2f} ({times[-1][1]:.2f})" for way, times in took.items())
                print(f"  round {place + 1}, turn {turn + 1}, seconds (of CPU): {last}", file=sys.stderr, flush=True)
            for way, own in ours.items():
                parts.setdefault(way, []).append(own.parts(place, 2 + (place + 1) * options.steps))
    seconds = [seconds_of(spans) for spans in batches for _ in range(options.steps)]
    reference = took["s3prl"]
    rows: dict[str, dict[str, Any]] = {}
    for way, times in took.items():
        wall, cpu = ([r[kind] / t[kind] for r, t in zip(reference, times, strict=True)] for kind in (0, 1))
        rows[way] = {
            "speed": statistics.median(s / t for s, (t, _) in zip(seconds, times, strict=True)),
            "over_s3prl": statistics.median(wall), "lowest": min(wall), "highest": max(wall),
            "over_s3prl_cpu": statistics.median(cpu),
        }  # fmt: skip
        if way in parts:
            rows[way]["parts"] = {
                name: statistics.median(found[name] for found in parts[way]) for name in parts[way][0]
            }
    return {
        "batch_seconds": statistics.mean(seconds), "rounds": options.rounds, "steps": options.steps,
        "threads": torch.get_num_threads(), "device": device, "rows": rows,
        "parameters": {"s3prl": peer.parameters} | {way: own.parameters for way, own in ours.items()},
    }  # fmt: skip


class Ours:
    """Our steps: the baseline student, its batches read from the cache."""

    def __init__(self, cache: Cache, config: TrainConfig, reader: Loader, batches: list[list[Span]]) -> None:
        self.reader, self.batches, self.device = reader, batches, torch.device(config.train.device)
        self.learner = Learner(build_student(cache, config), config, Ranks(device=self.device))
        student = self.learner.student
        self.parameters = student.num_parameters_with_heads()
        plan = student.plan(0, np.random.default_rng(0))
        self.selection = StepSelection.of(plan, self.learner.objective.reads_audio)

    def step(self, place: int, number: int) -> Seconds:
        def whole() -> None:
            batch = self.reader.read(self.batches[place], self.selection)
            self.learner.step(number, [replace(batch, total_frames=batch.frames)])

        return timed_both(whole, self.device)

    def parts(self, place: int, number: int) -> dict[str, float]:
        return step_parts(self.learner, self.reader, self.batches[place], self.selection, number)


def show_beside_s3prl(result: dict[str, Any]) -> None:
    sizes = ", ".join(f"{way} {count / 1e6:.2f} M" for way, count in result["parameters"].items())
    print(f"beside s3prl's distiller: {result['batch_seconds']:.0f} s per batch, {result['threads']} threads, "
          f"{result['rounds']} rounds of {result['steps']} steps; parameters: {sizes}")  # fmt: skip
    for way, row in result["rows"].items():
        print(f"  {way:13} {row['speed']:6.1f} × real time   over s3prl {row['over_s3prl']:5.2f} "
              f"({row['lowest']:.2f}–{row['highest']:.2f}), by CPU time {row['over_s3prl_cpu']:5.2f}"
              + (f"   aim {AIM}" if "parts" in row else ""), flush=True)  # fmt: skip
    for way, row in result["rows"].items():
        whole = sum(row.get("parts", {}).values())
        for name, seconds in row.get("parts", {}).items():
            print(f"  {way:13} {name:27} {seconds:6.3f} s  {seconds / whole:4.0%}")


def seconds_of(spans: list[Span]) -> float:
    """Seconds of audio."""
    return sum(frames for _, _, frames in spans) / framing.WAV2VEC2.frames_per_second
