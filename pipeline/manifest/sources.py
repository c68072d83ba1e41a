"""What a manifest is built from: folders of audio and other tools' manifests. One function a kind, one row a kind.

A source reads text and file names, never audio, and yields a row an utterance: ``id``, ``path`` (absolute, or a
URI), where known ``start``, ``num_samples`` and ``sample_rate`` in samples and Hz, and its labels.
"""

import csv
import gzip
import io
import json
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.storage.locations import in_shell, join
from gdist.pipeline.storage.paths import Place, RemotePath, is_uri

type ManifestRow = dict[str, str | int | None]

AUDIO_SUFFIXES = frozenset(
    [
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
        ".w64",
        ".rf64",
        ".sph",
        ".nist",
    ]
)
_INTEGERS = ("start", "num_samples", "sample_rate")
_TEXT = ("id", "path", "text")  # never turned into integers, whatever they look like
_TRANSCRIPTS = re.compile(r"^(\d+)-(\d+)\.trans\.txt$")
_SUBSET = re.compile(r"^(train|dev|test)\b")


def folder(src: Place) -> Iterator[ManifestRow]:
    """Any tree of audio files. The id is the path below ``src`` without its suffix (kept where two would collide)."""
    names = [_relative(path, src) for path in _walk(src) if _is_audio(path)]
    stems = Counter(name.with_suffix("") for name in names)
    if not names:
        raise _no_audio(src)
    for name in names:
        stem = name.with_suffix("")
        yield {"id": str(stem if stems[stem] == 1 else name), "path": str(src / name)}


def librispeech(src: Place) -> Iterator[ManifestRow]:
    """LibriSpeech, or a part of it: SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTT.flac beside SPEAKER-CHAPTER.trans.txt.

    Labels: speaker, chapter, text, and split (the subset's folder, such as train-clean-100, where there is one).
    """
    found = [(path, match) for path in _walk(src) if (match := _TRANSCRIPTS.match(path.name))]
    if not found:
        raise ManifestError(f"no SPEAKER-CHAPTER.trans.txt below {src}", "for any tree of audio: --kind folder")
    for path, match in found:
        subset = path.parents[2].name if len(path.parents) > 2 else ""
        for line in _lines(path):
            utterance, _, text = line.partition(" ")
            yield {
                "id": utterance,
                "path": str(path.with_name(f"{utterance}.flac")),
                "speaker": match[1],
                "chapter": match[2],
                "text": text,
                "split": subset if _SUBSET.match(subset) else None,
            }


def fairseq(src: Place) -> Iterator[ManifestRow]:
    """wav2vec's .tsv: the root, then ``path<TAB>num_samples``; text from a .wrd or .ltr of the same name."""
    root, *lines = list(_lines(src)) or [""]
    audio = _located(root, src.parent)
    if not is_uri(audio) and not Path(audio).is_dir():
        raise ManifestError(
            f"{src}: its first line says the audio is in {root!r}, which is not there",
            "mend the first line to name the folder the other lines' paths are relative to",
        )
    texts = _fairseq_texts(src, len(lines))
    for number, line in enumerate(lines, start=2):
        path, _, count = line.partition("\t")
        if not path or not count.isdigit():
            raise ManifestError(f"{src}, line {number}: expected a path, a tab and a sample count, found {line!r}")
        located = join(audio, path) if is_uri(audio) else f"{audio.removesuffix('/')}/{path}"
        row: ManifestRow = {"id": str(PurePosixPath(path).with_suffix("")), "path": located, "num_samples": int(count)}
        yield row | ({"text": texts[number - 2]} if texts else {})


def lhotse(src: Place) -> Iterator[ManifestRow]:
    """Lhotse recordings or cuts, JSONL or JSONL.gz; text, speaker and language where a cut has one supervision."""
    for number, line in enumerate(_lines(src), start=1):
        try:
            entry = json.loads(line)
            recording = entry if "sources" in entry else entry["recording"]
            row: ManifestRow = {
                "id": entry["id"],
                "path": _lhotse_path(recording, src.parent),
                "num_samples": recording["num_samples"],
                "sample_rate": recording["sampling_rate"],
            }
            if recording is not entry:
                row |= _lhotse_segment(entry, recording)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ManifestError(
                f"{src}, line {number}: not a lhotse recording, or a cut of one: {reason}",
                "give recordings.jsonl.gz, or cuts that are segments of one recording: "
                "`lhotse cut simple -r recordings.jsonl.gz -s supervisions.jsonl.gz cuts.jsonl.gz`",
            ) from error
        yield row


def table(src: Place) -> Iterator[ManifestRow]:
    """CSV, or TSV with a header, whose columns are the manifest's.

    Empty cells are null; paths start from its folder. A column becomes integers where every value is one and is
    written as one (007 stays text).
    """
    lines = list(_lines(src))
    delimiter = "\t" if lines and "\t" in lines[0] and "," not in lines[0] else ","
    rows: list[ManifestRow] = []
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if None in cells or None in cells.values():
                raise ManifestError(f"{src}, line {reader.line_num}: expected {len(reader.fieldnames or [])} cells")
            rows.append({name: value or None for name, value in cells.items()})
    except csv.Error as error:
        raise ManifestError(f"{src}, line {reader.line_num}: not CSV: {error}") from error
    names = list(reader.fieldnames or [])
    if missing := {"id", "path"} - set(names):
        raise ManifestError(
            f"{src} lacks the column {' and '.join(sorted(missing))}; it has: {', '.join(names) or 'none'}",
            "its first line names the columns: id,path, and if you like start,num_samples,sample_rate and labels",
        )
    integers = [name for name in names if name not in _TEXT and all(_is_integer(row[name]) for row in rows)]
    for name in set(_INTEGERS) & set(names) - set(integers):
        odd = next(row[name] for row in rows if not _is_integer(row[name]))
        raise ManifestError(f"{src}: the column {name} counts samples and holds {odd!r}", "write whole numbers")
    for row in rows:
        path = str(row["path"] or "")
        located = path if is_uri(path) or not path else _below(src.parent, path)
        yield row | {"path": located} | {name: _integer(row[name]) for name in integers}


SOURCES: dict[str, Callable[[Place], Iterator[ManifestRow]]] = {
    "folder": folder,
    "librispeech": librispeech,
    "fairseq": fairseq,
    "lhotse": lhotse,
    "csv": table,
}


def detect(src: Place) -> str:
    """The kind of ``src``, told by its content; ManifestError where it is none we know."""
    if src.is_dir():
        return "librispeech" if any(_TRANSCRIPTS.match(path.name) for path in _walk(src)) else "folder"
    if not src.exists():
        raise ManifestError(f"cannot build a manifest from {src}: no such file or folder")
    if src.suffix.lower() in AUDIO_SUFFIXES:
        raise ManifestError(
            f"{src} is one audio file", f"give its folder: gdist manifest build {in_shell(src.parent)} …"
        )
    with _readable(src), src.open("rb") as file:
        head = file.read(4)
    if head == b"PAR1":
        raise ManifestError(
            f"{src} is a manifest, or another Parquet file", f"try: gdist manifest check {in_shell(src)}"
        )
    lines = _lines(src)
    first, second = next(lines, ""), next(lines, "")
    if not first:
        raise ManifestError(f"cannot build a manifest from {src}: it is empty")
    if first.startswith("{"):
        return "lhotse"
    if "\t" not in first and re.fullmatch(r"[^\t]+\t\d+", second):
        return "fairseq"
    if {"id", "path"} & set(re.split(r"[,\t]", first)):
        return "csv"
    raise ManifestError(
        f"cannot tell what {src} is; its first line is {first[:60]!r}",
        f"say it with --kind: {', '.join(SOURCES)}",
    )


def _walk(src: Place) -> Iterator[Place]:
    """Every visible file below ``src`` in a fixed order. Follows links to folders, once each."""
    if isinstance(src, RemotePath):
        yield from (path for path in src.files if not any(p.startswith(".") for p in path.relative_to(src).parts))
        return
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise ManifestError(f"cannot list {error.filename}: {error.strerror}") from error

    for parent, folders, files in os.walk(src, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))
        seen.add(real)


def _relative(path: Place, folder: Place) -> PurePosixPath:
    if isinstance(path, RemotePath) and isinstance(folder, RemotePath):
        return path.relative_to(folder)
    return PurePosixPath(os.path.relpath(str(path), str(folder)))


def _is_audio(path: Place) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES


def _no_audio(src: Place) -> ManifestError:
    others = Counter(path.suffix.lower() or path.name for path in _walk(src)).most_common(3)
    found = f"found {', '.join(f'{count} × {suffix}' for suffix, count in others)}; " if others else ""
    hint = f"{found}readable are {' '.join(sorted(AUDIO_SUFFIXES))}; convert others: ffmpeg -i IN -ar 16000 OUT.flac"
    return ManifestError(f"no audio below {src}", hint)


@contextmanager
def _readable(src: Place) -> Iterator[None]:
    """Turns what can go wrong while reading a text file into a ManifestError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ManifestError(f"cannot read {src}: it is not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:  # the last two: a .gz cut short or damaged
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"cannot read {src}: {reason}") from error


def _lines(src: Place) -> Iterator[str]:
    """Lines without their ends, of text or gzipped text; blank lines at the end do not count."""
    blank = 0
    with _readable(src), src.open("rb") as raw, gzip.open(raw) if src.suffix == ".gz" else raw as file:
        for line in io.TextIOWrapper(file, encoding="utf-8-sig", newline=""):
            if stripped := line.rstrip("\r\n"):
                yield from [""] * blank
                yield stripped
            blank = 0 if stripped else blank + 1


def _located(path: str, beside: Place) -> str:
    """A path from another tool: such tools mean the current directory; beside the manifest is the next best guess."""
    if is_uri(path):
        return path
    here = Path(path).absolute()
    return str(here) if here.exists() else _below(beside, path)


def _below(folder: Place, path: str) -> str:
    """What a path in a file of ``folder`` means: an absolute one is of this machine, wherever the file lies."""
    local = isinstance(folder, Path) or os.path.isabs(path)  # noqa: PTH117
    return os.path.normpath(os.path.join(str(folder), path)) if local else join(str(folder), path)  # noqa: PTH118


def _fairseq_texts(src: Place, count: int) -> list[str] | None:
    for suffix in (".wrd", ".ltr"):
        if (beside := src.with_suffix(suffix)).is_file():
            texts = list(_lines(beside))
            if len(texts) != count:
                raise ManifestError(f"{beside} has {len(texts)} lines for {count} utterances", "remove or mend it")
            # .ltr spells words as letters: "H I | T H E R E |"
            return texts if suffix == ".wrd" else [t.replace(" ", "").replace("|", " ").strip() for t in texts]
    return None


def _lhotse_path(recording: dict[str, Any], beside: Place) -> str:
    (source,) = recording["sources"] if len(recording["sources"]) == 1 else (None,)
    if source is None or source["type"] not in ("file", "url"):
        kinds = ", ".join(source["type"] for source in recording["sources"])
        raise ValueError(f"its sources are {kinds}; gdist reads one file or URL")
    if recording.get("transforms"):
        raise ValueError("its recording is transformed on the fly; gdist reads files as they are")
    return _located(source["source"], beside)


def _lhotse_segment(cut: dict[str, Any], recording: dict[str, Any]) -> ManifestRow:
    rate = recording["sampling_rate"]
    channels = [channel for source in recording["sources"] for channel in source["channels"]]
    if cut.get("type") == "MonoCut" and len(channels) > 1:
        raise ValueError(f"it is channel {cut.get('channel')} of {len(channels)}, and gdist would mix them all")
    start, length = _samples(cut["start"], rate), _samples(cut["duration"], rate)
    row: ManifestRow = {"start": start, "num_samples": min(length, recording["num_samples"] - start)}
    if len(supervisions := cut.get("supervisions") or []) == 1:
        row |= {name: supervisions[0].get(name) for name in ("text", "speaker", "language")}
    return row


def _samples(seconds: float, rate: int) -> int:
    """Half up after rounding away float noise, as lhotse counts."""
    return math.floor(round(seconds * rate, 8) + 0.5)


def _is_integer(value: object) -> bool:
    return value is None or bool(re.fullmatch(r"0|-?[1-9]\d{0,17}", str(value)))


def _integer(value: str | int | None) -> int | None:
    return None if value is None else int(value)
