"""What students are evaluated on: one cache's held-out speech, trivial references, and probes.

Axes: B batch, K hidden states, L layers, T frames, D features.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gdist.pipeline import console
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.errors import CacheError, GdistError
from gdist.pipeline.loading.batch import Batch, Selection
from gdist.pipeline.loading.joined import Source, Taught, joined
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import DataConfig, choose_splits, usable_entries
from gdist.stages.evaluate.chosen import of_each_voice, within, without_test
from gdist.stages.evaluate.fidelity import Fidelity
from gdist.stages.evaluate.layers import by_layer
from gdist.stages.evaluate.probes import PROBES, Probe
from gdist.stages.evaluate.probes.base import Examples
from gdist.stages.evaluate.upstreams import LogMel, StateCollector
from gdist.stages.train.teacher_files import frontend_tensors

BATCH_SECONDS = 60.0
MEAN_FRAME_SECONDS = 3600.0  # at most this much training audio is used for the mean frame
# Frames per split, at most, for probes that read frames: 75 and 25 minutes, 8 GB of a Base teacher's 13 states.
MAX_FRAMES = {"train": 225_000, "valid": 75_000, "test": 75_000}


def judged_layers(taught: Taught) -> list[int]:
    """The layers of a teacher that fidelity is measured at: of 1 … L, those that are cached."""
    return [layer for layer in taught.layers if layer > 0]


def absent_layers(taught: Taught) -> list[int]:
    """Of a teacher's layers 0 … L, those that are not cached."""
    return [layer for layer in range(taught.num_layers + 1) if layer not in taught.layers]


class Bench:
    """What all students of one cache are compared with: utterances, references, and the teacher's probe results.

    Attributes:
        layers: those of the (first) teacher that fidelity is measured at: of 1 … L, the ones that are cached.
        probed: the hidden states that probes read, of the teacher and of students: 0 … L, as far as they are cached.
    """

    def __init__(
        self,
        cache: Source,
        data: DataConfig,
        probes: Mapping[str, Probe] | None = None,
        control: bool = False,
        notify: Callable[[str], None] = lambda note: None,
        device: str = "cpu",
        split: Literal["test", "valid"] = "test",
        minutes: float = 0.0,
    ) -> None:
        """Choose the utterances; no probe runs yet.

        Args:
            probes: the probes to run, each of which must be possible; None runs every probe that the labels allow.
            control: also run each probe with shuffled labels.
            notify: is called with a description of each part of the evaluation, which takes minutes.
            device: where students generate and fidelity is measured. Probes always run on the CPU.
            split: what fidelity and probes are measured on. With "valid" the test split is not read, and a probe is
                measured on the utterances that its head was chosen by. Where there is no test split, "test" has the
                fidelity on the validation split, and no probes.
            minutes: of each voice in each split, at most so many minutes of speech; 0 is all.

        Raises:
            CacheError: the cache has nothing that a teacher computed after layer 0.
            GdistError: a probe in ``probes`` is not possible.
        """
        self.data = data
        self.caches = caches = joined(cache)
        self.cache = caches.first
        self.control = control
        self.notify = notify
        self.device = torch.device(device)
        first = caches.teachers[0]
        self.num_layers, self.layers, self.probed = first.num_layers, judged_layers(first), list(first.layers)
        for taught in caches.teachers:
            if not judged_layers(taught):
                raise CacheError(
                    f"there is nothing to compare a student with: {taught.cache.uri} has only layer 0",
                    "run its gdist extract again, with --layers all",
                )
        entries = usable_entries(caches, data.skip_missing, otherwise="")
        chosen = choose_splits(entries, data)
        self.splits = {name: list(found) for name, found in chosen.items()}
        self.minutes = minutes
        if minutes:
            most = minutes * 60 * caches.framing.frames_per_second
            self.splits = {name: of_each_voice(found, most) for name, found in self.splits.items()}
        read = [entry for found in self.splits.values() for entry in found] if minutes else entries
        # One loader for all passes, so that a selection that fits in memory is read only once.
        self._full = Selection(first.numbers)
        self._loader = Loader(caches, read, self._full, BATCH_SECONDS, device=device)
        self.on_valid = split == "valid"
        self.split = split if self.splits[split] else "valid"
        chosen.warn([self.split])
        self.also_trained_on = chosen.also_trained_on.get(self.split, 0)
        self._mean_frame_rows: dict[Taught, list[dict[str, float]]] = {}
        self.probes = dict(PROBES if probes is None else probes)
        self.tasks = self._tasks(named=probes is not None)

    def batches(self, entries: list[Entry], hidden: bool = True) -> Iterable[Batch]:
        """Whole utterances with their audio and, with ``hidden``, the layers that are :attr:`probed`."""
        return self._loader.once(self._full if hidden else Selection(()), entries)

    def batches_of(self, taught: Taught, entries: list[Entry]) -> Iterable[Batch]:
        """Whole utterances with their audio and, of one of several teachers, the layers that are judged."""
        selection = Selection(tuple(number for number in taught.numbers if number > taught.offset))
        return Loader(self.caches, entries, selection, BATCH_SECONDS, device=str(self.device)).once(selection)

    def _tasks(self, named: bool) -> dict[str, Examples]:
        """The examples of each probe. A message says why a probe is left out, unless it has no labels at all."""
        tasks: dict[str, Examples] = {}
        splits = without_test(self.splits) if self.on_valid else self.splits
        for name, probe in self.probes.items():
            try:
                examples = probe.choose(splits)
            except GdistError as error:
                if named:
                    raise
                console.say(f"left out: {error.message}", style="yellow")
                continue
            if any(examples.values()):
                tasks[name] = self._within(examples) if probe.wants_frames else examples
            elif named:
                raise GdistError(
                    f"the probe `{name}` finds no labels: no utterance has a `{probe.label}`",
                    "fill in that column of the manifest and extract again, or leave the probe out",
                )
        return tasks

    def _within(self, examples: Examples) -> Examples:
        """As many examples as ``MAX_FRAMES`` allows; of a split that is too long, always the same ones."""
        frames = {e.id: e.num_frames for split in self.splits.values() for e in split}
        chosen = {
            split: within([(e.id, frames[e.id]) for e in found], MAX_FRAMES[split])
            for split, found in examples.items()
        }
        return {split: [e for e in found if e.id in chosen[split]] for split, found in examples.items()}

    def targets(self, batch: Batch) -> Tensor:
        """What students are compared with: the batch's :attr:`layers`, [B, L, T, D]."""
        return batch.hidden_BLTD[:, -len(self.layers) :]  # layer 0 is before them, where it is cached

    @cached_property
    def mean_frame(self) -> Tensor:
        """The teacher's mean frame [L, D] at each of :attr:`layers`, over training speech."""
        total_LD, frames = torch.zeros((), device=self.device), 0
        for batch in self.batches(self.splits["train"]):
            total_LD = total_LD + self.targets(batch).double().sum((0, 2))  # padding is zero
            frames += int(batch.num_frames_B.sum())
            if frames > MEAN_FRAME_SECONDS * self.cache.framing.frames_per_second:
                break
        return (total_LD / frames).float()

    def mean_frame_rows_of(self, taught: Taught) -> list[dict[str, float]]:
        """The same as :attr:`mean_frame_rows` for one of several teachers."""
        if taught not in self._mean_frame_rows:
            total_LD, frames = torch.zeros((), device=self.device), 0
            for batch in self.batches_of(taught, self.splits["train"]):
                total_LD = total_LD + batch.hidden_BLTD.double().sum((0, 2))
                frames += int(batch.num_frames_B.sum())
                if frames > MEAN_FRAME_SECONDS * self.caches.framing.frames_per_second:
                    break
            fidelity = Fidelity(judged_layers(taught), self.device)
            for batch in self.batches_of(taught, self.splits[self.split]):
                mean_LD = (total_LD / frames).float()
                fidelity.add(mean_LD[None, :, None, :], batch.hidden_BLTD, batch.mask_BT)
            self._mean_frame_rows[taught] = fidelity.rows()
        return self._mean_frame_rows[taught]

    @cached_property
    def mean_frame_rows(self) -> list[dict[str, float]]:
        """The fidelity of the mean frame, the minimum that a student must beat."""
        fidelity = Fidelity(self.layers, self.device)
        for batch in self.batches(self.splits[self.split]):
            fidelity.add(self.mean_frame[None, :, None, :], self.targets(batch), batch.mask_BT)
        return fidelity.rows()

    def is_teachers(self, frontend: nn.Module) -> bool:
        """Whether a student's front-end has exactly the teacher's weights, so that its layer 0 is the teacher's."""
        own, teachers = frontend.state_dict(), self._teachers_frontend
        # In float64, which holds any of them exactly: a cache may have the weights in fewer bits than a student.
        return own.keys() == teachers.keys() and all(
            torch.equal(own[name].cpu().double(), teachers[name].double()) for name in own
        )

    @cached_property
    def _teachers_frontend(self) -> dict[str, Tensor]:
        return frontend_tensors(self.cache)

    @cached_property
    def baselines(self) -> dict[str, Any]:
        """Probe results of the teacher (from the cache) and of log-mel."""
        about, teacher = self.cache.gdist["about"], self.cache.identity["teacher"]
        return {
            "teacher": {
                "name": about["teacher"],
                "params": teacher["num_params"],
                "fingerprint": teacher["fingerprint"],
                "probes": self.probe_layers("the teacher", lambda batch: batch.hidden_BLTD, hidden=True),
            },
            "log_mel": {"probes": self.probe("log-mel", LogMel(self.cache.framing))},
        }

    def probe_layers(
        self,
        who: str,
        upstream: Callable[[Batch], Tensor],
        hidden: bool = False,
        states: StateCollector | None = None,
    ) -> dict[str, Any]:
        """What :meth:`probe` finds on the states that are :attr:`probed`, by the numbers of the teacher's layers."""
        found = self.probe(who, upstream, hidden, states)
        return {name: by_layer(each, self.probed, self.num_layers) for name, each in found.items()}

    @torch.no_grad()
    def probe(
        self,
        who: str,
        upstream: Callable[[Batch], Tensor],
        hidden: bool = False,
        states: StateCollector | None = None,
    ) -> dict[str, Any]:
        """Every probe's result on the frozen states ``[B, K, T, D]`` that ``upstream`` gives for a batch.

        Args:
            who: the upstream's name, for messages.
            hidden: whether ``upstream`` reads the cached layers, or the audio alone.
            states: the states that ``upstream`` has already given; these are not computed again.
        """
        states = states or self.collector()
        wanted = {example.id for task in self.tasks.values() for split in task.values() for example in split}
        left = [e for split in self.splits.values() for e in split if e.id in wanted - states.mean.keys()]
        for batch in self.batches(list({entry.id: entry for entry in left}.values()), hidden):
            states.add(upstream(batch), batch)
        features = states.features([entry.id for entry in self.splits["train"]])
        found = {}
        with torch.enable_grad():
            for name, examples in self.tasks.items():
                self.notify(f"{who}: {self.probes[name].title}")
                result = self.probes[name].run(examples, features, control=self.control)
                if not math.isfinite(result.value):
                    raise GdistError(
                        f"the probe `{name}` gives no number for {who}: {result.value}", "leave it out with --probes"
                    )
                found[name] = asdict(result)
        return found

    def collector(self) -> StateCollector:
        """A new collector for an upstream's states, as far as the probes read them."""
        chosen = [self.tasks[name] for name in self.tasks if self.probes[name].wants_frames]
        return StateCollector({example.id for task in chosen for split in task.values() for example in split})
