"""The documents of a run: its config, run.json, its evaluations, its metrics and who is training it."""

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import artefacts
from fuzzing.mutations import hostile, text_of, torn
from gdist.pipeline.config import signature
from gdist.pipeline.console import silenced
from gdist.pipeline.errors import GdistError
from gdist.pipeline.loading.splits import data_config
from gdist.pipeline.owner import read_owner
from gdist.pipeline.run import Run
from gdist.pipeline.run.evaluations import Evaluations
from gdist.pipeline.run.snapshot import snapshot
from gdist.pipeline.run.whole import marked
from gdist.stages.evaluate.tables import say_kept
from gdist.stages.export.formats.card_figures import figures
from gdist.stages.report.page import RunSummary, report_command
from gdist.stages.standings.ranking import metrics_of
from gdist.stages.students import require_loadable
from gdist.stages.train.caches import of_run
from gdist.stages.train.config import load_config
from gdist.stages.train.going_on import may_change


def attempt(*acts: Callable[[], object]) -> None:
    """Do each of them, although others may be refused; then raise the first refusal, to be counted."""
    refusals = []
    with silenced():
        for act in acts:
            try:
                act()
            except GdistError as error:
                refusals.append(error)
    if refusals:
        raise refusals[0]


def toml(tables: Any) -> bytes:
    """A document as TOML, as far as there is such a thing."""
    if not isinstance(tables, dict):
        return repr(tables).encode(errors="replace")
    lines = []
    for name, fields in tables.items():
        if isinstance(fields, dict):
            lines += [f"[{name}]", *(f"{key} = {inline(value)}" for key, value in fields.items())]
        else:
            lines.insert(0, f"{name} = {inline(fields)}")
    return "\n".join(lines).encode(errors="surrogatepass")


def inline(value: Any) -> str:
    """A value as TOML has it within a line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf").replace("null", '"none"')


def bare(content: bytes, *also: str) -> bytes:
    """A document without its checksum, and without ``also``: what a stranger changes then needs no digest."""
    try:
        document = json.loads(content)
    except ValueError:  # TOML, or rows
        return content
    return text_of({name: value for name, value in document.items() if name not in {"checksum", *also}})


class RunDocuments:
    """A run of which one document says something else. It is read in every way that needs no weights."""

    def __init__(self, folder: Path) -> None:
        self.run = Path(shutil.copytree(artefacts.run(), folder / "run"))
        self.other = Path(shutil.copytree(artefacts.run(), folder / "other"))
        self.out = folder / "report"
        names = ["config.toml", "run.json", "eval.json", "metrics.jsonl", "training.json"]
        names += sorted(path.relative_to(self.run).as_posix() for path in (self.run / "evaluations").iterdir())
        (self.run / "training.json").write_text(json.dumps({"token": "a", "beat": 1, "pid": 1, "host": "here"}))
        self.good = {name: bare((self.run / name).read_bytes()) for name in names}

    def make(self, random: Random) -> bytes:
        name = random.choice(["config.toml", *self.good, "run.json", "eval.json"])
        good = self.good[name]
        if random.random() < 0.1:
            changed = torn(good, random)
        elif name == "config.toml":
            changed = toml(hostile(tomllib.loads(good.decode()), random))
        elif name == "metrics.jsonl":
            lines = good.splitlines()
            for _ in range(random.choice([1, 1, 5])):
                at = random.randrange(len(lines))
                lines[at] = text_of(hostile(json.loads(good.splitlines()[at]), random))
            changed = b"\n".join(lines) + b"\n"
        else:
            changed = text_of(hostile(json.loads(good), random))
        return name.encode() + b"\0" + changed

    def read(self, data: bytes) -> None:
        name, _, content = data.partition(b"\0")
        for other, good in self.good.items():
            (self.run / other).write_bytes(content if other == name.decode() else good)
        if name == b"config.toml":
            self._sign(content)
        run = Run(self.run)
        attempt(
            lambda: RunSummary.read(self.run),
            lambda: report_command([self.run, self.other], self.out / "report.html"),
            lambda: report_command([self.run], self.out / "report.md", "md"),
            lambda: figures(snapshot(self.run), run.provenance()),
            lambda: self._say_kept(run),
            lambda: metrics_of(run, "test"),
            lambda: require_loadable(snapshot(self.run)),
            lambda: data_config(run.tables()),
            lambda: may_change(run, load_config(str(self.run / "config.toml"), None, ())),
            lambda: of_run(run),
            lambda: read_owner(self.run),
            lambda: run.training,
        )

    def _say_kept(self, run: Run) -> None:
        for each in Evaluations(run).every():
            say_kept(snapshot(self.run), "test", {"probes": {}}, each)

    def _sign(self, config: bytes) -> None:
        """Let run.json have the signature of this config, as a stranger's would."""
        try:
            tables = tomllib.loads(config.decode())
            own = {"signature": signature(marked(tables, {}))}
        except (ValueError, TypeError, RecursionError):  # there is none
            return
        (self.run / "run.json").write_text(json.dumps(json.loads(self.good["run.json"]) | own))
