"""Lhotse's recordings and cuts."""

import json
import math
from collections.abc import Iterator
from typing import Any

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, Source, lines, located
from gdist.pipeline.storage.paths import Place


class Lhotse(Source):
    """Lhotse's JSON lines, plain or gzipped."""

    name = "lhotse"
    summary = "lhotse recordings or cuts, JSONL or JSONL.gz"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """Read recordings or cuts; labels are text, speaker and language, where a cut has one supervision."""
        for number, line in enumerate(lines(src), start=1):
            try:
                entry = json.loads(line)
                recording = entry if "sources" in entry else entry["recording"]
                row: ManifestRow = {
                    "id": entry["id"],
                    "path": _path(recording, src.parent),
                    "num_samples": recording["num_samples"],
                    "sample_rate": recording["sampling_rate"],
                }
                if recording is not entry:
                    row |= _segment(entry, recording)
            except (KeyError, TypeError, ValueError) as error:
                reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                raise ManifestError(
                    f"{src}, line {number}: not a lhotse recording, or a cut of one: {reason}",
                    "use recordings.jsonl.gz, or cuts that are segments of one recording: "
                    "`lhotse cut simple -r recordings.jsonl.gz -s supervisions.jsonl.gz cuts.jsonl.gz`",
                ) from error
            yield row

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return first.startswith("{")


def _path(recording: dict[str, Any], beside: Place) -> str:
    (source,) = recording["sources"] if len(recording["sources"]) == 1 else (None,)
    if source is None or source["type"] not in ("file", "url"):
        kinds = ", ".join(source["type"] for source in recording["sources"])
        raise ValueError(f"its sources are {kinds}; gdist reads one file or URL")
    if recording.get("transforms"):
        raise ValueError("its recording is transformed on the fly; gdist reads the files unchanged")
    return located(source["source"], beside)


def _segment(cut: dict[str, Any], recording: dict[str, Any]) -> ManifestRow:
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
