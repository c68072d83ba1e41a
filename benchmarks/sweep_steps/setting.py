"""What every part is given: a teacher and its cache of one size, and what trainings cost that are really run."""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from extract import speech, wavlm_base

from gdist.data_manifests import demo_folder
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.run import Run
from gdist.stages.extract.extract import extract
from gdist.stages.extract.plan import ExtractConfig
from gdist.stages.train.config import TrainConfig, load_config
from gdist.stages.train.member import Request
from gdist.stages.train.together import train_together
from gdist.stages.train.train import train

STUDENTS = ("gendistiller", "distilhubert")
FRONTENDS = ("trained", "frozen")
TINY = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64,
    "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "initializer_range": 0.2,
}  # fmt: skip


class Seconds(NamedTuple):
    """By the clock, and of this process on all cores: the second hardly depends on what else the machine does."""

    wall: float
    cpu: float

    def __add__(self, other: "Seconds") -> "Seconds":  # type: ignore[override]
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def over(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall / other.wall, self.cpu / other.cpu)

    def times(self, factor: float) -> "Seconds":
        return Seconds(self.wall * factor, self.cpu * factor)


@dataclass
class Setting:
    """One run of the benchmark.

    Attributes:
        teacher, uri: folders; the cache is of the one.
        extraction: seconds that it took to write the cache.
    """

    options: argparse.Namespace
    place: Path
    teacher: str
    uri: str
    extraction: Seconds

    @classmethod
    def of(cls, options: argparse.Namespace, place: Path) -> "Setting":
        """Make the teacher, and its cache."""
        if options.size == "demo":
            teacher, manifest = str(demo_folder() / "teacher-nano"), demo_folder() / "demo.parquet"
        else:
            teacher = wavlm_base(place / "teacher") if options.size == "base" else _tiny(place / "teacher")
            manifest = speech(options.minutes, 4.0, place / "speech.parquet")
        began, began_cpu = time.perf_counter(), time.process_time()
        extract(ExtractConfig(teacher, str(manifest), str(place / "cache"), device="cpu"), show_progress=False)
        took = Seconds(time.perf_counter() - began, time.process_time() - began_cpu)
        return cls(options, place, teacher, str(place / "cache"), took)

    def config(self, student: str, *more: str, steps: int | None = None, number: int = 0) -> TrainConfig:
        """The ``number``-th of several students, which differ in their learning rates."""
        steps = steps or self.options.steps + 1
        settings = (
            f"train.steps={steps}", "train.warmup_steps=1", "train.log_every=1", "train.device=cpu",
            f"train.batch_seconds={self.options.batch_seconds}", f"train.validate_every={steps}",
            f"train.checkpoint_every={steps}", "train.validate_seconds=1", f"train.lr={1e-3 / (1 + number)}",
        )  # fmt: skip
        return load_config(None, student, (*settings, *more))

    def alone(self, config: TrainConfig, skip: int = 1) -> Seconds:
        """Seconds of the steps of one training, the first ones left out: the reader is still at its beginning."""
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            train(self.uri, Path(folder) / "run", config, show_progress=False)
            return _steps(Path(folder) / "run", skip)

    def together(self, configs: Sequence[TrainConfig], skip: int = 1) -> Seconds:
        """The same of several trainings from one stream."""
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            requests = [Request(Path(folder) / str(number), config) for number, config in enumerate(configs)]
            for outcome in train_together(self.uri, requests, show_progress=False):
                if isinstance(outcome, Exception):
                    raise outcome
            every = [_steps(request.out, skip) for request in requests]
            return Seconds(sum(each.wall for each in every), sum(each.cpu for each in every))

    def cache(self) -> Cache:
        return Cache.open(self.uri)


def _steps(run: Path, skip: int) -> Seconds:
    rows = [row for row in Run(run).read_metrics() if row["kind"] == "train"][skip:]
    wall, cpu = (sum(row[name] * row["steps"] for row in rows) for name in ("step_seconds", "step_cpu_seconds"))
    return Seconds(wall, cpu)


def _tiny(folder: Path) -> str:
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    torch.manual_seed(0)
    WavLMModel(WavLMConfig(**TINY)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return str(folder)


def write(path: Path | None, found: dict[str, Any]) -> None:
    """Write the figures so far."""
    if path:
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
