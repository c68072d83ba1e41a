"""`gdist demo`: the whole pipeline, on the speech and the teacher that ship with gdist.

extract → verify → train both students from the same cache → evaluate → report. Every part is the function of an
ordinary command, so an interrupted demo continues when it is run again.
"""

import json
from pathlib import Path
from typing import Any

from gdist.data_manifests import demo_folder
from gdist.pipeline import console
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.verify import verify
from gdist.pipeline.errors import GdistError
from gdist.pipeline.run import Run
from gdist.pipeline.run.snapshot import snapshot
from gdist.pipeline.staging import write_atomically
from gdist.stages.evaluate.bench import Bench
from gdist.stages.evaluate.evaluate import evaluate
from gdist.stages.evaluate.probes import probes_named
from gdist.stages.evaluate.tables import show
from gdist.stages.extract.extract import extract
from gdist.stages.extract.plan import ExtractConfig
from gdist.stages.report.page import RunSummary, write_report
from gdist.stages.train.config import load_config
from gdist.stages.train.train import train

STUDENTS = ("gendistiller", "distilhubert")
PROBES = "ks,qbe,sid,lid"  # the probes that take seconds; `gdist eval` has more


def demo(out: Path, as_json: bool) -> int:
    """Run the demo into ``out``; returns the exit code."""
    speech = demo_folder()
    cache_uri, extraction = str(out / "cache"), out / "extract.json"
    _headline(1, "extract: the teacher runs once over 17 minutes of speech")
    config = ExtractConfig(
        teacher=str(speech / "teacher-nano"), manifest=str(speech / "demo.parquet"), cache=cache_uri
    )
    extracted = extract(config, show_progress=not as_json)
    if extracted["packs_resumed"] < extracted["packs"] or not extraction.exists():
        write_atomically(extraction, json.dumps(extracted, indent=2))  # a rerun that did nothing has no new figures
    extracted = json.loads(extraction.read_text())

    _headline(2, "verify: every byte against its checksum")
    cache = Cache.open(cache_uri)
    with console.progress("verify", cache.packs, "packs", enabled=not as_json) as advance:
        verified = verify(cache, advance)
    if not verified["ok"]:
        raise GdistError(
            f"the demo's cache is damaged: {verified['bad'][:1]}", f"delete {out} and run the demo again"
        )

    _headline(3, "train: two students from the same cache, without the teacher")
    runs: list[Run] = []
    trained: dict[str, Any] = {}
    for name in STUDENTS:
        recipe = load_config(f"demo-{name}", None, ())
        trained[name] = train(cache_uri, out / name, recipe, show_progress=not as_json)
        runs.append(Run(out / name))

    _headline(4, "evaluate: fidelity by layer and probes, on held-out speech")
    results = []
    with console.progress("evaluate", len(runs), "students", enabled=not as_json) as advance:
        bench = Bench(cache, recipe.data, probes_named(PROBES), notify=lambda note: advance(0, note))
        for run in runs:
            results.append(evaluate(snapshot(run.folder), bench))
            advance(1)

    _headline(5, "report")
    report = out / "report.html"
    extras = {
        "extract": extracted,
        "verify": {"ok": verified["ok"], "packs": verified["packs"]},
        "cache": {
            "uri": cache_uri,
            "encoding": cache.identity["encoding"],
            "dim": cache.identity["dim"],
            "layers": len(cache.layers),
        },
        "teacher_passes": teacher_passes(runs, extracted),
    }
    write_report([RunSummary.read(run.folder) for run in runs], report, extras)
    if as_json:
        console.emit(
            {
                "extract": extracted,
                "verify": verified,
                "train": trained,
                "eval": results,
                "beats_references": {result["run"]: beats_references(result) for result in results},
                "report": str(report),
            }
        )
    else:
        show(results)
        for result in results:
            lost = [layer for layer, won in beats_references(result).items() if not won]
            verdict = f"not at layer{'s'[: len(lost) > 1]} {', '.join(lost)}" if lost else "at every layer"
            console.say(f"{result['run']} is closer to the teacher than both references: {verdict}")
        console.say(f"\nopen {report.absolute()}", style="bold green")
    return 0


def beats_references(result: dict[str, Any]) -> dict[str, bool]:
    """Layer → whether the student's cosine is above the mean frame's and the copied h_0's."""
    references = result["references"].values()
    return {
        str(row["layer"]): all(row["cosine"] > rows[place]["cosine"] for rows in references)
        for place, row in enumerate(result["layers"])
    }


def teacher_passes(runs: list[Run], extracted: dict[str, Any]) -> dict[str, float]:
    """What an online teacher would have cost in these training runs, at the speed of the extraction."""
    rows = [row for run in runs for row in run.read_metrics() if row["kind"] == "train"]
    audio_seconds = sum(row["audio_seconds"] for row in rows)
    return {
        "steps": sum(row["steps"] for row in rows),
        "audio_seconds_trained": audio_seconds,
        "teacher_seconds_saved": audio_seconds / extracted["realtime_factor"] - extracted["seconds"],
    }


def _headline(number: int, text: str) -> None:
    console.say(f"\n{number}/5  {text}", style="bold")
