"""Peak memory of a Large teacher on a CPU, above what its weights take, beside that of Hugging Face's own model.

    python benchmarks/memory.py
    python benchmarks/memory.py --layers 24 --models "w2v-BERT 2.0"

Random weights; each figure comes from a process of its own, which runs the model once over the same sound. "whole" is
gdist with the limit of gdist.stages.teachers.attention.ELEMENTS lifted, so that every bias is formed at once, as it
was before there was a limit. Each layer frees what it takes, so few layers give the peak of many.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import SeamlessM4TFeatureExtractor

from gdist.stages.teachers import FAMILIES, attention

LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "WavLM Large": (
        "wavlm",
        LARGE | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    ),
    "w2v-BERT 2.0": ("wav2vec2-bert", LARGE),
}
BATCHES = {"30 s": [30.0], "4 x 8 s": [8.0] * 4}
WAYS = ("transformers", "whole", "gdist")


def sound(batch: str) -> tuple[Tensor, Tensor]:
    num_samples_B = torch.tensor([int(seconds * 16_000) for seconds in BATCHES[batch]])
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(num_samples_B), int(num_samples_B.max()), generator=generator) * 0.1, num_samples_B


def prepare(model: str, way: str, layers: int, batch: str) -> Callable[[], None]:
    """What runs the model once; loading it and, for transformers, extracting features are done here."""
    torch.manual_seed(0)
    waveform_BS, num_samples_B = sound(batch)
    family, fields = MODELS[model]
    teacher_class = FAMILIES[family]
    loaded = teacher_class.model_class(teacher_class.model_class.config_class(num_hidden_layers=layers, **fields))
    loaded.eval()
    if way == "transformers":
        inputs: dict[str, Any] = {"input_values": waveform_BS}
        if family == "wav2vec2-bert":
            extractor = SeamlessM4TFeatureExtractor()
            inputs = dict(extractor([*waveform_BS.numpy()], sampling_rate=16_000, return_tensors="pt"))

        @torch.inference_mode()
        def theirs() -> None:
            loaded(**inputs)

        return theirs
    if way == "whole":
        attention.ELEMENTS["cpu"] = 2**62
    teacher = teacher_class(loaded, name=model, do_normalize=False, precision="fp32", device="cpu", final_norm=False)

    def ours() -> None:
        for _ in teacher.hidden_states(waveform_BS, num_samples_B):
            pass

    return ours


def resident(field: str) -> int:
    """Bytes: VmRSS, what is resident, or VmHWM, the most that was since :func:`forget`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def forget() -> None:
    """Let the most that was resident begin again (see proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(model: str, way: str, layers: int, batch: str) -> dict[str, float]:
    """In a process of its own: MB above what is resident before, and seconds of all its threads."""
    run = prepare(model, way, layers, batch)
    forget()
    before, began = resident("VmRSS"), time.process_time()
    run()
    return {"mb": (resident("VmHWM") - before) / 1e6, "cpu_seconds": time.process_time() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=3, help="Transformer layers [default: 3]")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--threads", type=int, default=1, help="[default: 1]")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("memory.py reads /proc, which only Linux has")
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1], options.layers, options.one[2])))
        return
    rows = []
    print(f"MB above the weights of {options.layers} layers (of transformers'; CPU seconds)\n")
    print("| model | batch | " + " | ".join(WAYS) + " |\n|---|---|" + "---|" * len(WAYS))
    for model in options.models:
        for batch in BATCHES:
            found = {way: apart(options, model, way, batch) for way in WAYS}
            rows += [{"model": model, "batch": batch, "way": way} | found[way] for way in WAYS]
            base = found[WAYS[0]]["mb"]
            cells = [
                f"{one['mb']:.0f} ({one['mb'] / base:.2f}; {one['cpu_seconds']:.1f} s)" for one in found.values()
            ]
            print(f"| {model} | {batch} | " + " | ".join(cells) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"layers": options.layers, "rows": rows}, indent=1) + "\n")


def apart(options: argparse.Namespace, model: str, way: str, batch: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--layers", str(options.layers), "--threads", str(options.threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [*command, "--one", model, way, batch], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
