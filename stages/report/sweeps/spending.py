"""What a sweep cost, and what it would have cost with the teacher online, from what was measured."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gdist.pipeline.errors import UsageError
from gdist.stages.report.story import duration, size
from gdist.stages.report.sweeps.board import Board


@dataclass(frozen=True)
class Pass:
    """One pass of the teacher over the speech, as ``gdist extract --json`` or ``gdist plan --json`` measured it.

    Attributes:
        speed: seconds of speech per second.
        seconds: of the whole extraction; None where only the forward pass was timed.
    """

    speed: float
    seconds: float | None
    audio_seconds: float | None


@dataclass(frozen=True)
class Spending:
    """What a sweep's trainings took, all points together, stopped and failed ones included. None is not recorded.

    Attributes:
        seconds, cpu_seconds: of the trainings, added up over runs.
        fetched, local: bytes of shards from a bucket, and from the local folder of ``--local``.
        wall: of the calls of ``gdist sweep``.
    """

    runs: int
    steps: int
    seconds: float
    cpu_seconds: float | None
    audio_seconds: float | None
    fetched: int
    local: int
    wall: float | None
    teacher: Pass | None = None

    @classmethod
    def of(cls, board: Board, teacher: Pass | None = None) -> "Spending":
        trainings = [run.training() for run in board.runs]
        begun = [training for training in trainings if "steps" in training]
        audio = [training.get("audio_seconds") for training in begun]
        cpu = [training.get("cpu_seconds") for training in begun]
        return cls(
            runs=len(begun),
            steps=sum(training["steps"] for training in begun),
            seconds=sum(training.get("seconds", 0.0) for training in begun),
            cpu_seconds=None if None in cpu else sum(one for one in cpu if one),
            audio_seconds=None if None in audio else sum(one for one in audio if one),
            fetched=sum(training.get("bytes_fetched", 0) for training in trainings),
            local=sum(training.get("bytes_local", 0) for training in trainings),
            wall=sum(board.sweep.wall) if board.sweep.wall else None,
            teacher=teacher,
        )

    @property
    def teacher_seconds(self) -> float | None:
        """What an online teacher would have computed for, at the measured speed."""
        if self.teacher is None or self.audio_seconds is None:
            return None
        return self.audio_seconds / self.teacher.speed

    @property
    def of_online(self) -> float | None:
        """The sweep with its extraction over the same sweep with the teacher online."""
        if self.teacher_seconds is None or self.teacher is None or self.teacher.seconds is None:
            return None
        return (self.seconds + self.teacher.seconds) / (self.seconds + self.teacher_seconds)

    def sentences(self) -> list[Markup]:
        """The costs in words."""
        students = f"{self.runs} training{'s' * (self.runs != 1)}"
        text = Markup("<b>{} student steps</b> in {}").format(f"{self.steps:,}", students)
        if self.audio_seconds is not None:
            text += f", on {duration(self.audio_seconds)} of speech"
        text += Markup(": <b>{}</b> of training").format(duration(self.seconds))
        text += "" if self.cpu_seconds is None else f" ({duration(self.cpu_seconds)} of CPU)"
        text += "." if self.wall is None else f", and {duration(self.wall)} of wall time for the whole sweep."
        return [text, self._bytes(), *self._online()]

    def _bytes(self) -> Markup:
        parts = [
            f"{size(count)} from {where}"
            for count, where in ((self.fetched, "the bucket"), (self.local, "the local folder"))
            if count
        ]
        if parts:
            return Markup("Read from the cache: {}.").format(" and ".join(parts))
        return Markup("No bytes were fetched from a bucket: the cache is on this disk, where reading is not counted.")

    def _online(self) -> list[Markup]:
        if self.teacher is None:
            return [
                Markup(
                    "What the teacher's single pass took is not recorded in a cache, so nothing is said here about "
                    "the same sweep with the teacher online: add <code>--extraction FILE</code>, with what "
                    "<code>gdist extract --json</code> printed."
                )
            ]
        once = self.teacher
        found = []
        if once.seconds is not None:
            over = "" if once.audio_seconds is None else f" over {duration(once.audio_seconds)} of speech"
            found.append(
                Markup("The teacher's single pass{} took <b>{}</b>, {:.1f} × real time.").format(
                    over, duration(once.seconds), once.speed
                )
            )
        if self.teacher_seconds is None:
            return [*found, Markup("How much speech the trainings saw is not recorded.")]
        text = Markup(
            "With the teacher online, these trainings would have sent {} of speech through it: <b>{}</b> more, at "
            "that speed"
        ).format(duration(self.audio_seconds or 0.0), duration(self.teacher_seconds))
        if self.of_online is not None:
            text += Markup("; extraction and sweep together took <b>{:.2f}</b> of that sweep's time").format(
                self.of_online
            )
        found.append(text + ".")
        what = "the forward pass alone, without reading and decoding audio"
        if once.seconds is not None:
            what = (
                "a whole extraction, with decoding, encoding and writing, which an online teacher does only in part"
            )
        found.append(
            Markup(
                "The speed is that of {}, on the machine that measured it. Not known: how fast the teacher is beside "
                "a training, and on batches of its crops."
            ).format(what)
        )
        return found


def read_pass(path: Path) -> Pass:
    """Read what ``gdist extract --json`` or ``gdist plan --json`` printed.

    Raises:
        UsageError: the file cannot be read, or contains no speed that was measured.
    """
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "speed" in found:
            if found["speed"]["source"] == "assumed":
                raise ValueError("its speed was assumed and not measured")
            return Pass(_positive(found["speed"]["realtime_factor"]), None, None)
        resumed = found.get("packs_resumed", 0)
        seconds = None if resumed else _positive(found["seconds"])
        return Pass(_positive(found["realtime_factor"]), seconds, None if resumed else found.get("audio_seconds"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} does not say how fast the teacher was: {error}",
            "give the file that `gdist extract --json` was written to",
        ) from error


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{value} is no speed or time")
    return number
