"""A training run's directory: its config, where it came from, its checkpoints and its curves.

    RUN/
      config.toml                the resolved config; `gdist train --recipe RUN/config.toml` repeats the run
      run.json                   provenance: signature, cache, versions, sizes
      metrics.jsonl              one JSON object a report, in order of step
      tensorboard/               the same as curves
      checkpoints/step-0000100/  model, optimizer and, where weights are averaged, average.safetensors; state.json
      student/                   the finished student, in Hugging Face's format

A checkpoint is written to a temporary folder and renamed: one that has its name is complete.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from gdist.pipeline.cache import Cache
from gdist.pipeline.config import Tables, differences, read_toml, signature, to_toml
from gdist.pipeline.console import say
from gdist.pipeline.errors import CacheError, RunError

# What may change between a run and its resumption without changing what is computed (the device: but for last bits).
FREE_FIELDS = {"train": {"checkpoint_every", "keep_checkpoints", "keep_every", "log_every", "device"}}


class Run:
    """The directory of one training run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.student = folder / "student"
        self.metrics = folder / "metrics.jsonl"

    @property
    def name(self) -> str:
        return self.folder.name

    def begin(self, tables: Tables, provenance: dict[str, Any]) -> bool:
        """Claim the folder for a config. Returns whether an earlier run of the same config is there to resume.

        Raises:
            RunError: the folder holds a run of another config (the differences are printed) or something else.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            known = (self.folder / "config.toml").exists()
            if not known and any(self.folder.iterdir()):
                raise RunError(f"{self.folder} is not empty and holds no run", "choose another --out")
            if known:
                self._require_same(tables, provenance)
            write_atomically(
                self.folder / "run.json", json.dumps(provenance | {"signature": signature(tables)}, indent=2)
            )
            write_atomically(self.folder / "config.toml", to_toml(tables))
        except OSError as error:
            hint = "choose another --out"
            raise RunError(f"cannot write the run {self.folder}: {error.strerror or error}", hint) from error
        return known

    def _require_same(self, tables: Tables, provenance: dict[str, Any]) -> None:
        changed = differences(_without_free_fields(self.tables()), _without_free_fields(tables))
        before = self.provenance()
        if before.get("cache_checksum") != provenance.get("cache_checksum"):  # a cache may move, and stay the same
            changed.append(f"cache: {before.get('cache')} → {provenance.get('cache')} (not the same content)")
        if changed:
            lines = "\n".join(f"  {line}" for line in changed)
            raise RunError(f"{self.folder} holds a run of another config:\n{lines}", "choose another --out")

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """A run that exists."""
        if not (folder / "config.toml").exists():
            raise RunError(f"no run at {folder}: it has no config.toml", f"gdist train --cache URI --out {folder}")
        return cls(folder)

    def tables(self) -> Tables:
        """The resolved config."""
        return read_toml(self.folder / "config.toml")

    def provenance(self) -> dict[str, Any]:
        """What :meth:`begin` recorded."""
        document: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        return document

    def open_cache(self, uri: str) -> Cache:
        """The cache at ``uri`` as this run's plan named it: one that has grown since is read as it was then."""
        cache = Cache.open(uri)
        bound = self.provenance().get("cache_checksum") if (self.folder / "run.json").exists() else None
        if bound is None or bound == cache.gdist["checksum"]:
            return cache
        with suppress(CacheError):  # another cache altogether; `begin` says so
            cache = Cache.open(uri, checksum=bound)
            say(f"the cache at {uri} has grown since {self.folder} was begun; it is read as it was then")
        return cache

    # --- checkpoints --------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(int(path.name.removeprefix("step-")) for path in self.checkpoints.glob("step-*[0-9]"))

    def save(
        self, step: int, files: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any], keep: int, every: int = 0
    ) -> None:
        """Write a checkpoint whole or not at all, then drop all but the newest ``keep`` and each ``every``-th step.

        Args:
            files: name → tensors; each becomes ``name.safetensors``.
            state: what else :meth:`load` shall give back; JSON-able.
        """
        final = self._checkpoint(step)
        staged = final.with_name(final.name + ".tmp")
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for name, tensors in files.items():
            ours = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            safetensors.torch.save_file(ours, staged / f"{name}.safetensors")
        write_atomically(staged / "state.json", json.dumps(state | {"step": step}, indent=2))
        for path in staged.iterdir():
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        staged.rename(final)
        _sync(self.checkpoints)
        for old in self.steps()[:-keep]:
            if not every or old % every:
                shutil.rmtree(self._checkpoint(old))

    def load(self, step: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """(files, state) of the checkpoint at ``step``, as they were saved."""
        folder = self._checkpoint(step)
        try:
            paths = sorted(folder.glob("*.safetensors"))
            files = {path.stem: safetensors.torch.load_file(path) for path in paths}
            return files, json.loads((folder / "state.json").read_text())
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise RunError(
                f"cannot read the checkpoint {folder}: {error}", f"delete {folder} to go on from the one before"
            ) from error

    def _checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:07d}"

    # --- metrics ------------------------------------------------------------------------------------------------

    def rewind_metrics(self, step: int) -> None:
        """Drop what was reported after ``step``: those steps will be taken again."""
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))

    def report(self, row: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every whole line of metrics.jsonl; a torn last line is from a killed process and does not count."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows


def write_atomically(path: Path, text: str) -> None:
    """A temporary file in the same folder, then a rename."""
    staged = path.with_name(path.name + ".tmp")
    staged.write_text(text, encoding="utf-8")
    staged.replace(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_free_fields(tables: Tables) -> Tables:
    return {
        table: {key: value for key, value in fields.items() if key not in FREE_FIELDS.get(table, set())}
        for table, fields in tables.items()
    }
