"""Lhotse Shar: cuts, and their audio in tars."""

from collections.abc import Iterator
from typing import Any

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, Source, children, is_there, lines
from gdist.pipeline.manifest.sources.labels import Labels
from gdist.pipeline.manifest.sources.lhotse import labels_of_cuts, parsed, row_of
from gdist.pipeline.manifest.sources.tars import Member, members, text
from gdist.pipeline.storage.paths import Place


class Shar(Source):
    """A folder of cuts.000000.jsonl.gz and recording.000000.tar."""

    name = "shar"
    reads_folders = True
    summary = "a folder of lhotse Shar, with cuts.*.jsonl.gz and recording.*.tar"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """One row per cut; its audio stays in the tar, and the row says which bytes of it."""
        if not (shards := _cuts(src)):
            raise ManifestError(f"{src} has no cuts.000000.jsonl.gz", "give the folder that lhotse shar export wrote")
        labels = labels_of_cuts()
        for cuts in shards:
            shard = cuts.name.split(".")[1]
            tar = src / f"recording.{shard}.tar"
            if not is_there(tar):
                fields = sorted({path.name.split(".")[0] for path in children(src, "*.*.*")})
                raise ManifestError(f"{src} has no recording.{shard}.tar; its fields are {', '.join(fields)}")
            yield from _shard(cuts, tar, labels)
        labels.report()

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return bool(_cuts(src)) and bool(children(src, "*.*.tar"))


def _cuts(src: Place) -> list[Place]:
    return [*children(src, "cuts.*.jsonl.gz"), *children(src, "cuts.*.jsonl")]


def _shard(cuts: Place, tar: Place, labels: Labels) -> Iterator[ManifestRow]:
    """Read a shard: the tar has the audio of each cut, in the same order, each followed by its recording as JSON."""
    pairs = _pairs(tar)
    for number, line in enumerate(lines(cuts), start=1):
        where = f"{cuts}, line {number}"
        cut = parsed(line, where)
        audio, recording = next(pairs, (None, None))
        if audio is None or audio.name.rpartition(".")[0] != str(cut.get("id")):
            found = "nothing" if audio is None else audio.name
            raise ManifestError(
                f"{where}: {tar} has {found} where the audio of {cut.get('id')} should be",
                "cuts and recordings of a shard belong together: fetch or write both again",
            )
        place = audio.row()
        yield row_of(cut | {"recording": recording}, lambda _, place=place: place, labels, cuts, where)  # type: ignore[misc]


def _pairs(tar: Place) -> Iterator[tuple[Member, dict[str, Any]]]:
    audio: Member | None = None
    for member, file in members(tar):
        if not member.name.endswith(".json"):
            audio = member
        elif audio is not None:
            yield audio, parsed(text(member, file), f"{tar}: {member.name}")
            audio = None
