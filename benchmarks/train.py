"""What the cache saves in a training step, compared with running the teacher in every step as s3prl's distiller does.

    python benchmarks/train.py --work /tmp/bench-train

Steps of one student on the same batches take turns in one process, so that other load on the machine affects all of
them equally. Each is a whole step: reading the batch, the forward and backward pass, the optimizer.

    online    first the teacher: Hugging Face's WavLMModel in float32 and eval mode over the padded batch, as s3prl's
              distiller runs its own; then the student. Only audio is read. The aims are relative to this way
    fast      the same with gdist's exact teacher, the fastest online step that we know
    cached    hidden states from the cache: what `gdist train` does
    (a)       cached, with some layers only: train.layers_per_step, in roll-outs from random cached layers
    (b)       cached, with student.frontend = frozen: from cached layer 0, without audio
    (c)       both

What a step of (a) costs depends on whether the layers that it drew need the front-end. Every round times both kinds,
and the mean weighs them as often as the plan draws them. At the end the real `train()` takes some steps of (c), the
fastest, and reports the fraction of its time that it waited for data. The teacher has WavLM Base's shapes and random
weights; batches are read from the disk each time.

    python benchmarks/train.py --peer s3prl --minutes 2.5 --batch-seconds 24 --rounds 2 --steps 5

does nothing of this, but compares the baseline student's step with that of s3prl's own distiller, and shows where the
time of ours goes (peer.py). Axes: B batch, L layers, T frames, D features, S samples.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extract import speech, wavlm_base
from peer import beside_s3prl, seconds_of, show_beside_s3prl
from timing import add_device, timed

from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading import loader
from gdist.pipeline.loading.batch import Batch, Selection
from gdist.pipeline.loading.loader import Loader
from gdist.stages.device import keep_freed_memory
from gdist.stages.extract.extract import extract
from gdist.stages.extract.plan import ExtractConfig
from gdist.stages.teachers import Teacher, load_teacher
from gdist.stages.train.config import TrainConfig, load_config
from gdist.stages.train.learner import Learner
from gdist.stages.train.objective import StepSelection
from gdist.stages.train.ranks import Ranks
from gdist.stages.train.student_store import build_student
from gdist.stages.train.train import train

# The name of a row → the student's settings and train.layers_per_step of (a) and (c).
STUDENTS: dict[str, tuple[tuple[str, ...], int]] = {
    "gendistiller": ((), 4),
    "gendistiller, teacher-forced": (("student.history=teacher",), 4),
    "gendistiller, history=all": (("student.history=all",), 4),
    "distilhubert": (("student.name=distilhubert",), 1),  # of three heads
}
AIMS = {
    ("gendistiller", "cached"): 1.3,
    ("gendistiller", "(c)"): 6.0,
    ("distilhubert", "cached"): 1.6,
}
DRAWS = 1000  # over this many draws, it is counted how often each kind of selection comes


def s3prl_like(source: str, device: str) -> Callable[[Batch], list[torch.Tensor]]:
    """Layers 0 … L as s3prl's distiller computes them in every step: teacher in eval mode, without gradients."""
    from transformers import WavLMModel

    model = WavLMModel.from_pretrained(source).eval().to(device)

    @torch.no_grad()
    def run(batch: Batch) -> list[torch.Tensor]:
        assert batch.waveform_BS is not None
        mask_BS = (torch.arange(batch.waveform_BS.shape[1]) < batch.num_samples_B[:, None]).long()
        waveform_BS, mask_BS = batch.waveform_BS.to(device), mask_BS.to(device)
        return list(model(waveform_BS, attention_mask=mask_BS, output_hidden_states=True).hidden_states)

    return run


def gdist_teacher(teacher: Teacher) -> Callable[[Batch], list[torch.Tensor]]:
    """Layers 0 … L as gdist's own teacher computes them."""

    def run(batch: Batch) -> list[torch.Tensor]:
        assert batch.waveform_BS is not None
        hidden = list(teacher.hidden_states(batch.waveform_BS, batch.num_samples_B))
        return [layer_BTD.clone() for layer_BTD in hidden[:1]] + hidden[1:]

    return run


def online(
    learner: Learner,
    spans: list[Span],
    reader: Loader,
    selection: StepSelection,
    teach: Callable[[Batch], list[torch.Tensor]],
) -> Callable[[int], None]:
    """A step whose targets the teacher computes: only the audio is read."""

    def step(number: int) -> None:
        batch = reader.read(spans, Selection((), True))
        layers = teach(batch)
        hidden_BLTD = torch.stack([layers[layer] for layer in selection.layers], dim=1)
        take(learner, replace(batch, hidden_BLTD=hidden_BLTD, selection=selection), number)

    return step


def cached(learner: Learner, spans: list[Span], reader: Loader, selection: StepSelection) -> Callable[[int], None]:
    """A step whose targets come from the cache."""
    return lambda number: take(learner, reader.read(spans, selection), number)


def take(learner: Learner, batch: Batch, number: int) -> None:
    learner.step(number, [replace(batch, total_frames=batch.frames)])


def kinds(learner: Learner, count: int) -> list[tuple[float, list[StepSelection]]]:
    """(share, selections): those that read audio and those that do not, as often as the plan draws them."""
    rng = np.random.default_rng(0)
    selections = [
        StepSelection.of(learner.student.plan(count, rng), learner.objective.reads_audio) for _ in range(DRAWS)
    ]
    by_kind = [[selection for selection in selections if selection.waveforms is audio] for audio in (False, True)]
    return [(len(some) / DRAWS, some) for some in by_kind if some]


def settings(options: argparse.Namespace, precision: str, *more: str) -> TrainConfig:
    chosen = (
        f"student.dropout={options.dropout}", f"train.precision={precision}", f"train.device={options.device}",
        f"train.batch_seconds={options.batch_seconds}", "data.crop_seconds=0",
    )  # fmt: skip
    return load_config(None, None, (*chosen, *more))


def compare(
    options: argparse.Namespace, name: str, precision: str, cache: Cache, teachers: dict[str, Any]
) -> dict[str, Any]:
    """Time all ways for one student and precision: speeds, and ratios to the online step."""
    fields, count = STUDENTS[name]
    count = options.layers_per_step or count
    learners = {}
    for frontend in ("trained", "frozen"):
        config = settings(options, precision, *fields, f"student.frontend={frontend}")
        learners[frontend] = Learner(build_student(cache, config), config, Ranks(device=torch.device(options.device)))
    reader = Loader(cache, cache.entries, Selection(()), options.batch_seconds, device=options.device)
    # Only full batches: the last of an epoch is shorter.
    batches = [spans for spans in reader.epoch_batches(0) if seconds_of(spans) > 0.8 * options.batch_seconds]

    def ways(place: int) -> dict[str, list[tuple[float, Callable[[int], None]]]]:
        """What each way does in this round: its steps, each with the weight of its time."""
        spans = batches[place % len(batches)]
        whole = {}
        for name, learner in learners.items():
            plan = learner.student.plan(0, np.random.default_rng(place))
            whole[name] = StepSelection.of(plan, learner.objective.reads_audio)
        own, cold = learners["trained"], learners["frozen"]
        done = {way: [(1.0, online(own, spans, reader, whole["trained"], teach))] for way, teach in teachers.items()}
        done["cached"] = [(1.0, cached(own, spans, reader, whole["trained"]))]
        for way, learner in (("(a)", own), ("(c)", cold)):
            done[way] = []
            for share, selections in kinds(learner, count):
                for draw in range(options.draws):
                    selection = selections[(place * options.draws + draw) % len(selections)]
                    done[way].append((share / options.draws, cached(learner, spans, reader, selection)))
        done["(b)"] = [(1.0, cached(cold, spans, reader, whole["frozen"]))]
        return {way: done[way] for way in (*teachers, "cached", "(a)", "(b)", "(c)")}

    for steps in ways(0).values():
        steps[0][1](1)  # warm up
    took: dict[str, list[float]] = {}
    seconds = []
    for place in range(options.rounds):
        seconds.append(seconds_of(batches[place % len(batches)]))
        for way, steps in ways(place).items():
            times = [weight * timed(partial(step, place + 2), options.device) for weight, step in steps]
            took.setdefault(way, []).append(sum(times))
    rows = {}
    for way, times in took.items():
        ratios = [reference / own for reference, own in zip(took["online"], times, strict=True)]
        rows[way] = {
            "speed": statistics.median(s / t for s, t in zip(seconds, times, strict=True)),
            "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
            "over_fast": statistics.median(f / t for f, t in zip(took["fast"], times, strict=True)),
        }  # fmt: skip
    return {"student": name, "precision": precision, "dropout": options.dropout, "layers_per_step": count,
            "batch_seconds": statistics.mean(seconds), "rows": rows}  # fmt: skip


def show(result: dict[str, Any]) -> None:
    print(f"{result['student']}, {result['precision']}, dropout {result['dropout']}, {result['batch_seconds']:.0f} s "
          f"per batch, (a) and (c): {result['layers_per_step']} layers per step")  # fmt: skip
    for way, row in result["rows"].items():
        aim = AIMS.get((result["student"], way))
        print(f"  {way:8} {row['speed']:6.1f} × real time   over online {row['ratio']:5.2f} "
              f"({row['lowest']:.2f}–{row['highest']:.2f})   over fast {row['over_fast']:5.2f}"
              + (f"   aim {aim}" if aim else ""), flush=True)  # fmt: skip


def waiting(options: argparse.Namespace, precision: str, uri: str) -> dict[str, Any]:
    """Run the real `train()` for a few steps of (c), and report how long it waits for its reader."""
    with tempfile.TemporaryDirectory() as folder:
        config = settings(
            options, precision, "student.frontend=frozen", f"train.layers_per_step={STUDENTS['gendistiller'][1]}",
            f"train.steps={options.train_steps}", "train.warmup_steps=2", "train.validate_seconds=1",
        )  # fmt: skip
        result = train(uri, Path(folder) / "run", config, show_progress=False)
    assert result is not None
    print(f"train(), gendistiller (c), {precision}: {result['steps']} steps of {result['step_seconds']:.2f} s, "
          f"{result['audio_seconds_per_second']:.1f} × real time, waiting for data "
          f"{result['data_wait_fraction']:.4f} (aim 0.02)", flush=True)  # fmt: skip
    return result | {"precision": precision}


def online_ways(
    options: argparse.Namespace, source: str, cache: Cache, precisions: list[str], results: dict[str, Any]
) -> None:
    """Compare all ways for all students, and add the figures to ``results``."""
    device = options.device
    teachers = {"online": s3prl_like(source, device), "fast": gdist_teacher(load_teacher(source, device=device))}
    for precision in precisions:
        for name in options.student or STUDENTS:
            results["students"].append(compare(options, name, precision, cache, teachers))
            show(results["students"][-1])
        if options.train_steps:
            results["train"].append(waiting(options, precision, cache.uri))


def build(options: argparse.Namespace, work: Path) -> tuple[str, str]:
    """Write the teacher and the cache of its layers into ``work``, unless they are there already."""
    work.mkdir(parents=True, exist_ok=True)
    source, uri = work / "wavlm-base", work / "cache"
    if not (source / "preprocessor_config.json").exists():
        wavlm_base(source)
    manifest = work / "speech.parquet"
    if not manifest.exists():
        speech(options.minutes, options.join_seconds, manifest)
    config = ExtractConfig(str(source), str(manifest), str(uri), encoding="fp16", device=options.device)
    extract(config, show_progress=False)
    return str(source), str(uri)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the teacher and the cache [default: temporary]")
    parser.add_argument("--student", action="append", choices=list(STUDENTS))
    parser.add_argument(
        "--precision", action="append", choices=["fp32", "bf16"], help="of the student [default: fp32]"
    )
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--layers-per-step", type=int, help="of (a) and (c) [default: 4 of 12, 1 of 3 heads]")
    parser.add_argument("--batch-seconds", type=float, default=48.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=2, help="steps of each kind of (a) and (c) in a round")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--join-seconds", type=float, default=10.0, help="minimum length of an utterance")
    parser.add_argument("--train-steps", type=int, default=12, help="steps of the real train(); 0 is none")
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory, as extraction does")
    parser.add_argument("--peer", choices=["s3prl"], help="compare a step with s3prl's own instead")
    parser.add_argument(
        "--peer-python", type=Path, default=Path(".venv-s3prl/bin/python"), help="of s3prl's environment"
    )
    parser.add_argument("--steps", type=int, default=5, help="steps in a round beside s3prl")
    add_device(parser)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    loader.RESIDENT_BYTES = 0  # so that every batch is read
    if options.keep_memory:
        keep_freed_memory()
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "students": [], "train": []}
    with tempfile.TemporaryDirectory() as scratch:
        source, uri = build(options, options.work or Path(scratch))
        cache = Cache.open(uri)
        precisions = options.precision or ["fp32"]
        if options.peer:
            configs = {name: settings(options, name, "student.name=distilhubert") for name in precisions}
            results["peer"] = beside_s3prl(options, cache, configs)
            show_beside_s3prl(results["peer"])
        else:
            online_ways(options, source, cache, precisions, results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
