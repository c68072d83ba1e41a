"""Lhotse's recordings, supervisions and cuts."""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gdist.pipeline.audio import Header
from gdist.pipeline.manifest.sources.labels import ids_from_paths
from gdist.pipeline.manifest.targets.base import Item, Target, left_out, writing
from gdist.pipeline.storage.paths import is_uri

_OWN = ("text", "speaker", "language", "gender")


class Lhotse(Target):
    """recordings.jsonl.gz, supervisions.jsonl.gz and cuts.jsonl.gz."""

    name = "lhotse"
    summary = "lhotse's recordings, supervisions and cuts, JSONL.gz"
    channels = True
    uris = True

    def write(self, items: Sequence[Item], out: Path) -> list[str]:
        """Write the three; cuts.jsonl.gz alone is enough. Labels that lhotse has no field for are ``custom``."""
        headers = {item.utterance.path: item.header for item in items}
        names = dict(zip(headers, ids_from_paths(list(headers)), strict=True))
        recordings = {path: _recording(names[path], path, header) for path, header in headers.items()}
        cuts = [_cut(item, recordings[item.utterance.path]) for item in items]
        supervisions = [cut["supervisions"][0] | {"start": cut["start"]} for cut in cuts]
        _lines(out / "recordings.jsonl.gz", recordings.values())
        _lines(out / "supervisions.jsonl.gz", supervisions)
        _lines(out / "cuts.jsonl.gz", cuts)
        kept = {*_OWN} | {name for cut in cuts for name in cut["supervisions"][0].get("custom", {})}
        unknown = {name for item in items for name, value in item.utterance.labels.items() if value is None}
        return left_out(items, list(kept | unknown))


def _recording(id: str, path: str, header: Header) -> dict[str, Any]:
    channels = list(range(header.channels))
    return {
        "id": id,
        "sources": [{"type": "url" if is_uri(path) else "file", "channels": channels, "source": path}],
        "sampling_rate": header.sample_rate,
        "num_samples": header.num_samples,
        "duration": header.num_samples / header.sample_rate,
        "channel_ids": channels,
    }


def _cut(item: Item, recording: dict[str, Any]) -> dict[str, Any]:
    u, rate, channels = item.utterance, item.header.sample_rate, recording["channel_ids"]
    several = u.channel is None and len(channels) > 1
    channel = channels if several else u.channel or 0
    duration = item.num_samples / rate
    labels = {name: value for name, value in u.labels.items() if isinstance(value, str | int | float | bool)}
    supervision: dict[str, Any] = {
        "id": u.id,
        "recording_id": recording["id"],
        "start": 0.0,
        "duration": duration,
        "channel": channel,
    }
    supervision |= {name: str(labels[name]) for name in _OWN if name in labels}
    if custom := {name: value for name, value in labels.items() if name not in _OWN}:
        supervision["custom"] = custom
    return {
        "id": u.id,
        "start": u.start / rate,
        "duration": duration,
        "channel": channel,
        "supervisions": [supervision],
        "recording": recording,
        "type": "MultiCut" if several else "MonoCut",
    }


def _lines(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write gzipped JSON lines; the same entries are the same bytes."""
    with writing(path) as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for entry in entries:
            file.write(f"{json.dumps(entry, ensure_ascii=False)}\n".encode())
