"""Folders of sweeps as `gdist sweep` leaves them, with the values that a test wants."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gdist.pipeline.config import signature, to_toml

STEPS = 40


def make_sweep(folder: Path, points: Sequence[Mapping[str, Any]], **record: Any) -> Path:
    """A sweep whose points are judged by the cosine of the last validation.

    Args:
        points: of each, ``name``, ``cosines`` (one for each seed; None has not begun), and what is not usual: ``set``
            (field → value), ``alternative``, ``trial``, ``params``, ``seconds`` and ``cpu`` of its training,
            ``stopped`` and ``failed`` (records, of all its seeds without a cosine).
    """
    entries: list[dict[str, Any]] = []
    for point in points:
        for seed, cosine in enumerate(point["cosines"]):
            identity = f"{len(entries):012x}"
            run = f"{point['name']}-seed-{seed}-{identity}".replace(" ", "-")
            varied = point.get("set", {})
            entry = {"name": point["name"], "seed": seed, "signature": identity, "run": run, "varied": varied}
            entry |= {key: point[key] for key in ("alternative", "trial", "recipe", "settings") if key in point}
            if cosine is not None:
                make_trained(folder / "runs" / run, cosine, seed, point)
            elif "stopped" in point:
                make_trained(folder / "runs" / run, 0.1, seed, point, finished=False)
                entry["stopped"] = point["stopped"]
            elif "failed" in point:
                (folder / "failed").mkdir(parents=True, exist_ok=True)
                (folder / "failed" / f"{identity}.json").write_text(json.dumps(point["failed"]))
            entries.append(entry)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps({"name": folder.name, "points": entries} | record))
    return folder


def make_trained(folder: Path, cosine: float, seed: int, point: Mapping[str, Any], finished: bool = True) -> None:
    """A run that has been trained, and not evaluated."""
    (folder / "student").mkdir(parents=True)
    tables: dict[str, dict[str, Any]] = {"train": {"steps": STEPS, "seed": seed}, "student": {"name": "gendistiller"}}
    for field, value in point.get("set", {}).items():
        table, dot, name = field.partition(".")
        if dot:
            tables.setdefault(table, {})[name] = value
    (folder / "config.toml").write_text(to_toml(tables))
    teacher = {"name": "demo/teacher", "params": 5_928_040, "num_layers": 12, "dim": 192}
    params = point.get("params", 1_068_416)
    about = {
        "cache": "demo/cache",
        "encoding": "fp16",
        "teacher": teacher,
        "params": params,
        "signature": signature(tables),
    }
    (folder / "run.json").write_text(json.dumps(about | {"params_with_heads": params}))
    rows = []
    for step in range(10, STEPS + 1, 10):
        spent = {"seconds": point.get("seconds", 40.0) * step / STEPS, "audio_seconds": 100.0, "bytes_fetched": 1000}
        row = {"kind": "train", "step": step, "steps": 10, "loss": 2.0 / step, **spent}
        rows.append(row | {"step_cpu_seconds": point.get("cpu", 30.0) / STEPS})
    rows.append({"kind": "valid", "step": STEPS, "seconds": 41.0, "loss": 1 - cosine, "cosine": cosine})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        (folder / "student" / "model.safetensors").touch()
