"""What an encoding costs and saves: bytes against error, and against the student that is trained from it.

    python benchmarks/encodings.py --seeds 3 --draw benchmarks/encodings.svg

The bundled teacher runs over the bundled speech once for each encoding. From each cache the demo's GenDistiller is
trained, and it is always evaluated on held-out speech against the layers in fp32. The scatter of the seeds gives the
noise of a run, with which the encodings are compared: `within noise` means that the student's mean is at most two
standard errors of the difference below fp32's.
"""

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from markupsafe import Markup
from timing import add_device

from gdist.data_manifests import demo_folder
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.run.snapshot import snapshot
from gdist.stages.evaluate.bench import Bench
from gdist.stages.evaluate.evaluate import evaluate
from gdist.stages.extract.extract import extract
from gdist.stages.extract.layer_statistics import combined
from gdist.stages.extract.plan import ExtractConfig
from gdist.stages.report.drawing import standalone
from gdist.stages.report.plots import Dot, scatter
from gdist.stages.train.config import load_config
from gdist.stages.train.train import train


def stored(encoding: str, folder: Path, device: str) -> dict[str, Any]:
    """Extract with one encoding: the bytes of the layers per second of audio, and what was lost."""
    cache_uri = str(folder / encoding)
    teacher, manifest = demo_folder() / "teacher-nano", demo_folder() / "demo.parquet"
    config = ExtractConfig(str(teacher), str(manifest), cache_uri, encoding=encoding, device=device)
    found = extract(config, show_progress=False)
    cache = Cache.open(cache_uri)
    layers = combined(cache.receipts())
    tables = [key for key in cache.gdist["objects"] if key.startswith("teacher/tables")]
    size = sum(
        int(meta["size"])
        for key, meta in cache.storage.objects().items()
        if key.startswith(("layers/", "scales/")) or key in tables
    )
    return {
        "encoding": encoding,
        "bytes_per_second": size / found["audio_seconds"],
        "relative_error": math.sqrt(statistics.mean(row["relative_error"] ** 2 for row in layers)),
        "worst_error": max(row["relative_error"] for row in layers),
        "cosine": statistics.mean(row["cosine"] for row in layers),
        "seconds": found["seconds"],
    }


def student(encoding: str, seed: int, folder: Path, bench: Bench, device: str) -> float:
    """The mean cosine over layers of a student trained from one cache, against the layers in fp32."""
    out = folder / f"run-{encoding}-{seed}"
    config = load_config(
        "demo-gendistiller", None, (f"train.seed={seed}", "train.checkpoint_every=1000", f"train.device={device}")
    )
    train(str(folder / encoding), out, config, show_progress=False)
    return float(evaluate(snapshot(out), bench)["mean_cosine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encodings", default=",".join(ENCODINGS))
    parser.add_argument("--seeds", type=int, default=3)
    add_device(parser)
    parser.add_argument("--draw", type=Path, help="file for an SVG of the trade-off")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    names = ["fp32", *(name for name in options.encodings.split(",") if name != "fp32")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = [stored(name, folder, options.device) for name in names]
        bench = None
        for row in rows:
            if options.seeds:
                if bench is None:
                    exact = Cache.open(str(folder / "fp32"))
                    bench = Bench(exact, load_config("demo-gendistiller", None, ()).data, {})
                row["students"] = [
                    student(row["encoding"], seed, folder, bench, options.device) for seed in range(options.seeds)
                ]
            row["fraction"] = row["bytes_per_second"] / rows[0]["bytes_per_second"]
            print(described(row, rows[0]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if options.draw:
        options.draw.write_text(drawing(rows))


def described(row: dict[str, Any], exact: dict[str, Any]) -> str:
    """One line about an encoding, with its student compared with that of fp32."""
    line = (
        f"{row['encoding']:6} {row['bytes_per_second'] / 1000:7.1f} kB per second of audio, {row['fraction']:.3f} of "
        f"fp32; relative error {row['relative_error']:.1e} (worst layer {row['worst_error']:.1e})"
    )
    if "students" not in row:
        return line
    mean = statistics.mean(row["students"])
    line += f"; student {mean:.4f}"
    if len(row["students"]) > 1:
        spread = statistics.stdev(row["students"])
        noise = math.hypot(spread, statistics.stdev(exact["students"])) / math.sqrt(len(row["students"]))
        difference = mean - statistics.mean(exact["students"])
        verdict = "within noise" if difference >= -2 * noise else "below fp32's"
        line += f" ± {spread:.4f} ({difference:+.4f}, {verdict})"
    return line


def drawing(rows: list[dict[str, Any]]) -> str:
    """An SVG of two plots over bytes (logarithmic): the error (logarithmic), and the student with its seeds."""

    def dot(row: dict[str, Any], values: list[float]) -> Dot:
        kilobytes = row["bytes_per_second"] / 1000
        return Dot(row["encoding"], kilobytes, statistics.mean(values), "c1", min(values), max(values))

    def plot(title: str, dots: list[Dot], show: str, log_y: bool = False) -> Markup:
        return scatter(
            title, "kB of layers per second of audio", title, dots, "{:g}".format, show.format, log_y=log_y
        )

    errors = [dot(row, [row["relative_error"]]) for row in rows if row["relative_error"]]
    plots = [plot("relative error of what is stored", errors, "{:.0e}", log_y=True)] if errors else []
    if "students" in rows[0]:
        students = [dot(row, row["students"]) for row in rows]
        plots.append(plot("mean cosine of the student, by seed", students, "{:.4f}"))
    return standalone(*plots)


if __name__ == "__main__":
    main()
