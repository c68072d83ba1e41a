"""A sweep: its file, the documents in its folder, and what an export says of itself."""

import json
import shutil
import tomllib
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import artefacts
from fuzzing.mutations import hostile, text_of, torn
from fuzzing.readers.run_documents import attempt, bare, inline
from gdist.pipeline.console import silenced
from gdist.pipeline.run.documents import read_document
from gdist.stages.export.export import MARK, _require_ours
from gdist.stages.report.page import report_command
from gdist.stages.standings.record import read_sweep
from gdist.stages.standings.schema import Ratios, Together
from gdist.stages.sweep.best import best
from gdist.stages.sweep.command import sweep_command
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.judge import Judge
from gdist.stages.sweep.spec import read_spec
from gdist.stages.train.start import start_of

SPEC = """
name = "ablation"
seeds = [0, 1]
recipe = "demo-gendistiller"
[set]
"train.steps" = 30
cache = "a"
[grid]
"train.lr" = [1e-4, 1e-3]
[search]
sampler = "tpe"
trials = 4
startup = 2
batch = 2
seed = 7
"train.weight_decay" = {low = 1e-4, high = 1e-2, log = true}
"train.warmup_steps" = {low = 2, high = 20, step = 2}
"student.history" = ["student", "teacher"]
[stopping]
method = "halving"
first = 5
rungs = 2
factor = 2
[judge]
metric = "cosine"
split = "valid"
minutes = 0.5
[equal]
"as long" = "ours"
[[points]]
name = "ours"
search = {}
set = {"student.dropout" = 0.0}
[[points]]
name = "as long"
search = {}
[[points]]
name = "wide"
set = {"student.adapter_rank" = 4}
[points.grid]
"train.clip_norm" = [1.0, 2.0]
"""
FEW = 40  # runs, of which a sweep is planned


class SweepFile:
    """The TOML file of a sweep. It is read, and a small one is planned."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables = tomllib.loads(SPEC)

    def make(self, random: Random) -> bytes:
        if random.random() < 0.15:
            return torn(SPEC.encode(), random)
        changed = hostile(self.tables, random)
        try:
            return _toml(changed).encode(errors="surrogatepass")
        except (ValueError, TypeError, RecursionError):
            return repr(changed).encode(errors="surrogatepass")

    def read(self, data: bytes) -> None:
        file = self.folder / "sweep.toml"
        file.write_bytes(data)
        with silenced():
            if read_spec(file).size <= FEW:
                places = ["--cache", f"a={artefacts.cache()}", "--out", str(self.folder / "out")]
                try:
                    sweep_command.main([str(file), *places, "--dry-run"], standalone_mode=False)
                except SystemExit as ended:
                    if ended.code:
                        raise  # it was refused


def _toml(tables: Any) -> str:
    """Nested tables inline, so that anything can be in them."""
    return "\n".join(f"{json.dumps(name)} = {inline(value)}" for name, value in tables.items())


class SweepDocuments:
    """The folder of a sweep of which one document says something else. It is read in every way without training."""

    def __init__(self, folder: Path) -> None:
        self.sweep, self.out = folder / "sweep", folder / "report"
        point: dict[str, Any] = {
            "name": "ours", "seed": 0, "signature": "abc", "run": "ours-abc", "varied": {"train.lr": 1e-3},
            "recipe": "demo-gendistiller", "settings": ["train.lr=1e-3"], "alternative": "ours", "trial": 1,
        }  # fmt: skip
        stopped = {"rung": 1, "step": 5, "reason": "it is behind"}
        other = point | {"name": "other", "signature": "def", "run": "other-def", "stopped": stopped}
        failed = point | {"name": "bad", "signature": "fff", "run": "bad-fff"}
        shutil.copytree(artefacts.run(), self.sweep / "runs" / "ours-abc")
        judge = {"metric": "mean_cosine", "split": "test", "probes": "none", "minutes": 0.0}
        wall = [{"began": "2026-01-01T00:00:00+00:00", "seconds": 2.5}]
        ratio = {"ratio": 1.5, "points": ["a", "b"], "step_seconds": [0.1, 0.2], "of": "the process"}
        member = {"arguments": ["train", "--cache", "x"], "log": "y", "exit_code": 1}
        documents = {
            "sweep.json": {"name": "sweep", "judge": judge, "wall": wall, "points": [point, other, failed]},
            "failed/fff.json": {"name": "bad", "exit_code": 1, "log": ["error: it failed"]},
            "equal.json": {"a/b": ratio},
            "logs/together-x.json": {"members": [member], "ended": True},
        }
        self.good = {name: json.dumps(document).encode() for name, document in documents.items()}

    def make(self, random: Random) -> bytes:
        name = random.choice(["sweep.json", "sweep.json", *self.good])
        good = self.good[name]
        changed = torn(good, random) if random.random() < 0.1 else text_of(hostile(json.loads(good), random))
        return name.encode() + b"\0" + changed

    def read(self, data: bytes) -> None:
        name, _, content = data.partition(b"\0")
        for other, good in self.good.items():
            (self.sweep / other).parent.mkdir(exist_ok=True)
            (self.sweep / other).write_bytes(content if other == name.decode() else good)
        folder = SweepFolder(self.sweep, "sweep", Judge())
        attempt(
            lambda: [entry.reason for entry in read_sweep(self.sweep).entries],
            lambda: best(self.sweep),
            lambda: report_command([self.sweep], self.out / "report.html"),
            lambda: report_command([self.sweep], self.out / "report.md", "md"),
            folder.require_place,
            folder.calls,
            lambda: read_document(self.sweep / "equal.json", Ratios),
            lambda: read_document(self.sweep / "logs" / "together-x.json", Together),
        )


class ExportMark:
    """What an export says of itself: another one may replace the files, and a training starts from it."""

    def __init__(self, folder: Path) -> None:
        self.export = folder / "export"
        shutil.copytree(artefacts.run() / "student", self.export)
        origin = json.loads(bare((artefacts.run() / "run.json").read_bytes()))
        files = sorted(path.name for path in self.export.iterdir())
        told = {"format": "hf", "run": "first", "step": 9, "steps": 9, "finished": True, "student": "gendistiller"}
        self.good = json.dumps(told | {"files": [*files, MARK], "provenance": origin}).encode()

    def make(self, random: Random) -> bytes:
        return torn(self.good, random) if random.random() < 0.1 else text_of(hostile(json.loads(self.good), random))

    def read(self, data: bytes) -> None:
        (self.export / MARK).write_bytes(data)
        attempt(
            lambda: _require_ours(self.export, self.export, "hf"),
            lambda: start_of(None, self.export),
        )
