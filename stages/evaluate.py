"""`gdist eval`: students judged on held-out speech, beside the teacher, log-mel and two trivial references.

Students generate freely: each layer from the one they made before, as in use. The teacher's answers come from the
cache, so it is not run here either.

Axes: N utterances, B batch, K hidden states, L layers, T frames, D features, S samples.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor

from gdist.pipeline import console, framing
from gdist.pipeline.batch import Batch, Selection
from gdist.pipeline.cache import Cache
from gdist.pipeline.config import build, did_you_mean
from gdist.pipeline.errors import CacheError, GdistError, UsageError
from gdist.pipeline.layout import Entry
from gdist.pipeline.loader import Loader
from gdist.pipeline.run import Run, write_atomically
from gdist.pipeline.splits import DataConfig, choose_splits, usable_entries
from gdist.stages.fidelity import Fidelity, mean_cosine
from gdist.stages.frontend import normalize
from gdist.stages.probes import PROBES
from gdist.stages.probes.base import check_labels
from gdist.stages.student_store import load_student
from gdist.stages.students import Student
from gdist.stages.train_config import TrainConfig

BATCH_SECONDS = 60.0
MEAN_FRAME_SECONDS = 3600.0  # training audio that the mean frame is taken over, at most

Features = dict[str, Tensor]
"""split → hidden states averaged over time [N, K, D]"""


class Bench:
    """What every student on one cache is judged against: utterances, references, and the teacher's own probes."""

    def __init__(self, cache: Cache, data: DataConfig, probes: list[str] | None = None) -> None:
        """``probes`` None takes every probe that the cache's labels allow; one that is named must be possible."""
        self.cache = cache
        self.num_layers = cache.identity["teacher"]["num_layers"]
        absent = [layer for layer in range(self.num_layers + 1) if layer not in cache.layers]
        if absent:
            raise CacheError(
                f"eval compares every layer, and {cache.uri} lacks {absent}", "extract with --layers all"
            )
        entries = usable_entries(cache, data.skip_missing)
        self.splits = choose_splits(entries, data)
        # One loader for all passes: a selection that fits in memory is then read once.
        self._full = Selection(tuple(range(self.num_layers + 1)))
        self._loader = Loader(cache, entries, self._full, BATCH_SECONDS)
        self.split = "test" if self.splits["test"] else "valid"
        self.probes = [name for name in PROBES if self._possible(name)] if probes is None else probes

    def batches(self, entries: list[Entry], hidden: bool = True) -> Iterable[Batch]:
        """Whole utterances with their audio and, with ``hidden``, all their layers 0 … L."""
        return self._loader.once(self._full if hidden else Selection(()), entries)

    def labelled(self, name: str) -> dict[str, list[Entry]]:
        """The utterances of each split that a probe has an answer for."""
        label = PROBES[name].label
        return {split: [e for e in es if e.labels.get(label) is not None] for split, es in self.splits.items()}

    def answers(self, name: str) -> dict[str, list[str]]:
        """Their answers, in the same order."""
        label = PROBES[name].label
        return {split: [str(e.labels[label]) for e in es] for split, es in self.labelled(name).items()}

    def _possible(self, name: str) -> bool:
        """Whether the labels support a probe; people are told why not, unless there are no such labels at all."""
        labels = self.answers(name)
        try:
            check_labels(name, labels)
        except GdistError as error:
            if any(labels.values()):
                console.say(f"left out: {error.message}", style="yellow")
            return False
        return True

    @cached_property
    def mean_frame(self) -> Tensor:
        """The teacher's mean frame [L, D] at each layer 1 … L, over training speech."""
        total_LD, frames = torch.zeros(()), 0
        for batch in self.batches(self.splits["train"]):
            total_LD = total_LD + batch.hidden_BLTD[:, 1:].double().sum((0, 2))  # padding is zero
            frames += int(batch.num_frames_B.sum())
            if frames > MEAN_FRAME_SECONDS * framing.FRAMES_PER_SECOND:
                break
        return (total_LD / frames).float()

    @cached_property
    def mean_frame_rows(self) -> list[dict[str, float]]:
        """How well the mean frame does: the least a student must beat."""
        fidelity = Fidelity(list(range(1, self.num_layers + 1)))
        for batch in self.batches(self.splits[self.split]):
            fidelity.add(self.mean_frame[None, :, None, :], batch.hidden_BLTD[:, 1:], _mask(batch))
        return fidelity.rows()

    @cached_property
    def baselines(self) -> dict[str, Any]:
        """Probe results of the teacher (from the cache) and of log-mel."""
        about, teacher = self.cache.gdist["about"], self.cache.identity["teacher"]
        return {
            "teacher": {
                "name": about["teacher"],
                "params": teacher["num_params"],
                "probes": self.probe(lambda batch: batch.hidden_BLTD, hidden=True),
            },
            "log_mel": {"probes": self.probe(LogMel())},
        }

    def probe(
        self, upstream: Callable[[Batch], Tensor], hidden: bool = False, known: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Every probe's result on the frozen states ``[B, K, T, D]`` that ``upstream`` gives for a batch.

        Args:
            hidden: whether ``upstream`` looks at the cached layers, or at the audio alone.
            known: what :func:`pooled` gave for utterances that ``upstream`` need not be asked about again.
        """
        results = {}
        for name in self.probes:
            entries = self.labelled(name)
            features = {
                split: self._pooled(upstream, members, hidden, known or {}) for split, members in entries.items()
            }
            results[name] = asdict(PROBES[name].run(features, self.answers(name)))
        return results

    @torch.no_grad()
    def _pooled(
        self, upstream: Callable[[Batch], Tensor], entries: list[Entry], hidden: bool, known: Mapping[str, Tensor]
    ) -> Tensor:
        by_id = dict(known)
        for batch in self.batches([entry for entry in entries if entry.id not in by_id], hidden):
            by_id |= pooled(upstream(batch), batch)
        return torch.stack([by_id[entry.id] for entry in entries]) if entries else torch.zeros(0, 1, 1)


def pooled(states_BKTD: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Utterance → the mean over its frames, [K, D]."""
    sums_BKD = torch.where(_mask(batch)[:, None, :, None], states_BKTD, 0).sum(2)
    return dict(zip(batch.ids, sums_BKD / batch.num_frames_B[:, None, None], strict=True))


class LogMel:
    """80 log-mel bands on the teacher's frames (25 ms every 20 ms): what speech tells without any learning."""

    def __init__(self) -> None:
        self.mel = torchaudio.transforms.MelSpectrogram(
            framing.SAMPLE_RATE, n_fft=framing.RECEPTIVE_FIELD, hop_length=framing.HOP, n_mels=80, center=False
        )

    def __call__(self, batch: Batch) -> Tensor:
        assert batch.waveform_BS is not None
        mel_BTD: Tensor = (self.mel(batch.waveform_BS) + 1e-6).log().transpose(1, 2)
        return mel_BTD[:, None, : int(batch.num_frames_B.max())]


@torch.no_grad()
def hidden_states(student: Student, batch: Batch) -> Tensor:
    """All L + 1 hidden states [B, L + 1, T, D] of a batch, in free-running generation."""
    assert batch.waveform_BS is not None
    waveform_BS = batch.waveform_BS
    if student.config.do_normalize:
        waveform_BS = normalize(waveform_BS, batch.num_samples_B)
    samples_BS = torch.arange(waveform_BS.shape[1]) < batch.num_samples_B[:, None]
    return torch.stack(student(waveform_BS, attention_mask=samples_BS.long()).hidden_states, dim=1)


def evaluate(run: Run, bench: Bench) -> dict[str, Any]:
    """Judge one run's student and write RUN/eval.json."""
    student = load_student(run)
    student.eval()
    layers = list(range(1, bench.num_layers + 1))
    fidelity, copies = Fidelity(layers), Fidelity(layers)
    known: dict[str, Tensor] = {}
    for batch in bench.batches(bench.splits[bench.split]):
        states_BKTD = hidden_states(student, batch)
        target_BLTD, mask_BT = batch.hidden_BLTD[:, 1:], _mask(batch)
        fidelity.add(states_BKTD[:, 1:], target_BLTD, mask_BT)
        copies.add(states_BKTD[:, :1], target_BLTD, mask_BT)
        known |= pooled(states_BKTD, batch)
    rows = fidelity.rows()
    result = {
        "run": run.name,
        "student": run.tables()["student"]["name"],
        "params": student.num_parameters(),
        "params_with_heads": student.num_parameters_with_heads(),
        "predicted_layers": list(student.predicted_layers),
        "cache": bench.cache.uri,
        "split": bench.split,
        "utterances": len(bench.splits[bench.split]),
        "frames": fidelity.frames,
        "mean_cosine": mean_cosine(rows),
        "layers": rows,
        "references": {"mean_frame": bench.mean_frame_rows, "copy_h0": copies.rows()},
        "probes": bench.probe(lambda batch: hidden_states(student, batch), known=known),
        **bench.baselines,
    }
    write_atomically(run.folder / "eval.json", json.dumps(result, indent=2))
    return result


def eval_command(folders: list[Path], uri: str | None, probes: str, as_json: bool) -> int:
    """Evaluate runs one after another; what they share is computed once a cache."""
    chosen = None if probes == "all" else [] if probes == "none" else probes.split(",")
    for name in chosen or ():
        if name not in PROBES:
            raise UsageError(f"--probes {probes}: there is no probe {name!r}", did_you_mean(name, PROBES))
    benches: dict[tuple[str, DataConfig], Bench] = {}
    results = []
    with console.progress("eval", len(folders), "runs", enabled=not as_json) as advance:
        for folder in folders:
            run = Run.open(folder)
            load_student(run)  # says so before the cache is read, if there is none
            where = uri or run.provenance()["cache"]
            data = build(TrainConfig, run.tables()).data
            cache = Cache.open(uri) if uri else run.open_cache(where)
            key = cache.gdist["checksum"], data
            if key not in benches:
                benches[key] = Bench(cache, data, chosen)
            results.append(evaluate(run, benches[key]))
            advance(1)
    if as_json:
        console.emit(results[0] if len(results) == 1 else results)
    else:
        show(results)
    return 0


def show(results: list[dict[str, Any]]) -> None:
    """Fidelity by layer, side by side, then the probes."""
    names = [result["run"] for result in results]
    first = results[0]
    columns = ["layer", *names, "copy of h_0", "mean frame"]
    rows = [
        [str(layer["layer"])]
        + [f"{result['layers'][place]['cosine']:.3f}" for result in results]
        + [f"{first['references'][name][place]['cosine']:.3f}" for name in ("copy_h0", "mean_frame")]
        for place, layer in enumerate(first["layers"])
    ]
    rows.append(["mean", *(f"{result['mean_cosine']:.3f}" for result in results)])
    console.print_table(f"cosine to the teacher on {first['utterances']} {first['split']} utterances", columns, rows)
    if first["probes"]:
        systems = [("teacher", first["teacher"]), *zip(names, results, strict=True), ("log-mel", first["log_mel"])]
        table = [[name, *(f"{r['value']:.3f}" for r in system["probes"].values())] for name, system in systems]
        heads = [f"{name} ({result['metric']})" for name, result in first["probes"].items()]
        console.print_table("probes", ["features", *heads], table)


def _mask(batch: Batch) -> Tensor:
    """True where a frame belongs to its utterance, [B, T]."""
    return torch.arange(batch.hidden_BLTD.shape[2]) < batch.num_frames_B[:, None]
