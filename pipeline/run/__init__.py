"""A training run's directory: its config, where it came from, its checkpoints and its curves.

RUN/
  config.toml                the resolved config; `gdist train --recipe RUN/config.toml` repeats the run
  run.json                   provenance: signature, cache, versions, sizes
  metrics.jsonl              one JSON object per report, in order of step
  tensorboard/               the same numbers as curves
  checkpoints/step-0000100/  model, optimizer and, where weights are averaged, average.safetensors; state.json
  student/                   the finished student, in Hugging Face's format
  student-step-0000100/      the student of a run that was finished after this step, and then went on to more
  extensions/                unchanged copies of the user's own files that the run uses
  eval.json                  the evaluation that stands for the student; eval-valid.json: on the validation split
  evaluations/               every evaluation: on each cache, split and amount of speech (see evaluations.py)
  training.json              while a training is running: which process it is
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gdist.pipeline.config import TomlTables, differences, readable_toml, signature
from gdist.pipeline.console import say
from gdist.pipeline.errors import RunError
from gdist.pipeline.extensions import Extension
from gdist.pipeline.owner import OWNER
from gdist.pipeline.run.checkpoints import STEP, Checkpoints
from gdist.pipeline.run.documents import text_of
from gdist.pipeline.run.identity import began_with, given_caches, identifying
from gdist.pipeline.run.metrics import Metrics
from gdist.pipeline.run.schema import Provenance
from gdist.pipeline.run.whole import STUDENT, WEIGHTS, digests, marked, require_student
from gdist.pipeline.storage.locations import in_shell

STUDENT_FILES = "|".join(map(re.escape, STUDENT))
ONCE_MORE = ", which saves the student once more"
EVALUATIONS = {"test": "eval.json", "valid": "eval-valid.json"}  # by the split they are measured on
WRITTEN = (
    *("config.toml", "run.json", *EVALUATIONS.values(), "evaluations", "tensorboard", "student.tmp", "extensions"),
    OWNER,
)
# Files that gdist writes before config.toml. Where a process was killed that early, the folder is not yet a run.
BEGUN = re.compile(rf"run\.json|extensions|{re.escape(OWNER)}|\.(run\.json|config\.toml)\.\d+\.tmp")


class Run(Checkpoints, Metrics):
    """The directory of one training run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.student = folder / "student"
        self.extensions = folder / "extensions"

    def begin(
        self,
        tables: TomlTables,
        provenance: dict[str, Any],
        extensions: Sequence[Extension] = (),
        may_change: Collection[str] = (),
    ) -> bool:
        """Claim the folder for a config. Returns whether an earlier run of the same config is there to resume.

        Args:
            extensions: the files that the user named, whose objects the run uses; copies are kept in the folder.
            may_change: fields of [train] in which the earlier run's config may differ. Where its number of steps
                does, its student is set aside.

        Raises:
            RunError: the folder contains a run of another config (the differences are printed) or something else.
        """
        provenance = provenance | {"extensions": {each.name: each.record for each in extensions}}
        self.require_place()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            provenance |= {"signature": signature(marked(tables, provenance))}
            config = readable_toml(tables)
            known = self.has_begun
            if known:
                before = self._require_same(tables, provenance, may_change)
                if (steps := int(before["train"]["steps"])) != tables["train"]["steps"]:
                    self.set_aside(steps)
            self.write("run.json", text_of("run.json", provenance, Provenance))
            for each in extensions:
                self.own(self.extensions).mkdir(exist_ok=True)
                self.write(f"extensions/{each.file_name}", each.source)
            self.write("config.toml", config)
        except OSError as error:
            raise self.unwritable(error) from error
        return known

    def require_place(self) -> None:
        """Raise RunError where the folder contains something other than a run, or a part of it is behind a link."""
        if not self.folder.exists():
            return
        try:
            names = [path.name for path in self.folder.iterdir()]
        except OSError as error:
            raise self.unwritable(error) from error
        begun = all(map(BEGUN.fullmatch, names)) and ("run.json" in names or "extensions" not in names)
        if "config.toml" not in names and not begun and not self.has_begun:
            raise RunError(f"{self.folder} is not empty and contains no run", "choose another --out")
        parts = (self.student, self.checkpoints, self.metrics, *map(self.folder.joinpath, WRITTEN))
        for part in parts:  # now, not after hours of work, when the results are to be written
            self.own(part)

    def _require_same(
        self, tables: TomlTables, provenance: dict[str, Any], may_change: Collection[str]
    ) -> TomlTables:
        """Raise RunError unless it is this run; return its config as it was."""
        if (self.folder / "run.json").exists():
            before = self.provenance()
        else:
            say(f"{self.folder / 'run.json'} is missing; it is written anew, from the cache as it is", style="yellow")
            before = provenance
        try:
            own = self.tables()
        except RunError as error:
            if before["signature"] != provenance["signature"] or before is provenance:
                raise RunError(error.message, f"{error.hint}, if it is typed as it was") from error
            say(f"{error.message}; it is written anew, as run.json knows it", style="yellow")
            own = tables
        changed = differences(identifying(own, may_change), identifying(tables, may_change))
        if before.get("cache_checksum") != provenance.get("cache_checksum"):  # a cache may move without changing
            was, now = (" and ".join(given_caches(each)) for each in (before, provenance))
            changed.append(f"cache: {was} → {now} (not the same content)")
        hint = "choose another --out"
        if (start := before.get("start", {})).get("sha256") != provenance.get("start", {}).get("sha256"):
            was, now = (began_with(each) or "none" for each in (before, provenance))
            changed.append(f"--start-from: {was} → {now}{' (other weights)' * (was == now)}")
            hint = f"--start-from {in_shell(began_with(before))} goes on with it; or {hint}" if start else hint
        for name, record in provenance["extensions"].items():
            if name in before.get("extensions", {}):  # where it is not, the config says so
                try:
                    self.require_same_file(name, record["sha256"])
                except RunError as error:
                    changed.append(error.message)
                    hint = error.hint or hint
        if changed:
            lines = "\n".join(f"  {line}" for line in changed)
            raise RunError(f"{self.folder} contains a run of another config:\n{lines}", hint)
        return own

    def require_same_file(self, name: str, sha256: str | None) -> None:
        """Raise RunError unless ``name`` refers to the same file that the run used; the run's folder has a copy."""
        recorded = self.provenance().get("extensions", {}).get(name, {}).get("sha256")
        if recorded != sha256:
            file, _, what = name.partition(":")
            raise RunError(
                f"{file} is not the file that {self.folder} was trained with: it has changed since then",
                f"name the run's own copy, {self.extensions / file}:{what}, or choose another --out",
            )

    @property
    def use_options(self) -> str:
        """What a command line about this run has to say, for people to type: ``" --use …"`` for each of its files."""
        try:
            names = self.provenance().get("extensions", {})
        except RunError:
            return ""
        return "".join(f" --use {in_shell(self.extensions / name)}" for name in names)

    @property
    def start_options(self) -> str:
        """What a command line says to begin with the same weights: ``" --start-from …"`` if it began with another
        student's."""
        try:
            start = began_with(self.provenance())
        except RunError:
            return ""
        return f" --start-from {in_shell(start)}" if start else ""

    @property
    def cache_options(self) -> str:
        """What a command line says to train from the same caches, for people to type: ``" --cache …"`` for each."""
        try:
            return "".join(f" --cache {in_shell(each)}" for each in given_caches(self.provenance()))
        except RunError:
            return " --cache URI"

    @property
    def training(self) -> str:
        """The command that goes on with its training, or finishes it once more, for people to type."""
        recipe = in_shell(self.folder / "config.toml")
        options = f"{self.start_options}{self.use_options}"
        return f"gdist train{self.cache_options} --out {in_shell(self.folder)} --recipe {recipe}{options}"

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open a run that exists; RunError where there is none."""
        if not (folder / "config.toml").exists():
            raise RunError(
                f"no run at {folder}: it has no config.toml", f"gdist train --cache URI --out {in_shell(folder)}"
            )
        return cls(folder)

    @property
    def is_finished(self) -> bool:
        """Whether it has its student: its weights. What else is missing is said when it is loaded."""
        return (self.student / "model.safetensors").exists()

    @property
    def has_student(self) -> bool:
        """Whether it has its student, or what is left of it."""
        return (self.student / "config.json").exists() or self.is_finished

    def students_aside(self) -> list[int]:
        """The steps after which it was finished before it went on to more, ascending."""
        found = (STEP.fullmatch(path.name.removeprefix("student-")) for path in self.folder.glob("student-step-*"))
        return sorted(int(match[1]) for match in found if match)

    @property
    def total(self) -> int:
        """How many steps it has when it is finished."""
        return int(self.tables()["train"]["steps"])

    def student_at(self, step: int) -> Path:
        """The folder of a student that was finished after ``step``, before the run went on to more steps."""
        return self.folder / f"student-{self.checkpoint(step).name}"

    def set_aside(self, step: int) -> None:
        """Keep the student that was finished after ``step``, and what was found of it, under names that say so."""
        from gdist.pipeline.run.evaluations import Evaluations  # which knows runs

        Evaluations(self, step).retire()
        if self.own(self.student).exists():
            self.remove(self.student_at(step), STUDENT_FILES)
            self.student.replace(self.own(self.student_at(step)))
            say(f"its student after step {step} is now {in_shell(f'{self.folder}@{step}')}")

    @property
    def has_begun(self) -> bool:
        """Whether there is a run: its config, or, where that is lost, its run.json and checkpoints."""
        if (self.folder / "config.toml").exists():
            return True
        try:
            return self.checkpoints.is_dir() and bool(self.provenance())
        except RunError:
            return False

    def write(self, name: str, content: str | bytes) -> None:
        """Write one of the run's own documents, whole or not at all; RunError where that is not possible."""
        try:
            super().write(name, content)
        except OSError as error:
            raise self.unwritable(error) from error

    def note(self, fields: Mapping[str, Any]) -> None:
        """Add what is known at the end of a run to its provenance."""
        self.write("run.json", text_of("run.json", self.provenance() | dict(fields), Provenance))

    def note_finished(self) -> None:
        """Add the digests of the finished student's files and of the metrics to the run's provenance."""
        self.note(digests(self.student, self.metrics))

    def say_lost_student(self, provenance: Mapping[str, Any]) -> None:
        """Say so, where the run was finished, as ``provenance`` knows, and its student's weights are not there."""
        if not self.is_finished and "weights" in provenance:
            say(f"{self.student / WEIGHTS} is missing: the run was finished, and counts as begun", style="yellow")

    def own_student(self, folder: Path) -> Path:
        """Return the folder of one of its students; RunError where it or a part of it is a link."""
        for name in STUDENT:
            self.own(folder / name)
        return folder

    def require_student(self) -> None:
        """Raise RunError where the finished student is not the one that was saved, as far as is known."""
        self.own_student(self.student)
        require_student(self.student, self.provenance(), f"{self.training}{ONCE_MORE}")
