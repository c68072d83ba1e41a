"""The utterance table, a Parquet file: which audio to use, and what is known about it (schema.py).

Read it, write it, build it from audio or another tool's manifest, and check it before the teacher runs.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gdist.pipeline.audio import mismatch
from gdist.pipeline.errors import ManifestError, UsageError
from gdist.pipeline.manifest.bounded import read_table
from gdist.pipeline.manifest.checking import best_gains, check
from gdist.pipeline.manifest.schema import COLUMNS, OPTIONAL, conformed, from_rows, with_columns
from gdist.pipeline.manifest.sources import Options, rows_of
from gdist.pipeline.manifest.utterance import Problem, Progress, Utterance, header_of, in_threads
from gdist.pipeline.schema import SchemaError
from gdist.pipeline.staging import replacing
from gdist.pipeline.storage.locations import in_shell, join
from gdist.pipeline.storage.paths import Place, RemotePath, is_uri, place

__all__ = ["Manifest", "Problem", "Progress", "Utterance", "build", "check"]

MAX_PIECES, MAX_ROWS = 100_000, 50_000_000  # that an utterance, and a manifest, are cut into


@dataclass(frozen=True)
class Manifest:
    """The table, and the folder (a path or a URI) that its relative paths start from.

    ``problems`` lists what :meth:`measured` (and so :func:`build`) could not read; those rows stay, with nulls.
    ``mixed`` counts the rows of files with several channels, of which they name none. ``kind`` is what :func:`build`
    took its source for.
    """

    table: pa.Table
    root: str
    problems: tuple[Problem, ...] = field(default=(), compare=False)
    mixed: int = field(default=0, compare=False)
    kind: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", conformed(self.table, "the table"))

    @classmethod
    def read(cls, path: str | Place) -> Self:
        """Read and check a manifest. ManifestError where it is missing, not Parquet, or breaks the schema."""
        path = place(path)
        other = f"build one from audio or another tool's file: gdist manifest build {in_shell(path)} --out M.parquet"
        try:
            if isinstance(path, Path) and path.exists() and not path.is_file():  # a pipe would be waited for
                hint = other if path.is_dir() else None
                raise ManifestError(f"cannot read {path} as a Parquet manifest: it is no file", hint)
            table = read_table(path.open("rb") if isinstance(path, RemotePath) else path, str(path))
        except FileNotFoundError as error:
            hint = f"build one: gdist manifest build AUDIO_FOLDER --out {in_shell(path)}"
            raise ManifestError(f"no manifest at {path}", hint) from error
        except (OSError, SchemaError, UnicodeDecodeError, pa.ArrowException) as error:
            raise ManifestError(f"cannot read {path} as a Parquet manifest", other) from error
        return cls(conformed(table, str(path)), _root(path))

    def write(self, path: str | Place) -> None:
        """Write to ``path``, whole or not at all. Same table, same bytes; relative paths start from the folder of
        ``path``."""
        path = place(path)
        root = _root(path)
        table = self.table if root == self.root else self._moved(root)
        if isinstance(path, RemotePath):
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd")
            path.write_bytes(buffer.getvalue())
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                pq.write_table(table, file, compression="zstd")
        except OSError as error:
            raise ManifestError(f"cannot write the manifest {path}: {error.strerror or error}") from error

    @property
    def label_columns(self) -> list[str]:
        """The columns other than those of the schema, in the table's order."""
        return [name for name in self.table.column_names if name not in COLUMNS | OPTIONAL]

    @property
    def _columns(self) -> list[str]:
        """The columns of the schema that it has, in the table's order."""
        return [name for name in self.table.column_names if name in COLUMNS | OPTIONAL]

    def take(self, rows: Sequence[int] | np.ndarray[Any, Any], labels: Sequence[str] | None = None) -> Self:
        """Return these rows, in this order, with all label columns or only ``labels``."""
        columns = [*self._columns, *(self.label_columns if labels is None else labels)]
        return replace(self, table=self.table.select(columns).take(pa.array(rows, pa.int64())), problems=())

    def utterance(self, row: int) -> Utterance:
        """Return one row, with its path resolved."""
        labels = {name: self.table[name][row].as_py() for name in self.label_columns}
        return self._utterance({name: self.table[name][row].as_py() for name in self._columns}, labels)

    def utterances(self) -> list[Utterance]:
        """Return every row, in order, with its path resolved."""
        labels = self.table.select(self.label_columns).to_pylist() or [{} for _ in range(len(self.table))]
        rows = self.table.select(self._columns).to_pylist()
        return [self._utterance(row, more) for row, more in zip(rows, labels, strict=True)]

    def _utterance(self, row: dict[str, Any], labels: dict[str, object]) -> Utterance:
        given = row | {"path": self._resolve(row["path"]), "start": row["start"] or 0, "labels": labels}
        if "gain_bits" in given:
            given["gain_bits"] = given["gain_bits"] or 0
        return Utterance(**given)

    def fingerprint(self) -> str:
        """Return the sha256 of names, types and values: independent of the file's place and its Parquet encoding."""
        digest, step = hashlib.sha256(), 1 << 16
        for name in sorted(self.table.column_names):
            column = self.table[name]
            digest.update(json.dumps([name, str(column.type), len(column)]).encode())
            for start in range(0, len(column), step):
                digest.update(json.dumps(column.slice(start, step).to_pylist(), default=repr).encode())
        return digest.hexdigest()

    def measured(self, progress: Progress | None = None, thorough: bool = False) -> "Manifest":
        """Fill null ``num_samples`` and ``sample_rate`` from the files' headers, in threads.

        Args:
            thorough: read every file to its end, see :func:`gdist.pipeline.audio.read_header`.
        """
        absent = pc.or_(pc.is_null(self.table["num_samples"]), pc.is_null(self.table["sample_rate"]))
        unknown = np.flatnonzero(absent.to_numpy()).tolist()
        if not unknown:
            return replace(self, problems=())
        utterances = self.take(unknown, ()).utterances()
        header = cache(header_of)
        lengths, rates = self.table["num_samples"].to_pylist(), self.table["sample_rate"].to_pylist()
        problems, mixed = [], 0
        found = in_threads(lambda u: header(u.segment.file, thorough), utterances, progress)
        for i, u, known in zip(unknown, utterances, found, strict=True):
            why = known if isinstance(known, str) else None
            if not isinstance(known, str):
                mixed += known.channels > 1 and u.channel is None
                if u.num_samples is None:  # else what was given is checked where it is used
                    why = mismatch(u.segment, known)
                if why is None:
                    lengths[i] = known.num_samples - u.start if u.num_samples is None else u.num_samples
                    rates[i] = u.sample_rate or known.sample_rate
            if why is not None:
                problems.append(Problem(u.id, why))
        table = with_columns(self.table, num_samples=lengths, sample_rate=rates)
        return replace(self, table=table, problems=tuple(problems), mixed=mixed)

    def with_gains(self, progress: Progress | None = None) -> "Manifest":
        """Decode every utterance, and fill null ``gain_bits`` where a signal is too quiet for 16 bits, or beyond full
        scale. The column is added where some utterance needs it."""
        gains = best_gains(self.utterances(), progress)
        given = self.table["gain_bits"].to_pylist() if "gain_bits" in self._columns else [None] * len(gains)
        filled = [gain if old is None else old for gain, old in zip(gains, given, strict=True)]
        if not any(filled):
            return self
        table = self.table.drop_columns("gain_bits") if "gain_bits" in self._columns else self.table
        return replace(self, table=table.append_column("gain_bits", pa.array(filled, OPTIONAL["gain_bits"])))

    def split(self, seconds: float) -> "Manifest":
        """Cut utterances longer than ``seconds`` into equal consecutive segments: ID-0000, ID-0001, …

        The pieces lose their ``text``, which belongs to the whole. Utterances of unknown length stay as they are, and
        so do those that claim to be longer than 100,000 pieces: no recording is, and extraction quarantines them.

        Raises:
            ManifestError: there would be more than 50 million pieces.
        """
        if not seconds >= 1:
            raise UsageError(f"cannot split utterances every {seconds} s", "use 1 second or more")
        rows: list[int] = []
        changed: dict[str, list[object]] = {name: [] for name in ("id", "start", "num_samples", "text")}
        for row, u in enumerate(self.utterances()):
            total, limit = u.num_samples, int(seconds * (u.sample_rate or 0))
            pieces = -(-total // limit) if total and limit else 1
            pieces = pieces if pieces <= MAX_PIECES else 1
            if len(rows) + pieces > MAX_ROWS:
                raise ManifestError(
                    f"there would be more than {MAX_ROWS:,} segments of {seconds:g} s",
                    "split fewer utterances at a time, or into longer segments",
                )
            for piece in range(pieces):
                first = (total or 0) * piece // pieces
                rows.append(row)
                changed["id"].append(u.id if pieces == 1 else f"{u.id}-{piece:04}")
                changed["start"].append(u.start + first)
                changed["num_samples"].append(None if total is None else total * (piece + 1) // pieces - first)
                changed["text"].append(u.labels.get("text") if pieces == 1 else None)
        if "text" not in self.table.column_names:
            del changed["text"]
        return replace(self, table=with_columns(self.table.take(rows), **changed))

    def _resolve(self, path: str) -> str:
        path = path.removeprefix("file://")
        if is_uri(self.root) and not is_uri(path) and not os.path.isabs(path):  # noqa: PTH117
            return join(self.root, path)
        return path if is_uri(path) else os.path.normpath(os.path.join(self.root, path))  # noqa: PTH118

    def _moved(self, root: str) -> pa.Table:
        """Return the table for a manifest in ``root``: absolute paths stay, relative paths start from there."""
        paths: list[str] = self.table["path"].to_pylist()
        absolute = [is_uri(p) or os.path.isabs(p) for p in paths]  # noqa: PTH117
        moved = [p if whole else _relative(self._resolve(p), root) for p, whole in zip(paths, absolute, strict=True)]
        return with_columns(self.table, path=moved)


def build(
    src: str | Place,
    out: str | Place,
    kind: str = "auto",
    *,
    split_seconds: float | None = None,
    absolute_paths: bool = False,
    thorough: bool = False,
    gain: bool = False,
    audio_root: str | None = None,
    allow_commands: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Build a manifest from a folder of audio or another tool's manifest, and write it to ``out``.

    Headers are read where the source does not give lengths and rates. A file that cannot be read stays in, with
    nulls and an entry in ``problems``: extraction will quarantine it.

    Args:
        kind: a key of ``SOURCES``, or ``auto`` to detect it from the content.
        split_seconds: cut longer utterances into segments of at most this length.
        absolute_paths: store absolute paths, so that the manifest can be moved without the audio. By default paths
            are relative to the manifest's folder, so that both can be moved together.
        thorough: read every file to its end, so that streams in a row count as one file (slow).
        gain: decode every utterance, to fill ``gain_bits`` where it matters.
        audio_root: the folder of the audio, for kinds that leave it open.
        allow_commands: run the commands that a wav.scp names. Only for files whose every command you trust.

    Raises:
        ManifestError: ``src`` is missing, of no known kind, empty, or contradicts itself.
    """
    src, out = place(src), place(out)
    src = src.resolve() if isinstance(src, Path) else src
    root = _root(out)
    options = Options(audio_root, allow_commands, place(root) / f"{out.name.removesuffix(out.suffix)}-audio")
    found, rows = rows_of(src, kind, options)
    table = from_rows(rows, str(src))
    if not absolute_paths:
        table = with_columns(table, path=[_relative(path, root) for path in table["path"].to_pylist()])
    manifest = Manifest(table, root, kind=found).measured(progress, thorough)
    if split_seconds is not None:
        manifest = manifest.split(split_seconds)
    if gain:
        manifest = manifest.with_gains(progress)
    manifest.write(out)
    return manifest


def _root(path: Place) -> str:
    return str(path.parent) if isinstance(path, RemotePath) else str(path.parent.resolve())


def _relative(path: str, root: str) -> str:
    """Return ``path`` (absolute, or a URI) relative to ``root``, if both are in one bucket or on this machine."""
    if is_uri(root):
        return path.removeprefix(f"{root}/")
    return path if is_uri(path) else os.path.relpath(path, root)
