"""What was found about a run's student: an evaluation for each cache, split and amount of speech, side by side.

RUN/
  evaluations/test-KEY.json    each of them; valid-KEY.json where the validation split was asked for
  eval.json, eval-valid.json   of each split, the one that stands for the student; it is in evaluations/ too

KEY follows from what was read (the state of the caches, the run's choice of utterances, the minutes of each voice)
and from the weights. Two evaluations with one key are of one student on the same utterances: they are one evaluation,
with the probes of both. One of other weights, such as those from before a student was trained again, stays where it
is and is no longer said to be the student's. One of an unfinished student has its step, and is in evaluations/ alone.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdist.pipeline.config import signature
from gdist.pipeline.console import say
from gdist.pipeline.errors import RunError
from gdist.pipeline.files import sha256_of
from gdist.pipeline.run import EVALUATIONS, Run
from gdist.pipeline.run.evaluation import Evaluation, as_read, read_evaluation, text_of_evaluation
from gdist.pipeline.run.schema import About
from gdist.pipeline.run.snapshot import at_step
from gdist.pipeline.storage.locations import in_shell

SAME = 1e-3  # by which the cosines of one student on the same speech may differ between devices


@dataclass(frozen=True)
class Speech:
    """What all runs of a sweep are evaluated on.

    Attributes:
        minutes: at most so many of each voice in each split; 0 is all.
        cache: where it is; None for each run's own.
    """

    minutes: float = 0.0
    cache: str | None = None


class Evaluations:
    """The evaluations of one run's student, as it is now.

    Args:
        step: after which the student was taken; None for the finished one. It alone has one that stands for it.
    """

    def __init__(self, run: Run, step: int | None = None) -> None:
        self.run = run
        self.step = step
        self.folder = run.folder / "evaluations"

    def first(self, split: str = "test") -> Evaluation | None:
        """The one that stands for the student; None where there is none of the student as it is now.

        Raises:
            RunError: it cannot be read.
        """
        if self.step is not None:
            return max(self._beside(split), key=self._rank, default=None)
        path = self.run.own(self.run.folder / EVALUATIONS[split])
        if not path.exists():
            return None
        again = f"gdist eval {in_shell(self.run.folder)}{'' if split == 'test' else f' --split {split}'}"
        found = read_evaluation(path, again)
        return found if self._is_current(found) else None

    def every(self, split: str = "test") -> Iterator[Evaluation]:
        """All of them on a split, the one that stands for the student first.

        Raises:
            RunError: that one cannot be read.
        """
        first = self.first(split)
        if first is not None:
            yield first
        yield from (other for other in self._beside(split) if first is None or _key(other) != _key(first))

    def _beside(self, split: str) -> Iterator[Evaluation]:
        for path in sorted(self.run.own(self.folder).glob(f"{split}-*.json")):
            other = _read_or_say(self.run.own(path), "left out")
            if other is not None and self._is_current(other):
                yield other

    def on(self, split: str, speech: "Speech | None") -> Evaluation | None:
        """The one on this speech; with None, the one that stands for the student."""
        if speech is None:
            return self.first(split)
        return next((found for found in self.every(split) if self._is_on(found, speech)), None)

    def _is_on(self, evaluation: Evaluation, speech: "Speech") -> bool:
        where = self.is_own(evaluation) if speech.cache is None else evaluation.get("cache") == speech.cache
        return where and evaluation.get("minutes", 0.0) == speech.minutes

    def keep(self, split: str, result: Evaluation) -> Evaluation:
        """Write one next to the others, with the probes that were run before.

        Args:
            split: the one that was asked for. Where there is no test split, another one is measured on.

        Returns:
            what was written.

        Raises:
            RunError: a link is in the way.
        """
        result = as_read(result)  # to be compared with what is
        standing, place = self.run.own(self.run.folder / EVALUATIONS[split]), self.run.own(self._place(split, result))
        first, earlier = (_read_or_say(path, "replaced") if path.exists() else None for path in (standing, place))
        if first is not None and not _are_one(first, result) and not self._place(split, first).exists():
            self._write(self._place(split, first), first)  # its only copy, from before there was this folder
        for before in (first, earlier):
            if before is not None and _are_one(before, result):
                result = _with_probes_of(before, result)
        self._write(place, result)
        if self.step is not None:
            return result
        if first is None or not self._is_current(first) or self._rank(result) >= self._rank(first):
            self._write(standing, result)
        return result

    def retire(self) -> None:
        """Keep what stood for the finished student as what was found of the one after ``step``: the run goes on."""
        assert self.step is not None
        for split, name in EVALUATIONS.items():
            standing = self.run.own(self.run.folder / name)
            if standing.exists():
                found = _read_or_say(standing, "set aside")
                place = self.folder / f"{split}-step-{self.step}.json" if found is None else self._place(split, found)
                if found is not None and not place.exists():
                    self._write(place, found | {"step": self.step})
                self.run.own(self.folder).mkdir(exist_ok=True)
                standing.unlink() if place.exists() else standing.replace(self.run.own(place))

    def is_own(self, evaluation: Mapping[str, Any]) -> bool:
        """Whether it was made on the caches that the run was trained from, as they were, wherever they are now."""
        origin = self.run.provenance(About)
        known = "cache_checksum" if "cache_checksum" in evaluation else "cache"
        return bool(evaluation.get(known) == origin.get(known))

    def _is_current(self, evaluation: Evaluation) -> bool:
        """Whether it is of the weights that are there now; also where there are none, or it says nothing of them."""
        step = evaluation.get("step")
        if self.step is not None and step != self.step:
            return False
        if self.step is None and step is not None and self._is_of_another_step(step):
            return False
        path, known = self._weights_file(), evaluation.get("weights")
        if not known or path is None or not self.run.own(path).exists():
            return True
        stat = path.stat()
        if known["bytes"] != stat.st_size:
            return False
        # A file that was not touched is the same, and need not be read, which takes long for hundreds of students.
        return bool(known["modified"] == stat.st_mtime_ns or known["sha256"] == sha256_of(path))

    def _is_of_another_step(self, step: int) -> bool:
        try:
            return step != self.run.total
        except RunError:  # its config is damaged, which those say that need it
            return False

    def _weights_file(self) -> Path | None:
        if self.step is None:
            return self.run.student / "model.safetensors"
        try:
            return at_step(self.run, self.step).weights_file
        except RunError:  # it is not kept any more
            return None

    def _rank(self, evaluation: Evaluation) -> tuple[bool, float]:
        """What stands for a student: on its own cache, on as much speech as possible."""
        return self.is_own(evaluation), float(evaluation.get("minutes", 0.0)) or math.inf

    def _place(self, split: str, evaluation: Evaluation) -> Path:
        return self.folder / f"{split}-{_key(evaluation)}.json"

    def _write(self, path: Path, evaluation: Evaluation) -> None:
        self.run.own(self.folder).mkdir(exist_ok=True)
        self.run.write(path.relative_to(self.run.folder).as_posix(), text_of_evaluation(evaluation))


def evaluated_steps(run: Run, split: str = "test") -> list[int]:
    """The steps of the unfinished students of a run that were evaluated, ascending."""
    paths = run.own(Evaluations(run).folder).glob(f"{split}-*.json")
    found = (_read_or_say(run.own(path), "left out") for path in paths)
    return sorted({int(each["step"]) for each in found if each and each.get("step") not in (None, run.total)})


def weights_in(path: Path) -> dict[str, Any]:
    """What an evaluation says of the weights that it is of: their digest, and how to see that nobody touched them."""
    stat = path.stat()
    return {"sha256": sha256_of(path), "bytes": stat.st_size, "modified": stat.st_mtime_ns}


def _key(evaluation: Evaluation) -> str:
    """Twelve digits that are equal where one student was evaluated on the same utterances."""
    if "weights" not in evaluation:
        return signature(evaluation)
    told = ("cache_checksum", "data", "minutes", "split", "utterances", "frames", "step")
    return signature({name: evaluation.get(name) for name in told} | {"weights": evaluation["weights"]["sha256"]})


def _are_one(earlier: Evaluation, now: Evaluation) -> bool:
    """Whether both are of one student on the same utterances. Of one that does not say so, its figures show it."""
    if "weights" in earlier:
        return _key(earlier) == _key(now)
    told = ("cache", "split", "utterances", "frames", "params")
    if any(earlier.get(name) != now.get(name) for name in told) or earlier.get("minutes", 0.0) != now["minutes"]:
        return False
    was, found = ([row["cosine"] for row in each.get("layers", ())] for each in (earlier, now))
    return len(was) == len(found) and all(abs(a - b) < SAME for a, b in zip(was, found, strict=True))


def _with_probes_of(earlier: Evaluation, now: Evaluation) -> Evaluation:
    """An evaluation, and the probes that only an earlier one of the same student on the same utterances has."""
    merged = now | {"probes": _probes(earlier, now), "weights": earlier.get("weights", now["weights"])}
    for who in ("teacher", "log_mel"):
        merged[who] = now[who] | {"probes": _probes(earlier.get(who) or {}, now[who])}
    for code in ("extensions", "packages"):
        others = {name: record for name, record in (earlier.get(code) or {}).items() if name not in now["probes"]}
        merged[code] = others | now[code]
    return merged


def _probes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = dict(earlier.get("probes") or {})
    for name, probe in now["probes"].items():
        if probe != found.get(name, {}) | {"shuffled": None}:  # else it is the same, with the control from before
            found[name] = probe
    return found


def _read_or_say(path: Path, what: str) -> Evaluation | None:
    try:
        return read_evaluation(path)
    except RunError as error:
        say(f"{what}: {error.message}", style="yellow")
        return None
