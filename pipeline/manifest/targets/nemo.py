"""NeMo's manifest."""

import json
from collections.abc import Sequence
from pathlib import Path

from gdist.pipeline.manifest.seconds import seconds
from gdist.pipeline.manifest.targets.base import Item, Target, left_out, writing


class Nemo(Target):
    """JSON lines with audio_filepath, offset, duration and text."""

    name = "nemo"
    summary = "NeMo's JSON lines, manifest.json"

    def write(self, items: Sequence[Item], out: Path) -> list[str]:
        """Write manifest.json, with the ids and all plain labels as further keys."""
        kept: dict[str, None] = {}
        any_start = any(item.utterance.start for item in items)
        with writing(out / "manifest.json") as file:
            for item in items:
                u, rate = item.utterance, item.header.sample_rate
                entry: dict[str, object] = {"id": u.id, "audio_filepath": u.path}
                if any_start:
                    entry["offset"] = seconds(u.start, rate)
                entry["duration"] = seconds(item.num_samples, rate)
                for name, value in u.labels.items():
                    if isinstance(value, str | int | float | bool | None):
                        entry[name] = value
                        kept[name] = None
                file.write(f"{json.dumps(entry, ensure_ascii=False)}\n".encode())
        return left_out(items, list(kept))
