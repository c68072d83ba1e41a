"""What a cache has of its teacher, with checksums that are right again: a student is made and begun from it."""

import json
import shutil
from pathlib import Path
from random import Random

import conftest
import resealed

from fuzzing import artefacts
from fuzzing.mutations import hostile, hostile_safetensors, text_of, torn
from gdist.pipeline.cache.cache import Cache
from gdist.stages.train.config import load_config
from gdist.stages.train.student_store import build_student


class Config:
    """A teacher's config that says something else."""

    key = "teacher/config.json"

    def __init__(self, folder: Path) -> None:
        self.cache = shutil.copytree(artefacts.cache(), folder / "cache")
        self.root = (self.cache / "zarr.json").read_bytes()
        self.good = (self.cache / self.key).read_bytes()

    def make(self, random: Random) -> bytes:
        config = json.loads(self.good)
        return text_of(hostile(config, random)) if random.random() < 0.9 else torn(self.good, random)

    def read(self, data: bytes) -> None:
        for name in ("zarr.json", "plans/00000.json"):
            (self.cache / name).write_bytes(self.root)
        resealed.planned(self.cache, self.key, data)
        begin(self.cache)


FILES = {
    b"F": "teacher/frontend.safetensors",
    b"L": "teacher/layers.safetensors",
    b"T": "teacher/tables-0.safetensors",
}


class Tensors:
    """Other weights of the front-end or of the first layers, or other tables of an encoding that learns."""

    def __init__(self, folder: Path) -> None:
        made = artefacts.once("coded-cache", coded)
        self.cache = shutil.copytree(made, folder / "cache")
        self.root = (self.cache / "zarr.json").read_bytes()
        self.good = {mark: (self.cache / key).read_bytes() for mark, key in FILES.items()}

    def make(self, random: Random) -> bytes:
        mark = random.choice(list(FILES))
        return mark + hostile_safetensors(self.good[mark], random)

    def read(self, data: bytes) -> None:
        for mark, key in FILES.items():
            (self.cache / key).write_bytes(self.good[mark])
        for name in ("zarr.json", "plans/00000.json"):
            (self.cache / name).write_bytes(self.root)
        resealed.planned(self.cache, FILES[data[:1]], data[1:])
        if data[:1] != b"T":
            begin(self.cache)
            return
        cache = Cache.open(str(self.cache))
        entry = next(entry for entry in cache.entries if entry.num_frames)
        cache.hidden(1, [(entry, 0, entry.num_frames)])


def coded(path: Path) -> None:
    """A cache whose encoding learns tables."""
    conftest.extracted(artefacts.teacher(), artefacts.speech(), path, pack_frames=256, encoding="rvq")


def begin(folder: Path) -> None:
    """Make a student that begins with the teacher's layers, and one that has a teacher's front-end."""
    cache = Cache.open(str(folder))
    for student in (None, "distilhubert"):
        build_student(cache, load_config(None, student, ("student.initialize=layers",)))
