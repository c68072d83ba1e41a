"""Extraction's memory holds a few packs, whatever the length of the corpus."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from conftest import make_teacher

from gdist.pipeline.manifest import Manifest

PACK_FRAMES = 16_384
LAYERS, DIM = 6, 96
PACK_BYTES = PACK_FRAMES * (LAYERS * DIM * 4 + 640)  # a pack's rows: fp32, and the waveform; 48 MB

PEAK = """
import json, resource, sys
import torch
from gdist.stages.extract import extract
from gdist.stages.extract_plan import ExtractConfig

torch.set_num_threads(1)
teacher, manifest, cache, pack_frames = sys.argv[1:]
config = ExtractConfig(teacher, manifest, cache, encoding="fp32", device="cpu", pack_frames=int(pack_frames))
result = extract(config, show_progress=False)
print(json.dumps({"packs": result["packs"], "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def test_peak_memory_does_not_follow_the_corpus(speech: Path, tmp_path: Path) -> None:
    """Six packs more than what is in hand at a time: less than two packs' memory more."""
    teacher = make_teacher(tmp_path / "teacher", hidden_size=DIM, num_hidden_layers=LAYERS - 1)
    manifest = Manifest.read(speech)
    running = []
    for times in (14, 42):
        rows = [row | {"id": f"{row['id']}-{turn}"} for turn in range(times) for row in manifest.table.to_pylist()]
        path = tmp_path / f"{times}.parquet"
        Manifest(pa.Table.from_pylist(rows, schema=manifest.table.schema), manifest.root).write(path)
        arguments = (teacher, path, tmp_path / f"cache-{times}", PACK_FRAMES)
        command = [sys.executable, "-c", PEAK, *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    few, many = (json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in running)
    assert few["packs"] >= 3 and many["packs"] >= few["packs"] + 6
    assert many["peak"] - few["peak"] < 2 * PACK_BYTES, (few, many, PACK_BYTES)
