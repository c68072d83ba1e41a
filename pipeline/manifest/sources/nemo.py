"""NeMo's manifests: JSON lines, and the tars that they may be of."""

import re
from collections.abc import Iterator
from typing import Any

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.seconds import file_of, headers, segment
from gdist.pipeline.manifest.sources.base import (
    ManifestRow,
    OptionalSource,
    Options,
    below,
    children,
    has,
    is_folder,
    is_there,
    lines,
    located,
)
from gdist.pipeline.manifest.sources.labels import Labels, ids_from_paths
from gdist.pipeline.manifest.sources.lhotse import keys, parsed
from gdist.pipeline.manifest.sources.tars import Tars, expanded
from gdist.pipeline.storage.paths import Place, RemotePath
from gdist.pipeline.storage.paths import place as parsed_place

_OWN = {"id", "audio_filepath", "offset", "duration", "shard_id"}
_SHARD = re.compile(r"manifest_+(\d+)\.jsonl?")


class Nemo(OptionalSource):
    """JSON lines with audio_filepath."""

    name = "nemo"
    reads_both = True
    options = frozenset({"root"})
    summary = "NeMo's JSON lines, or a folder with tarred_audio_manifest.json and its tars"

    def rows_with(self, src: Place, options: Options) -> Iterator[ManifestRow]:
        """One row per line; ``text`` and all other plain values are labels.

        ``offset`` and ``duration``, in seconds, become samples at the rate in the file's header. The id is ``id``
        if every line has one, else it is made from the file's name. A line with ``shard_id``, or of a manifest with
        a shard's number in its name, is a member of ``audio_N.tar``, which is next to the manifest, in the folder
        above, or below ``--root``.
        """
        entries = list(_entries(src))
        audio = _Audio(options)
        places = [audio.place(*line) for line in entries]
        known = headers(
            file_of(place) for place, (entry, *_) in zip(places, entries, strict=True) if _is_segment(entry)
        )
        listed = [entry.get("id") for entry, *_ in entries]
        named = len(set(listed)) == len(listed) and all(isinstance(id, str) and id for id in listed)
        ids = listed if named else ids_from_paths([str(entry["audio_filepath"]) for entry, *_ in entries])
        labels = Labels({key for entry, *_ in entries for key in entry}, skip=_OWN)
        offsets = any("offset" in entry for entry, *_ in entries)
        for id, place, (entry, _, where) in zip(ids, places, entries, strict=True):
            row: ManifestRow = {**place, "id": str(id)}
            if _is_segment(entry) and (header := known.get(file_of(place))):
                start = _seconds(entry, "offset", where)
                stop = start + _seconds(entry, "duration", where) if entry.get("duration") else None
                first, length = segment(start, stop, header)
                row |= {"start": first if offsets else None, "num_samples": length, "sample_rate": header.sample_rate}
            yield row | labels.of(entry)
        labels.report()

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return bool(_manifests(src)) if is_folder(src) else "audio_filepath" in keys(first)


def _manifests(src: Place) -> list[Place]:
    if not is_folder(src):
        return expanded(src)
    whole = src / "tarred_audio_manifest.json"
    folders = (src, src / "sharded_manifests")
    if isinstance(src, RemotePath):  # whose listing is known
        inside: list[Place] = [path for path in src.files if path.parent in folders]
    else:
        inside = [path for folder in folders for path in children(folder, "*.json")]
    return [whole] if has(src, whole.name) else [path for path in inside if _SHARD.fullmatch(path.name)]


def _entries(src: Place) -> Iterator[tuple[dict[str, Any], Place, str]]:
    for manifest in _manifests(src):
        for number, line in enumerate(lines(manifest), start=1):
            where = f"{manifest}, line {number}"
            entry = parsed(line, where)
            if not isinstance(entry.get("audio_filepath"), str) or not entry["audio_filepath"]:
                found = "lists several files" if isinstance(entry.get("audio_filepath"), list) else "names no file"
                raise ManifestError(f"{where}: audio_filepath {found}", "one file per line: mix its channels first")
            yield entry, manifest, where


class _Audio:
    """Where the audio of a line is."""

    def __init__(self, options: Options) -> None:
        self._root, self._tars = options.root, Tars()
        self._shards: dict[tuple[Place, str], Place | None] = {}

    def place(self, entry: dict[str, Any], manifest: Place, where: str) -> ManifestRow:
        """Return the columns that say where the audio of ``entry`` is: a file, or a member of its shard's tar."""
        name = str(entry["audio_filepath"])
        sharded = _SHARD.fullmatch(manifest.name)
        shard = str(entry.get("shard_id", sharded[1] if sharded else ""))
        tar = self._shard(manifest, shard) if re.fullmatch(r"\d{1,9}", shard) else None
        if tar is None and "shard_id" in entry:
            raise ManifestError(
                f"{where}: there is no audio_{shard}.tar in {manifest.parent}", "say where it is: --root TARS"
            )
        if tar is not None:
            if (found := self._tars.find(tar, name)) is None:
                raise ManifestError(f"{where}: {tar} has no {name}", "manifest and tars must be of one data set")
            return found.row()
        beside = manifest.parent
        return {"path": below(beside, f"{self._root}/{name}") if self._root else located(name, beside)}

    def _shard(self, manifest: Place, shard: str) -> Place | None:
        if (manifest, shard) not in self._shards:
            folders = [parsed_place(self._root)] if self._root else [manifest.parent, manifest.parent.parent]
            tars = [folder / f"audio_{int(shard)}.tar" for folder in folders]
            self._shards[manifest, shard] = next(filter(is_there, tars), None)
        return self._shards[manifest, shard]


def _is_segment(entry: dict[str, Any]) -> bool:
    return bool(entry.get("offset") or entry.get("duration"))


def _seconds(entry: dict[str, Any], key: str, where: str) -> float:
    value = entry.get(key) or 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ManifestError(f"{where}: {key} is {value!r}", "write seconds, 0 or more")
    return float(value)
