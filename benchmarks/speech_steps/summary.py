"""What the manifest holds and what was left out, as a table for people and as one JSON value."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.manifest.sources.base import ManifestRow


def summary(rows: Sequence[ManifestRow], left_out: Mapping[str, Counter[str]]) -> dict[str, Any]:
    """Hours, utterances, voices and conditions of each language and of all; and the counts of what was left out."""
    languages = sorted({str(row["language"]) for row in rows})
    return {
        "languages": {name: _figures([row for row in rows if row["language"] == name]) for name in languages},
        "all": _figures(rows),
        "left_out": {source: dict(sorted(reasons.items())) for source, reasons in left_out.items() if reasons},
    }


def show(found: Mapping[str, Any]) -> None:
    """Print the summary on stdout."""
    columns = ["language", "hours", "utterances", "with text", "voices", "train", "valid", "test", "conditions"]
    rows = [[name, *_cells(figures)] for name, figures in found["languages"].items()]
    console.print_table("speech", columns, [*rows, ["all", *_cells(found["all"])]])
    left = [[source, reason, f"{n:,}"] for source, why in found["left_out"].items() for reason, n in why.items()]
    console.print_table("left out", ["source", "reason", "recordings"], left)


def _figures(rows: Sequence[ManifestRow]) -> dict[str, Any]:
    seconds: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        seconds[str(row["split"])] += _seconds(row)
    return {
        "hours": round(sum(seconds.values()) / 3600, 3),
        "utterances": len(rows),
        "with_text": sum(row["text"] is not None for row in rows),
        "voices": sorted({str(row["speaker"]) for row in rows if row["speaker"] is not None}),
        "conditions": sorted({str(row["condition"]) for row in rows}),
        "split_hours": {name: round(seconds[name] / 3600, 3) for name in ("train", "valid", "test")},
    }


def _seconds(row: ManifestRow) -> float:
    samples, rate = row["num_samples"], row["sample_rate"]
    assert isinstance(samples, int) and isinstance(rate, int)
    return samples / rate


def _cells(figures: Mapping[str, Any]) -> list[str]:
    hours = figures["split_hours"]
    return [
        f"{figures['hours']:.2f}",
        f"{figures['utterances']:,}",
        f"{figures['with_text']:,}",
        str(len(figures["voices"])),
        *(f"{hours[name]:.2f} h" for name in ("train", "valid", "test")),
        ", ".join(figures["conditions"]),
    ]
