"""Extraction keeps a few packs in memory, whatever the length of the corpus."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import make_teacher

from gdist.pipeline.manifest.table import Manifest

PACK_FRAMES = 16_384
LAYERS, DIM = 6, 96
PACK_BYTES = PACK_FRAMES * (LAYERS * DIM * 4 + 640)  # a pack's rows: fp32, and the waveform; 48 MB

PEAKS = """
import json, resource, sys
import torch
from gdist.pipeline.cache.cache import Cache
from gdist.stages.extract.extract import extract
from gdist.stages.extract.plan import ExtractConfig

peaks, commit = [], Cache.commit

def noted(self, *args):
    receipt = commit(self, *args)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return receipt

Cache.commit = noted
torch.set_num_threads(1)
teacher, manifest, cache, pack_frames = sys.argv[1:]
extract(ExtractConfig(teacher, manifest, cache, encoding="fp32", pack_frames=int(pack_frames)), show_progress=False)
print(json.dumps(peaks))
"""


@pytest.mark.thorough
def test_peak_memory_does_not_grow_with_the_corpus(speech: Path, tmp_path: Path) -> None:
    """The second half of a corpus adds less than two packs to the first half's peak, with caches and heap full."""
    teacher = make_teacher(tmp_path / "teacher", hidden_size=DIM, num_hidden_layers=LAYERS - 1)
    manifest = Manifest.read(speech)
    rows = [row | {"id": f"{row['id']}-{turn}"} for turn in range(42) for row in manifest.table.to_pylist()]
    path = tmp_path / "m.parquet"
    Manifest(pa.Table.from_pylist(rows, schema=manifest.table.schema), manifest.root).write(path)
    arguments = (teacher, path, tmp_path / "cache", PACK_FRAMES)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", PEAKS, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    peaks = json.loads(ran.stdout.splitlines()[-1])
    half = len(peaks) // 2
    assert half >= 6
    assert peaks[-1] - peaks[half - 1] < 2 * PACK_BYTES, (peaks, PACK_BYTES)
