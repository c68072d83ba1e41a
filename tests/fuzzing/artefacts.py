"""Real artefacts to begin with, made once for all processes of a campaign: speech, a teacher, a cache, a run."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import conftest
import pyarrow as pa

from gdist.data_manifests import demo_folder
from gdist.pipeline.console import silenced
from gdist.pipeline.manifest.table import Manifest

HOME = "GDIST_FUZZING"  # the variable that names the folder of all artefacts, for this process and those it starts


def _once(name: str, make: Callable[[Path], object]) -> Path:
    """Return an artefact. It is made in a folder of its own and then renamed, so that several processes may ask."""
    if HOME not in os.environ:
        os.environ[HOME] = tempfile.mkdtemp(prefix="gdist-fuzzing-")
    path = Path(os.environ[HOME]) / name
    if not path.exists():
        own = Path(tempfile.mkdtemp(dir=path.parent))
        with silenced():
            make(own / name)
        try:
            (own / name).rename(path)
        except OSError:  # another process was faster
            assert path.exists()
        shutil.rmtree(own)
    return path


def speech() -> Path:
    """A manifest of six utterances with labels, two of each split."""
    demo = Manifest.read(demo_folder() / "demo.parquet")
    rows = sorted(demo.table.to_pylist(), key=lambda row: row["num_samples"] / row["sample_rate"])
    chosen = [row for split in ("train", "valid", "test") for row in [r for r in rows if r["split"] == split][10:12]]
    table = pa.Table.from_pylist(chosen, schema=demo.table.schema)
    return _once("speech.parquet", lambda path: Manifest(table, demo.root).write(path))


def teacher() -> Path:
    """A WavLM of three layers of 32 features."""
    return _once("teacher", conftest.make_teacher)


def cache() -> Path:
    """A finished cache of that speech by that teacher, in several packs."""
    return _once("cache", lambda path: conftest.extracted(teacher(), speech(), path, pack_frames=256))
