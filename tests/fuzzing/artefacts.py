"""Real artefacts to begin with, made once for all processes of a campaign: speech, a teacher, a cache, a run."""

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import conftest
import pyarrow as pa

from gdist.data_manifests import demo_folder
from gdist.pipeline.console import silenced
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.evaluate.evaluate import eval_command
from gdist.stages.train.config import load_config
from gdist.stages.train.train import train

HOME = "GDIST_FUZZING"  # the variable that names the folder of all artefacts, for this process and those it starts


def once(name: str, make: Callable[[Path], object]) -> Path:
    """Return an artefact. It is made under another name beside it, so that several processes may ask, and that what
    it says of other places stays true."""
    if HOME not in os.environ:
        os.environ[HOME] = tempfile.mkdtemp(prefix="gdist-fuzzing-")
        atexit.register(shutil.rmtree, os.environ[HOME], ignore_errors=True)
    path = Path(os.environ[HOME]) / name
    if not path.exists():
        own = path.with_name(f"{uuid.uuid4().hex}-{name}")
        with silenced():
            make(own)
        try:
            own.rename(path)
        except OSError:  # another process was faster
            assert path.exists()
            shutil.rmtree(own) if own.is_dir() else own.unlink()
    return path


def speech() -> Path:
    """A manifest of six utterances with labels, two of each split."""
    demo = Manifest.read(demo_folder() / "demo.parquet")
    rows = sorted(demo.table.to_pylist(), key=lambda row: row["num_samples"] / row["sample_rate"])
    chosen = [row for split in ("train", "valid", "test") for row in [r for r in rows if r["split"] == split][10:12]]
    table = pa.Table.from_pylist(chosen, schema=demo.table.schema)
    return once("speech.parquet", lambda path: Manifest(table, demo.root).write(path))


def teacher() -> Path:
    """A WavLM of three layers of 32 features."""
    return once("teacher", conftest.make_teacher)


def cache() -> Path:
    """A finished cache of that speech by that teacher, in several packs."""
    return once("cache", lambda path: conftest.extracted(teacher(), speech(), path, pack_frames=256))


def run() -> Path:
    """A student of that cache, trained in nine steps, with checkpoints, averaged weights and an evaluation."""
    return once("run", _train)


def _train(path: Path) -> None:
    steps = ["train.steps=9", "train.warmup_steps=2", "train.checkpoint_every=3", "train.validate_every=4"]
    settings = (*steps, "train.ema_decay=0.9", "train.log_every=1", "train.batch_seconds=8")
    train(str(cache()), path, load_config(None, None, settings), show_progress=False)
    eval_command([path], None, "none", False, False)
