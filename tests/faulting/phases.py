"""The commands that faults are done to: what each needs, what is typed, and what must come out of it."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conftest import contents
from fuzzing import artefacts
from servers import Flaky

from faulting.nursery import Nursery

SETTINGS = {
    "train.steps": 6, "train.warmup_steps": 2, "train.batch_seconds": 4.0, "train.validate_every": 3,
    "train.validate_seconds": 2.0, "train.checkpoint_every": 2, "train.log_every": 1, "train.ema_decay": 0.9,
    "student.dropout": 0.0,
}  # fmt: skip
SWEEP = """
seeds = [0, 1]
[set]
"train.steps" = 3
"train.warmup_steps" = 1
"train.batch_seconds" = 4.0
"train.validate_every" = 3
"train.validate_seconds" = 2.0
"train.checkpoint_every" = 1
"student.dropout" = 0.0
"""
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """What all phases begin with, made once and only read.

    Attributes:
        cache: finished; ``run`` was trained from it, and so was ``swept``, the folder of the file ``sweep``.
    """

    teacher: Path
    manifest: Path
    cache: Path
    run: Path
    sweep: Path
    swept: Path


@dataclass(frozen=True)
class Place:
    """Where one command works.

    Attributes:
        out: a folder for it.
        cache: the location of the cache, a folder below ``out`` where it is the command's own.
        store: the server that has the cache; None for a disk.
    """

    out: Path
    cache: str
    store: Flaky | None = None

    def objects(self) -> dict[str, bytes]:
        """All of the cache, as another program reads it."""
        if self.store is None:
            return contents(Path(self.cache))
        bucket, _, prefix = self.cache.removeprefix("s3://").partition("/")
        client = self.store.server.client
        keys = self.store.server.keys(bucket, f"{prefix}/")
        read = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
        return {key.removeprefix(f"{prefix}/"): data for key, data in read.items()}

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Write a cache, as another program does."""
        for key, data in objects.items():
            if self.store is None:
                path = Path(self.cache) / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            else:
                bucket, _, prefix = self.cache.removeprefix("s3://").partition("/")
                self.store.server.client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)


@dataclass(frozen=True)
class Phase:
    """A command.

    Attributes:
        line: what is typed.
        results: what must come out, the same whatever happened on the way.
        prepare: puts there what the command works on; None for nothing.
        own_cache: whether the command writes the cache; else it reads the one that was made.
        in_bucket: whether the cache is in a bucket.
        again: what is typed besides when it is run once more: a sweep tries failed points again where it is asked to.
        loose: names below the folder that an undisturbed run need not have; what both have is the same.
    """

    line: Callable[[Made, Place], list[object]]
    results: Callable[[Place], Results]
    prepare: Callable[[Made, Place], object] | None = None
    own_cache: bool = False
    in_bucket: bool = False
    again: tuple[str, ...] = ()
    loose: str = r"$^"


def train_line(made: Made, place: Place) -> list[object]:
    """Return what is typed to train."""
    flags = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    return ["train", "--cache", place.cache, "--out", place.out / "run", *flags]


def _spoil(made: Made, place: Place) -> None:
    """Put the cache there, without a shard, and with a damaged receipt and index."""
    objects = contents(made.cache)
    del objects["layers/02/c/1/0"]
    objects["index.parquet"] = b"PAR1"
    objects["receipts/00000.json"] = objects["receipts/00000.json"][:-9]
    place.put(objects)


def _student(place: Place) -> Results:
    run = place.out / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = {(row["step"], row["kind"]): row.get("loss", row.get("mean_cosine")) for row in rows}
    weights = {name: data for name, data in contents(run).items() if re.match(r"student/|checkpoints/.*s$", name)}
    kept = {"checkpoints": len(list((run / "checkpoints").iterdir()))}
    return weights | kept | {"config.toml": (run / "config.toml").read_text().partition("[cache]")[0], "curve": curve}


def _evaluation(place: Place) -> Results:
    found: dict[str, Any] = json.loads((place.out / "run/eval.json").read_text())
    return {name: found[name] for name in ("mean_cosine", "layers", "split")}


def _sweep(place: Place) -> Results:
    runs = sorted((place.out / "sweep/runs").glob("*/student/model.safetensors"))
    return {path.parent.parent.name: path.read_bytes() for path in runs}


def _page(place: Place) -> Results:
    """The report, without its date and the campaign's folders."""
    page = (place.out / "report.html").read_text()
    page = re.sub(r"\d{4}-\d\d-\d\d[ T]?[\d:]*", "DATE", page)
    return {"report": re.sub(r"/[^\s\"'<]*gdist-faults-[^/]+/[^/]+/", "PLACE/", page)}


# Which of the checkpoints before the last are kept depends on where a training was stopped: there it writes one more.
EARLIER = rf"(run/)?checkpoints/step-(?!{SETTINGS['train.steps']:07d})\d+(/.*)?"
TENSORBOARD = r"run/tensorboard/.*|sweep/runs/[^/]+/tensorboard/.*"
EXTRACT = Phase(
    lambda made, place: [
        *("extract", "--teacher", made.teacher, "--manifest", made.manifest),
        *("--cache", place.cache, "--pack-frames", 256, "--device", "cpu"),
    ],
    Place.objects,
    own_cache=True,
)
TRAIN = Phase(train_line, _student, loose=f"{TENSORBOARD}|{EARLIER}")
REPAIR = Phase(
    lambda made, place: [
        *("verify", "--repair", place.cache, "--teacher", made.teacher, "--manifest", made.manifest),
    ],
    Place.objects,
    _spoil,
    own_cache=True,
)
PHASES = {
    "extract": EXTRACT,
    "train": TRAIN,
    "eval": Phase(
        lambda made, place: ["eval", place.out / "run", "--probes", "none"],
        _evaluation,
        lambda made, place: shutil.copytree(made.run, place.out / "run"),
        loose=TENSORBOARD,
    ),
    "export": Phase(
        lambda made, place: ["export", made.run, "--format", "hf", "--out", place.out / "export"],
        lambda place: contents(place.out / "export"),
    ),
    "report": Phase(lambda made, place: ["report", made.run, "--out", place.out / "report.html"], _page),
    "repair": REPAIR,
    "sweep": Phase(
        lambda made, place: ["sweep", made.sweep, "--cache", place.cache, "--out", place.out / "sweep"],
        _sweep,
        again=("--retry-failed",),
        loose=TENSORBOARD,
    ),
    "extract to S3": replace(EXTRACT, in_bucket=True),
    "train from S3": replace(TRAIN, in_bucket=True),
    "repair on S3": replace(REPAIR, in_bucket=True),
}


def make(folder: Path, nursery: Nursery, store: Flaky) -> Made:
    """Make what all phases begin with."""
    own = folder / "made"
    own.mkdir()
    made = Made(
        *(artefacts.teacher(), artefacts.speech(), artefacts.cache()),
        *(own / "run", own / "sweep.toml", own / "sweep"),
    )
    made.sweep.write_text(SWEEP)
    Place(folder, f"{store.uri}/cache", store).put(contents(made.cache))
    place = Place(own, str(made.cache))
    for each in (
        train_line(made, place),
        ["eval", made.run, "--probes", "none"],
        PHASES["sweep"].line(made, place),
    ):
        code, said = nursery.run([str(word) for word in each])
        assert code == 0, said
    return made
