"""The utterance table, a Parquet file: which audio to use, and what is known about it (schema.py).

Read it, write it, build it from audio or another tool's manifest, and check it before the teacher runs.
"""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gdist.pipeline.audio import Header, Segment, load_utterance, read_header
from gdist.pipeline.errors import AudioError, ManifestError
from gdist.pipeline.files import replacing
from gdist.pipeline.framing import WAV2VEC2, resampled_length
from gdist.pipeline.manifest.paths import folder_of, moved_to, relative_to, resolved
from gdist.pipeline.manifest.schema import COLUMNS, OPTIONAL, conformed, from_rows, with_columns
from gdist.pipeline.manifest.sources import Options, rows_of
from gdist.pipeline.manifest.splitting import split
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.paths import Place, RemotePath, place

THREADS = 32  # most of them wait for disks and object stores

type Progress = Callable[[int], None]  # called with the number of utterances just finished


@dataclass(frozen=True)
class Utterance:
    """A segment of a file (absolute path or URI), with its id and labels; the other fields are those of
    :class:`gdist.pipeline.audio.Segment`."""

    id: str
    path: str
    start: int
    num_samples: int | None
    sample_rate: int | None
    labels: dict[str, object]
    channel: int | None = None
    byte_offset: int | None = None
    byte_size: int | None = None
    gain_bits: int = 0

    @property
    def segment(self) -> Segment:
        """Its audio."""
        return Segment(
            self.path,
            self.start,
            self.num_samples,
            self.sample_rate,
            self.channel,
            self.byte_offset,
            self.byte_size,
            self.gain_bits,
        )


@dataclass(frozen=True)
class Problem:
    """An utterance that extraction would quarantine, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The table, and the folder (a path or a URI) that its relative paths start from.

    ``problems`` lists what :meth:`measured` (and so :func:`build`) could not read; those rows stay, with nulls.
    ``kind`` is what :func:`build` took its source for.
    """

    table: pa.Table
    root: str
    problems: tuple[Problem, ...] = field(default=(), compare=False)
    kind: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", conformed(self.table, "the table"))

    @classmethod
    def read(cls, path: str | Place) -> Self:
        """Read and check a manifest. ManifestError where it is missing, not Parquet, or breaks the schema."""
        path = place(path)
        try:
            table = pq.ParquetFile(path.open("rb") if isinstance(path, RemotePath) else path).read()
        except FileNotFoundError as error:
            hint = f"build one: gdist manifest build AUDIO_FOLDER --out {in_shell(path)}"
            raise ManifestError(f"no manifest at {path}", hint) from error
        except (OSError, pa.ArrowException) as error:
            hint = (
                f"build one from audio or another tool's file: gdist manifest build {in_shell(path)} --out M.parquet"
            )
            raise ManifestError(f"cannot read {path} as a Parquet manifest", hint) from error
        return cls(conformed(table, str(path)), folder_of(path))

    def write(self, path: str | Place) -> None:
        """Write to ``path``, whole or not at all. Same table, same bytes; relative paths start from the folder of
        ``path``."""
        path = place(path)
        root = folder_of(path)
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

    def measured(self, progress: Progress | None = None) -> "Manifest":
        """Fill null ``num_samples`` and ``sample_rate`` from the files' headers, in threads."""
        absent = pc.or_(pc.is_null(self.table["num_samples"]), pc.is_null(self.table["sample_rate"]))
        unknown = np.flatnonzero(absent.to_numpy()).tolist()
        if not unknown:
            return replace(self, problems=())
        utterances = self.take(unknown, ()).utterances()
        header = cache(_header)
        lengths, rates = self.table["num_samples"].to_pylist(), self.table["sample_rate"].to_pylist()
        problems = []
        found = _in_threads(lambda u: header(u.segment.file), utterances, progress)
        for i, u, known in zip(unknown, utterances, found, strict=True):
            if isinstance(known, str):
                problems.append(Problem(u.id, known))
            elif u.num_samples is None and u.start > known.num_samples:
                problems.append(Problem(u.id, _past_the_end(u.start, known)))
            else:
                lengths[i] = known.num_samples - u.start if u.num_samples is None else u.num_samples
                rates[i] = u.sample_rate or known.sample_rate
        table = with_columns(self.table, num_samples=lengths, sample_rate=rates)
        return replace(self, table=table, problems=tuple(problems))

    def split(self, seconds: float) -> "Manifest":
        """Cut utterances longer than ``seconds`` into equal consecutive segments: ID-0000, ID-0001, …

        The pieces lose their ``text``, which belongs to the whole. Utterances of unknown length stay as they are.
        """
        return replace(self, table=split(self.table, seconds))

    def _resolve(self, path: str) -> str:
        return resolved(path, self.root)

    def _moved(self, root: str) -> pa.Table:
        """Return the table for a manifest in ``root``: absolute paths stay, relative paths start from there."""
        moved = [moved_to(root, path, self.root) for path in self.table["path"].to_pylist()]
        return with_columns(self.table, path=moved)


def build(
    src: str | Place,
    out: str | Place,
    kind: str = "auto",
    *,
    split_seconds: float | None = None,
    absolute_paths: bool = False,
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
        audio_root: the folder of the audio, for kinds that leave it open.
        allow_commands: run the commands that a wav.scp names. Only for files whose every command you trust.

    Raises:
        ManifestError: ``src`` is missing, of no known kind, empty, or contradicts itself.
    """
    src, out = place(src), place(out)
    src = src.resolve() if isinstance(src, Path) else src
    root = folder_of(out)
    options = Options(audio_root, allow_commands, place(root) / f"{out.name.removesuffix(out.suffix)}-audio")
    found, rows = rows_of(src, kind, options)
    table = from_rows(rows, str(src))
    if not absolute_paths:
        table = with_columns(table, path=[relative_to(root, path) for path in table["path"].to_pylist()])
    manifest = Manifest(table, root, kind=found).measured(progress)
    if split_seconds is not None:
        manifest = manifest.split(split_seconds)
    manifest.write(out)
    return manifest


def check(manifest: Manifest, *, audio: bool = False, progress: Progress | None = None) -> list[Problem]:
    """Find what extraction would quarantine, from the headers, and with ``audio`` by decoding every utterance."""
    header = cache(_header)

    def reason(u: Utterance) -> str | None:
        known = header(u.segment.file)
        if isinstance(known, str):
            return known
        rate = u.sample_rate or known.sample_rate
        length = max(known.num_samples - u.start, 0) if u.num_samples is None else u.num_samples
        if u.channel is not None and u.channel >= known.channels:
            return f"the file has {known.channels} channels, the manifest says channel {u.channel}, from 0"
        if rate != known.sample_rate:
            return f"sample rate is {known.sample_rate} Hz, the manifest says {rate} Hz"
        if u.start + length > known.num_samples:
            return _past_the_end(u.start + length, known)
        if (samples := resampled_length(length, rate)) < WAV2VEC2.fewest:
            return f"too short: {samples} samples at 16 kHz, and most teachers need {WAV2VEC2.fewest}"
        try:
            if audio:
                load_utterance(replace(u.segment, num_samples=length, sample_rate=rate))
        except AudioError as error:
            return error.message
        return None

    utterances = manifest.utterances()
    reasons = _in_threads(reason, utterances, progress)
    return [Problem(u.id, why) for u, why in zip(utterances, reasons, strict=True) if why]


def _past_the_end(stop: int, header: Header) -> str:
    return f"the segment ends at sample {stop}, the file at {header.num_samples}"


def _header(file: Segment) -> Header | str:
    """Return the header, or the reason why there is none."""
    try:
        return read_header(file)
    except AudioError as error:
        return error.message


def _in_threads[T, R](work: Callable[[T], R], items: Sequence[T], progress: Progress | None) -> list[R]:
    """Map ``work`` over ``items``, in order. Decoders and object stores release the GIL, so threads are enough."""
    results = []
    with ThreadPoolExecutor(THREADS) as pool:
        for result in pool.map(work, items):
            results.append(result)
            if progress:
                progress(1)
    return results
