"""A student's own files and a run's checkpoints: configs, tensors and states, with digests that are right again."""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import artefacts
from fuzzing.mutations import hostile, hostile_safetensors, text_of, torn
from fuzzing.readers.run_documents import attempt, bare
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.config import build
from gdist.pipeline.loading.joined import Joined
from gdist.pipeline.run import Run
from gdist.stages.students import load_student
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.learner import Learner
from gdist.stages.train.ranks import Ranks
from gdist.stages.train.student_store import build_student

STEP = "checkpoints/step-0000009"


class StudentFiles:
    """A run whose student, or whose only checkpoint, is another one. It is loaded, and the run is gone on with."""

    def __init__(self, folder: Path) -> None:
        self.run = Path(shutil.copytree(artefacts.run(), folder / "run"))
        shutil.rmtree(self.run / "checkpoints" / "step-0000006")
        for name, digests in (("run.json", ("weights", "student_files")), (f"{STEP}/state.json", ("sha256",))):
            (self.run / name).write_bytes(bare((self.run / name).read_bytes(), *digests))
        names = ["student/config.json", "student/model.safetensors", f"{STEP}/state.json"]
        names += [f"{STEP}/{name}.safetensors" for name in ("model", "optimizer", "average")]
        self.good = {name: (self.run / name).read_bytes() for name in names}
        config = build(TrainConfig, Run(self.run).tables())
        caches = Joined([("", Cache.open(str(artefacts.cache())))])
        self.learner = Learner(build_student(caches, config), config, Ranks(), [""])
        self.loader: Any = _Epochs()  # it is only asked how many batches an epoch has

    def make(self, random: Random) -> bytes:
        name = random.choice(["student/config.json", *self.good])
        good = self.good[name]
        if name.endswith(".json"):
            changed = torn(good, random) if random.random() < 0.1 else text_of(hostile(json.loads(good), random))
        else:
            changed = hostile_safetensors(good, random)
        return name.encode() + b"\0" + changed

    def read(self, data: bytes) -> None:
        name, _, content = data.partition(b"\0")
        for other, good in self.good.items():
            (self.run / other).write_bytes(content if other == name.decode() else good)
        if name.startswith(b"student"):
            attempt(lambda: load_student(self.run))
        else:
            shutil.move(self.run / "student", self.run.parent / "aside")
            try:
                attempt(
                    lambda: load_student(f"{self.run}@9"), lambda: self.learner.restore(Run(self.run), self.loader)
                )
            finally:
                shutil.move(self.run.parent / "aside", self.run / "student")


class _Epochs:
    def epoch_batches(self, epoch: int) -> list[int]:
        return [epoch]
