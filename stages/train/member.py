"""One of the students that a process trains: its run, its learner, and how far it has come."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.config import to_tables
from gdist.pipeline.errors import CacheError
from gdist.pipeline.loading.batch import Batch
from gdist.pipeline.loading.joined import Joined
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import Splits
from gdist.pipeline.observe import measured
from gdist.pipeline.run import Run
from gdist.stages.device import enough_memory
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.going_on import may_change
from gdist.stages.train.learner import Learner
from gdist.stages.train.meter import Meter, MetricsWriter, Spent, spent, summarize
from gdist.stages.train.origin import extensions_of, provenance
from gdist.stages.train.ranks import Ranks
from gdist.stages.train.start import Start, begin_with, start_of
from gdist.stages.train.student_store import build_student, layers_to_read, save_student


@dataclass(frozen=True)
class Request:
    """A student that is asked for.

    Attributes:
        out: the run's folder.
        until: pause after this step; None trains to the end.
        start_from: the student whose weights it begins with: a run, RUN@STEP or an export.
    """

    out: Path
    config: TrainConfig
    until: int | None = None
    start_from: Path | None = None


class Member:
    """A student in training, from the opening of its run to its result.

    Args:
        failed: called if it fails, and the others go on. None for a student that trains alone: its failure is raised.

    Attributes:
        start: what it begins with, where that is another student's weights.
        layers: the cached layers that it needs.
        splits: the utterances, by split.
        step: the last step that it has taken; ``position``: the loader's after it.
        end: its last step in this process.
        stop: whether any of its ranks was asked to stop.
        failure: why it does not go on.
        owes_validation: whether it was ended in the validation after its step, alone.
        result: the fields of ``gdist train --json``, once it has come to its end; None on every rank but the first.
    """

    learner: Learner
    start: Start | None
    layers: list[int]
    splits: Splits

    def __init__(
        self, request: Request, ranks: Ranks, failed: Callable[[Request, Exception], None] | None = None
    ) -> None:
        self.request, self.ranks, self._failed = request, ranks, failed
        self.run, self.config = Run(request.out), request.config
        self.optim = request.config.train
        self.end = min(request.until or self.optim.steps, self.optim.steps)
        self.step, self.position = 0, {"epoch": 0, "position": 0}
        self.meter = Meter()
        self.failure: Exception | None = None
        self.result: dict[str, Any] | None = None
        self.stop = False
        self._ended = False
        self._saved = 0
        self._batches: list[Batch] = []
        self._metrics: MetricsWriter | None = None
        self._open = contextlib.ExitStack()
        self.owes_validation = False

    # --- its run --------------------------------------------------------------------------------------------------

    def build(self, caches: Joined) -> None:
        """Build the student; nothing is written yet."""
        student = build_student(caches, self.config)
        given = self.request.start_from
        self.start = None if given is None else start_of(self.run, given)
        if self.start is not None:
            begin_with(student, self.start, self.config.student["frontend"] == "frozen")
        self.layers = layers_to_read(caches, student, self.config)
        names = [taught.name for taught in caches.teachers]
        self.learner = Learner(student, self.config, self.ranks, names)

    def claim(self, caches: Joined) -> None:
        """Become the one that trains in this folder, and write what the run is."""
        if not self.ranks.first:
            return
        self._open.enter_context(self.run.owned())
        origin = provenance(caches, self.learner.student, self.config, self.splits, self.ranks)
        origin |= {} if self.start is None else {"start": self.start.record}
        changes = may_change(self.run, self.config)
        self.run.begin(to_tables(self.config), origin, extensions_of(caches, self.config), changes)

    def require_same(self, caches: Joined) -> None:
        """Raise CacheError where this rank has opened another state of the caches than the first one."""
        if self.run.provenance()["cache_checksum"] != caches.checksum:
            raise CacheError(f"{caches.uri} grew while the ranks were opening it", "run the same command again")

    def resume(self, loader: Loader) -> None:
        """Continue from the newest checkpoint, if there is one."""
        if self.run.steps():
            with self.ranks.together():
                self.step, self.position, seconds = self.learner.restore(self.run, loader)
                self._saved, self.meter = self.step, Meter(seconds)
            console.say(f"resuming {self.run.folder} after step {self.step}")
        with self.ranks.together():
            if self.ranks.first:
                self._require_room()
                self._metrics = self._open.enter_context(contextlib.closing(MetricsWriter(self.run, self.step)))

        if self.step and self.ranks.world == 1 and self.validates:
            told = ((row["kind"], row["step"]) for row in self.run.read_metrics())
            self.owes_validation = ("valid", self.step) not in told

    def _require_room(self) -> None:
        """Raise RunError where the disk has no room for the checkpoints to come, now and not after hours of work."""
        left = -(-(self.end - self.step) // self.optim.checkpoint_every)
        kept = self.optim.keep_checkpoints
        more = min(left, max(kept + 1 - len(self.run.steps()), 1))  # an old one is deleted once the new one is there
        what = f"a run that keeps {kept} checkpoint{'s' * (kept != 1)} (train.keep_checkpoints)"
        self.run.require_room(more * self.learner.checkpoint_bytes, what)

    def complete(self) -> None:
        """Save the student, if this is its last step, and let the run go."""
        with self.ranks.together():
            if self.ranks.first and self.step == self.optim.steps:
                # Once more: an old one that could not be deleted when it became old.
                self.run.prune(self.step, self.optim.keep_checkpoints, self.optim.keep_every)
                save_student(self.run, self.learner.result)
                self.run.note_finished()
        if self.ranks.first:
            result = summarize(self.run, self.step)
            if result["loss"] is not None:
                noted = ("bytes_fetched", "bytes_local", "data_wait_fraction")
                self.run.note({name: result[name] for name in noted})
            self.result = result
        self.close()

    def close(self) -> None:
        """Let the run and the student's memory go."""
        self._ended = True
        self._batches = []
        self._open.close()
        if hasattr(self, "learner"):
            del self.learner

    @contextlib.contextmanager
    def attempt(self, on: Spent | None = "other") -> Iterator[None]:
        """Do something for this member alone. Where there are others, they go on if it fails.

        Args:
            on: what the time is spent on; None where it is not this member's alone.
        """
        smaller = ("fewer students together, or " if self._failed else "") + self.config.smaller
        meters = [self.meter] if on else []
        try:
            with spent(meters, on or "other"), enough_memory(self.doing, self.ranks.device, smaller):
                yield
        except Exception as error:
            if self._failed is None:
                raise
            if self.going:  # a thread that prepares batches may come too late
                self.fail(error)

    def fail(self, error: Exception) -> None:
        """Go on no more."""
        self.failure = error
        if self._failed is not None:
            self._failed(self.request, error)

    @property
    def doing(self) -> str:
        """What it attempts, for messages."""
        return f"training {self.run.folder} on batches of {self.optim.batch_seconds:g} s of audio"

    # --- its steps ------------------------------------------------------------------------------------------------

    @property
    def going(self) -> bool:
        """Whether it has batches to take."""
        return self.failure is None and not self._ended

    @property
    def taken(self) -> int:
        """How many batches it has taken since it began to train, in other processes too."""
        return self.step * self.optim.accumulate + len(self._batches)

    @property
    def stops_at(self) -> int:
        """How many batches it takes up to its end."""
        return self.end * self.optim.accumulate

    @property
    def thaws_at(self) -> int | None:
        """After how many batches its front-end is trained, too, where it is still frozen."""
        thaws = self.optim.thaw_step and self.learner.frozen
        return (self.optim.thaw_step - 1) * self.optim.accumulate if thaws else None

    def thaw_if_due(self) -> None:
        if self.thaws_at is not None and self.taken >= self.thaws_at:
            self.learner.thaw()

    def augmented(self, number: int, batch: Batch) -> Batch:
        """The batch as it learns from it, as the ``number``-th, counted from 0; it may be called from any thread."""
        step, place = divmod(number, self.optim.accumulate)
        learner = self.learner
        return learner.augmented(step + 1, place, batch) if learner.objective.augments else batch

    def take(self, batch: Batch) -> bool:
        """Take one batch. Returns whether it has all of its next step."""
        self._batches.append(batch)
        return len(self._batches) == self.optim.accumulate

    def begin(self, stopping: Sequence[int]) -> None:
        """Begin the step of the batches that were taken."""
        self.learner.begin(self.step + 1, self._batches, stopping)

    def finish(self) -> None:
        """Finish the step that was begun."""
        loss, cosine, self.stop = self.learner.finish()
        self.meter.add(loss, cosine, sum(batch.audio_seconds for batch in self._batches))
        epoch, position = self._batches[-1].position
        self.step, self.position, self._batches = self.step + 1, {"epoch": epoch, "position": position}, []

    @property
    def validates(self) -> bool:
        return self.step == self.end or self.step % self.optim.validate_every == 0

    @property
    def checkpoints(self) -> bool:
        return self.step == self.end or self.step % self.optim.checkpoint_every == 0 or self.stop

    def report_steps(self) -> None:
        """Report the steps since the last report, where that is due."""
        if self.checkpoints or self.step % self.optim.log_every == 0:
            self.report("train", self._steps())

    def _steps(self) -> dict[str, Any]:
        return self.meter.flush() | {"lr": self.learner.rate(self.step), "grad_norm": self.learner.grad_norm}

    def report(self, kind: str, row: dict[str, Any]) -> None:
        """Write one row of metrics.jsonl."""
        fetched, local = map(int, self.ranks.total(*self.meter.moved()))
        if self._metrics is not None:
            moved = {"bytes_fetched": fetched, "bytes_local": local}
            row = row | moved | {"step": self.step, "kind": kind, "seconds": self.meter.elapsed}
            self._metrics.report(row)
            measured(self.run.name, kind, row)

    def pause(self) -> None:
        """Keep what it has, to go on later: it may be between two steps, or within one whose batches are dropped."""
        if self.meter.steps:
            self.report("train", self._steps())
        self.save()

    def save(self) -> None:
        """Save a checkpoint, unless the newest one is of this step."""
        if self._saved < self.step:
            with self.ranks.together():
                if self.ranks.first:
                    self.learner.save(self.run, self.step, self.position, self.meter.elapsed)
            self._saved = self.step


def going(members: Iterable[Member]) -> list[Member]:
    """Those that go on."""
    return [member for member in members if member.going]
