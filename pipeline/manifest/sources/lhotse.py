"""Lhotse's recordings and cuts."""

from collections.abc import Callable, Iterator
from typing import Any

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.seconds import ROUNDED, samples
from gdist.pipeline.manifest.sources.base import ManifestRow, Source, lines, located
from gdist.pipeline.manifest.sources.labels import Labels
from gdist.pipeline.schema import SchemaError, parse
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.paths import Place

_KEYS = {"sources", "recording", "tracks", "recording_id", "storage_type"}  # one of them is in every lhotse manifest


class Lhotse(Source):
    """Lhotse's JSON lines, plain or gzipped."""

    name = "lhotse"
    summary = "lhotse recordings or cuts, JSONL or JSONL.gz"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """Read recordings or cuts; labels are text, speaker, language, gender and custom fields, where a cut has one
        supervision.

        A recording that lhotse would resample is taken at its file's own rate. A cut of one channel gets a
        ``channel``.
        """

        def placed(source: dict[str, Any]) -> ManifestRow:
            if source["type"] not in ("file", "url"):
                raise ValueError(f"its sources are {source['type']}; gdist reads one file or URL")
            return {"path": located(source["source"], src.parent)}

        labels = labels_of_cuts()
        for number, line in enumerate(lines(src), start=1):
            yield row_of(parsed(line, f"{src}, line {number}"), placed, labels, src, f"{src}, line {number}")
        labels.report()

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return bool(_KEYS & keys(first)) or '"PaddingCut"' in first


def keys(line: str) -> set[str]:
    """Return the keys of a line of JSON; none where it is something else."""
    try:
        entry = parse(line.encode()) if line.startswith("{") else {}
    except (SchemaError, UnicodeEncodeError):
        return set()
    return set(entry)


def parsed(line: str | bytes, where: str) -> dict[str, Any]:
    """Parse a line that has to be one JSON object."""
    try:
        entry = parse(line.encode() if isinstance(line, str) else line)
    except (SchemaError, UnicodeEncodeError) as error:
        raise ManifestError(f"{where}: not JSON: {error}", "one JSON object per line: jq -c '.[]' IN.json") from error
    if not isinstance(entry, dict):
        raise ManifestError(f"{where}: expected a JSON object, found {type(entry).__name__}")
    return entry


def labels_of_cuts() -> Labels:
    """What filters the labels of cuts. None is renamed: lhotse has gdist's own names for what gdist knows."""
    return Labels(("speaker", "text", "language"))


def row_of(
    entry: dict[str, Any], placed: Callable[[dict[str, Any]], ManifestRow], labels: Labels, src: Place, where: str
) -> ManifestRow:
    """Make a row of a recording or a cut.

    Args:
        placed: turns one of the recording's sources into the columns that say where the audio is.
        labels: from :func:`labels_of_cuts`; it notes what is left out.

    Raises:
        ManifestError: it is no segment of one file; the message names its type, and the hint what to do.
    """
    _refuse_others(entry, src, where)
    try:
        recording = entry if "sources" in entry else entry["recording"]
        source, channel = _chosen(entry, recording)
        rate = _own_rate(recording)
        row: ManifestRow = {"id": entry["id"]} | placed(source) | {"num_samples": None, "sample_rate": rate}
        total = recording["num_samples"] if rate == recording["sampling_rate"] else None
        row["num_samples"] = total
        if channel is not None:
            row["channel"] = channel
        if recording is not entry:
            row |= _segment(entry, recording, rate, total) | labels.of(_said(entry))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ManifestError(
            f"{where}: not a lhotse recording, or a cut of one: {reason}",
            "use recordings.jsonl.gz, or cuts that are segments of one recording: "
            "`lhotse cut simple -r recordings.jsonl.gz -s supervisions.jsonl.gz cuts.jsonl.gz`",
        ) from error
    return row


def _refuse_others(entry: dict[str, Any], src: Place, where: str) -> None:
    kind = str(entry.get("type", "")) or ("MixedCut" if "tracks" in entry else "")
    saved = """python -c 'from lhotse import CutSet; CutSet.from_file("IN").save_audios("audio").to_file("OUT")'"""
    save = f"let lhotse write its audio: {saved}".replace("IN", str(src)).replace("OUT", "saved.jsonl.gz")
    found = entry if "sources" in entry else entry.get("recording")
    recording = found if isinstance(found, dict) else {}
    transforms = [_name_of(transform) for transform in recording.get("transforms") or []]
    if kind == "MixedCut":
        why, hint = "it is a MixedCut: several cuts, mixed or one after another, and no segment of one file", save
    elif kind == "PaddingCut":
        why, hint = "it is a PaddingCut: silence that is in no file", "leave it out, or pad later"
    elif "storage_type" in entry:
        why, hint = "it is a manifest of features or arrays, which is no audio", "use cuts or recordings"
    elif "recording_id" in entry:
        why = "it is a supervision, which names no audio"
        hint = f"lhotse cut simple -r recordings.jsonl.gz -s {in_shell(src)} cuts.jsonl.gz"
    elif recording.get("video"):
        why, hint = "its recording is a video", save
    elif odd := [name for name in transforms if name != "Resample"]:
        why = f"its recording is transformed on the fly by {', '.join(odd)}; gdist reads the files unchanged"
        hint = f"use the recordings before that (lhotse cut simple …), or {save}"
    else:
        return
    raise ManifestError(f"{where}: {why}", hint)


def _name_of(transform: Any) -> str:
    return str(transform.get("name", "unknown") if isinstance(transform, dict) else transform)


def _own_rate(recording: dict[str, Any]) -> int:
    """Return the rate of the file itself: a Resample transform says from which rate it starts."""
    transforms = recording.get("transforms") or []
    return int(transforms[0]["kwargs"]["source_sampling_rate"] if transforms else recording["sampling_rate"])


def _chosen(entry: dict[str, Any], recording: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Return the source that the cut is of, and which of its channels, or None for all."""
    sources = recording["sources"]
    channels = [channel for source in sources for channel in source["channels"]]
    wanted = entry.get("channel", channels) if entry is not recording else channels
    wanted = wanted if isinstance(wanted, list) else [wanted]
    of = [source for source in sources if set(wanted) <= set(source["channels"])]
    kind = entry.get("type", "recording")
    if len(of) != 1:
        kinds = ", ".join(source["type"] for source in sources)
        raise ValueError(f"its channels {wanted} are not in one file; its sources are {kinds}")
    (source,) = of
    if set(wanted) == set(source["channels"]):
        return source, None
    if len(wanted) > 1:
        raise ValueError(
            f"it is a {kind} of the channels {wanted} of {len(channels)}; gdist takes one channel, or averages all"
        )
    return source, source["channels"].index(wanted[0])


def _segment(cut: dict[str, Any], recording: dict[str, Any], rate: int, total: int | None) -> ManifestRow:
    start, length = samples(cut["start"], rate), samples(cut["duration"], rate)
    if total is None:  # the file's own length is not said: only its end can be
        rest = recording["num_samples"] / recording["sampling_rate"] - cut["start"] - cut["duration"]
        return {"start": start, "num_samples": None if abs(rest) <= ROUNDED else length}
    past = start + length - total
    return {"start": start, "num_samples": total - start if 0 < past <= ROUNDED * rate else length}


def _said(cut: dict[str, Any]) -> dict[str, object]:
    """What a cut says of its one supervision."""
    if len(supervisions := cut.get("supervisions") or []) != 1:
        return {}
    said = supervisions[0]
    own = {name: said.get(name) for name in ("text", "speaker", "language")}
    more = {"gender": said.get("gender")} | (said.get("custom") or {})
    return own | {name: value for name, value in more.items() if name not in own and value is not None}
