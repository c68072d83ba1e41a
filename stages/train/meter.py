"""What a training run reports while it runs and when it ends: throughput, losses, and the time spent waiting."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from torch.utils.tensorboard import SummaryWriter

from gdist.pipeline import console
from gdist.pipeline.cache.near import Traffic
from gdist.pipeline.run import Run

Spent = Literal["step", "waiting", "other"]


class Meter:
    """What one student's training has cost, and means since the last report: loss, cosine, throughput, the share of
    time spent waiting for data, and where the data came from.

    Attributes:
        elapsed: seconds of its training so far, with validations and checkpoints. Students that train together divide
            what they share, so that their sum is what passed.
    """

    def __init__(self, elapsed: float = 0.0) -> None:
        self.elapsed = elapsed
        self._reset()
        self._fetched = self._local = 0
        self._line_since = time.monotonic()

    def _reset(self) -> None:
        self.seconds = self.cpu_seconds = self.waited = 0.0
        self.steps, self.losses, self.cosines, self.audio = 0, 0.0, 0.0, 0.0

    def add(self, loss: float, cosine: float, audio_seconds: float) -> None:
        """Count a step."""
        self.steps += 1
        self.losses += loss
        self.cosines += cosine
        self.audio += audio_seconds

    def spend(self, seconds: float, cpu_seconds: float, on: Spent) -> None:
        """Count time: of steps, or of validations and checkpoints, which no row counts."""
        self.elapsed += seconds
        if on != "other":
            self.seconds += seconds
            self.cpu_seconds += cpu_seconds
        if on == "waiting":
            self.waited += seconds

    def move(self, fetched: int, local: int) -> None:
        """Count bytes of shards that came from a bucket, and from the local folder."""
        self._fetched += fetched
        self._local += local

    def moved(self) -> tuple[int, int]:
        """Return the bytes that came from the bucket and from the local folder since this was last asked."""
        moved = self._fetched, self._local
        self._fetched = self._local = 0
        self._line_since = time.monotonic()
        return moved

    def row(self) -> dict[str, float]:
        """The fields for metrics.jsonl."""
        seconds = max(self.seconds, 1e-9)
        return {
            "steps": self.steps,
            "loss": self.losses / max(self.steps, 1),
            "cosine": self.cosines / max(self.steps, 1),
            "audio_seconds": self.audio,
            "audio_seconds_per_second": self.audio / seconds,
            "data_wait_fraction": self.waited / seconds,
            "step_seconds": seconds / max(self.steps, 1),
            "step_cpu_seconds": self.cpu_seconds / max(self.steps, 1),
        }

    def flush(self) -> dict[str, float]:
        row = self.row()
        self._reset()
        return row

    def __str__(self) -> str:
        row = self.row()
        return (
            f"loss {row['loss']:.3f}  cos {row['cosine']:.3f}  {row['audio_seconds_per_second']:.0f}× real time"
            f"  wait {row['data_wait_fraction']:.0%}{self._line()}"
        )

    def _line(self) -> str:
        """Say where shards come from; nothing for a cache in a folder."""
        if not self._fetched + self._local:
            return ""
        seconds = max(time.monotonic() - self._line_since, 1e-9)
        share = self._local / (self._fetched + self._local)
        return f"  line {console.size(self._fetched / seconds)}/s · local {share:.0%}"


@contextlib.contextmanager
def spent(meters: Sequence[Meter], on: Spent) -> Iterator[None]:
    """Divide the time of the block among the meters."""
    began, began_cpu = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - began_cpu
        for meter in meters:
            meter.spend(seconds / len(meters), cpu_seconds / len(meters), on)


def paid_by[T](meters: Callable[[], Sequence[Meter]], items: Iterator[T], on: Spent = "waiting") -> Iterator[T]:
    """Yield the items; the time in which each is waited for is divided among the meters of those who wait."""
    while True:
        with spent(meters(), on):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


class Line:
    """Divides what is moved of a cache among those who train from it.

    Args:
        traffic: for each cache in a bucket, the bytes of shards that came from there, and from the local folder.
    """

    def __init__(self, traffic: Sequence[Traffic]) -> None:
        self.traffic = traffic
        self._fetched = self._local = 0

    def divide(self, meters: Sequence[Meter]) -> None:
        """Count what came since the last time: equal parts, and what is left over for the first."""
        fetched = sum(each.fetched for each in self.traffic) - self._fetched
        local = sum(each.local for each in self.traffic) - self._local
        self._fetched, self._local = self._fetched + fetched, self._local + local
        for place, meter in enumerate(meters):
            own = (total // len(meters) + (total % len(meters) if place == 0 else 0) for total in (fetched, local))
            meter.move(*own)


class MetricsWriter:
    """Writes a run's figures to metrics.jsonl and TensorBoard. Rows that were reported after ``step`` are dropped."""

    def __init__(self, run: Run, step: int) -> None:
        run.rewind_metrics(step)
        self.run = run
        try:
            self.curves = SummaryWriter(str(run.own(run.folder / "tensorboard")), purge_step=step + 1)
        except OSError as error:
            raise run.unwritable(error) from error
        self._draws = True

    def report(self, row: dict[str, Any]) -> None:
        """Write one row, which has a ``kind`` and a ``step``."""
        self.run.report(row)
        if self._draws:
            try:
                self._draw(row)
            except OSError as error:  # metrics.jsonl has the same numbers
                self._draws = False
                console.say(f"cannot write {self.curves.log_dir}: {error}; its curves end here", style="yellow")

    def _draw(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self.curves.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        for layer, cosine in row.get("cosine_by_layer", {}).items():
            teacher, _, number = layer.rpartition(":")
            curve = f"valid_cosine/{teacher and f'{teacher}_'}layer_{int(number):02d}"
            self.curves.add_scalar(curve, cosine, row["step"])
        for teacher, cosine in row.get("cosine_by_teacher", {}).items():
            self.curves.add_scalar(f"valid_cosine/{teacher}", cosine, row["step"])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.curves.close()


def summarize(run: Run, step: int) -> dict[str, Any]:
    """What ``gdist train`` reports when it ends after ``step``, computed from the run's metrics.

    Where these are lost, there is None in their place.
    """
    every = run.read_metrics()
    rows = [row for row in every if row["kind"] == "train"]
    if not rows:
        told = ("loss", "step_seconds", "step_cpu_seconds", "data_wait_fraction", "audio_seconds_per_second")
        return {"steps": step, **dict.fromkeys(told), "bytes_fetched": 0, "bytes_local": 0}
    seconds = sum(row["step_seconds"] * row["steps"] for row in rows)
    steps = sum(row["steps"] for row in rows)
    return {
        "steps": step,
        "loss": rows[-1]["loss"],
        "step_seconds": seconds / steps,
        "step_cpu_seconds": sum(row.get("step_cpu_seconds", 0) * row["steps"] for row in rows) / steps,
        "data_wait_fraction": sum(r["data_wait_fraction"] * r["step_seconds"] * r["steps"] for r in rows) / seconds,
        "audio_seconds_per_second": sum(row["audio_seconds"] for row in rows) / seconds,
        "bytes_fetched": int(sum(row.get("bytes_fetched", 0) for row in every)),
        "bytes_local": int(sum(row.get("bytes_local", 0) for row in every)),
    }
