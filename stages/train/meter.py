"""What a training run reports while it runs and when it ends: throughput, losses, and the time spent waiting."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from gdist.pipeline import console
from gdist.pipeline.cache.near import Traffic
from gdist.pipeline.errors import RunError
from gdist.pipeline.run import Run


class Meter:
    """Means since the last report: loss, cosine, throughput, the share of time spent waiting for data, and where the
    data came from.

    Args:
        traffic: counts the bytes of shards that came from a bucket, and from the local folder.
    """

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.fetched = self.local = 0  # when this was last reported
        self.line_since = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self.began, self.began_cpu = time.monotonic(), time.process_time()
        self.steps, self.losses, self.cosines, self.audio, self.waited = 0, 0.0, 0.0, 0.0, 0.0

    def add(self, loss: float, cosine: float, audio_seconds: float, waited: float) -> None:
        self.steps += 1
        self.losses += loss
        self.cosines += cosine
        self.audio += audio_seconds
        self.waited += waited

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent in this context (validation, checkpoints) from the steps' time."""
        started, started_cpu = time.monotonic(), time.process_time()
        yield
        self.began += time.monotonic() - started
        self.began_cpu += time.process_time() - started_cpu

    def row(self) -> dict[str, float]:
        """The fields for metrics.jsonl."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        return {
            "steps": self.steps,
            "loss": self.losses / max(self.steps, 1),
            "cosine": self.cosines / max(self.steps, 1),
            "audio_seconds": self.audio,
            "audio_seconds_per_second": self.audio / seconds,
            "data_wait_fraction": self.waited / seconds,
            "step_seconds": seconds / max(self.steps, 1),
            "step_cpu_seconds": (time.process_time() - self.began_cpu) / max(self.steps, 1),
        }

    def moved(self) -> tuple[int, int]:
        """Return the bytes that came from the bucket and from the local folder since this was last asked."""
        before = self.fetched, self.local
        self.fetched, self.local = self.traffic.fetched, self.traffic.local
        self.line_since = time.monotonic()
        return self.fetched - before[0], self.local - before[1]

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
        fetched, local = self.traffic.fetched - self.fetched, self.traffic.local - self.local
        if not fetched + local:
            return ""
        seconds = max(time.monotonic() - self.line_since, 1e-9)
        return f"  line {console.size(fetched / seconds)}/s · local {local / (fetched + local):.0%}"


class MetricsWriter:
    """Writes a run's figures to metrics.jsonl and TensorBoard. Rows that were reported after ``step`` are dropped."""

    def __init__(self, run: Run, step: int) -> None:
        run.rewind_metrics(step)
        self.run = run
        self.curves = SummaryWriter(str(run.own(run.folder / "tensorboard")), purge_step=step + 1)

    def report(self, row: dict[str, Any]) -> None:
        """Write one row, which has a ``kind`` and a ``step``."""
        self.run.report(row)
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self.curves.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        for layer, cosine in row.get("cosine_by_layer", {}).items():
            self.curves.add_scalar(f"valid_cosine/layer_{int(layer):02d}", cosine, row["step"])

    def close(self) -> None:
        self.curves.close()


def summarize(run: Run) -> dict[str, Any]:
    """What ``gdist train`` reports when it ends, computed from the run's metrics.

    Raises:
        RunError: the run has no metrics.
    """
    every = run.read_metrics()
    rows = [row for row in every if row["kind"] == "train"]
    if not rows:
        raise RunError(f"{run.folder} has no metrics", "delete the folder and train again")
    seconds = sum(row["step_seconds"] * row["steps"] for row in rows)
    steps = sum(row["steps"] for row in rows)
    return {
        "steps": rows[-1]["step"],
        "loss": rows[-1]["loss"],
        "step_seconds": seconds / steps,
        "step_cpu_seconds": sum(row.get("step_cpu_seconds", 0) * row["steps"] for row in rows) / steps,
        "data_wait_fraction": sum(r["data_wait_fraction"] * r["step_seconds"] * r["steps"] for r in rows) / seconds,
        "audio_seconds_per_second": sum(row["audio_seconds"] for row in rows) / seconds,
        "bytes_fetched": int(sum(row.get("bytes_fetched", 0) for row in every)),
        "bytes_local": int(sum(row.get("bytes_local", 0) for row in every)),
    }
