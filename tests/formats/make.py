"""Write one version's fixtures: two caches, a run, its export, and golden.json, which says what they contain."""

import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import conftest
import numpy as np
import pyarrow as pa
import torch

from gdist.data_manifests import demo_folder
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.run.evaluation import read_evaluation
from gdist.stages.students import Student, load_student

SMALL: dict[str, Any] = {
    "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 8, "conv_dim": [4] * 7,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "num_buckets": 4, "max_bucket_distance": 8,
}  # fmt: skip
SETTINGS = {
    "train.steps": 4, "train.warmup_steps": 1, "train.batch_seconds": 2, "train.validate_every": 2,
    "train.checkpoint_every": 2, "train.log_every": 1, "student.dropout": 0.0,
}  # fmt: skip
FRAMES = 1e-3  # by which hidden states may differ between machines and versions of torch, of their largest


def hidden(student: Student, cache: Cache) -> list[Any]:
    """The mean over frames of each hidden state of the first utterance: few numbers that depend on all weights."""
    entry = next(iter(cache.entries))
    waveform_1S = torch.from_numpy(cache.waveform([(entry, 0, entry.num_frames)])[0]).float()[None] / 32768
    with torch.no_grad():
        states = student.eval()(waveform_1S, output_hidden_states=True).hidden_states
    return [[round(float(value), 6) for value in state.double().mean((0, 1))] for state in states]


def stored(cache: Cache) -> dict[str, Any]:
    """For each utterance: its samples and frames, and sums of its waveform and of each layer, which are exact."""
    found: dict[str, Any] = {}
    for entry in cache.entries:
        (samples_S,) = cache.waveform([(entry, 0, entry.num_frames)])
        layers = {each: cache.hidden(each, [(entry, 0, entry.num_frames)])[0].numpy() for each in cache.layers}
        sums = {str(each): float(states_TD.astype(np.float64).sum()) for each, states_TD in layers.items()}
        found[entry.id] = {
            "samples": entry.num_samples,
            "frames": entry.num_frames,
            "labels": dict(sorted(entry.labels.items())),
            "waveform": int(samples_S.astype(np.int64).sum()),
            "layers": sums,
        }
    return found


def gdist(*words: object) -> None:
    """Run a command."""
    from click.testing import CliRunner

    from gdist.stages.cli import main

    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output


def make(archive: Path, work: Path) -> None:
    """Write everything into an archive that does not exist yet.

    Args:
        work: an empty folder.
    """
    folder = work / "made"
    teacher = conftest.make_teacher(work / "teacher", **SMALL)
    demo = Manifest.read(demo_folder() / "demo.parquet")
    rows = sorted(demo.table.to_pylist(), key=lambda row: row["num_samples"] / row["sample_rate"])
    chosen = [row for split in ("train", "valid", "test") for row in [r for r in rows if r["split"] == split][:2]]
    Manifest(pa.Table.from_pylist(chosen, schema=demo.table.schema), demo.root).write(work / "speech.parquet")
    for name in ("fp16", "int8"):
        extract = ("extract", "--teacher", teacher, "--manifest", work / "speech.parquet", "--device", "cpu")
        gdist(*extract, "--cache", folder / f"cache-{name}", "--encoding", name, "--pack-frames", 128)
    flags = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    run, cache = folder / "run", folder / "cache-fp16"
    gdist("train", "--cache", cache, "--out", run, *flags)
    gdist("eval", run, "--probes", "none")
    gdist("export", run, "--format", "hf", "--out", folder / "export")
    shutil.rmtree(run / "tensorboard")
    for code in (folder / "export").glob("*.py"):  # which is gdist's own, and needs no gdist
        code.unlink()
    golden = {
        "caches": {name: stored(Cache.open(str(folder / f"cache-{name}"))) for name in ("fp16", "int8")},
        "hidden": hidden(load_student(run), Cache.open(str(cache))),
        "mean_cosine": read_evaluation(run / "eval.json")["mean_cosine"],
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    with tarfile.open(archive, "x:xz") as tar:
        tar.add(folder, ".")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        make(Path(__file__).parent / f"{sys.argv[1]}.tar.xz", Path(name))
