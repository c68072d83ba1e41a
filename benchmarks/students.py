"""What a student costs in use: parameters, size on disk, memory and speed, compared with its teacher.

    python benchmarks/students.py

The forms, all with WavLM Base's shapes and random weights (``--teacher`` names another checkpoint):

    teacher       Hugging Face's WavLMModel as usually loaded, and gdist's own faster form of it
    baseline      the DistilHuBERT-style student
    gendistiller  the GenDistiller student
    … onnx, … onnx int8: what `gdist export --format onnx` writes, in ONNX Runtime

Speed is measured at batch size 1. All forms take turns in one process, so that other load on the machine affects all
of them equally. It prints × real time, and the median of the paired ratios to the first form. Peak memory is that of
a separate process that loads the form and runs it once on the longest speech. Cosines are the mean over layers and
frames, of each form compared with the same model in PyTorch, on bundled speech.

Axes: B batch, S samples, L teacher layers, T frames, D features.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from extract import wavlm_base
from timing import add_device, timed
from torch import Tensor
from transformers import AutoConfig, AutoModel

from gdist.pipeline import framing
from gdist.stages.export.formats.onnx_fidelity import bundled
from gdist.stages.students import STUDENTS as KINDS
from gdist.stages.students import student_config

STUDENTS = {"baseline": "distilhubert", "gendistiller": "gendistiller"}
FORMS = (
    "teacher",
    "teacher gdist",
    "teacher gdist bf16",
    *(f"{student}{form}" for student in STUDENTS for form in ("", " bf16", " onnx", " onnx int8")),
)
Model = Callable[[Tensor], Sequence[Tensor]]  # [1, S] → L + 1 hidden states [1, T, D]
PAUSE = 0.02  # seconds after each turn, in which the other library's waiting threads go to sleep


def prepare(source: str, folder: Path) -> None:
    """Write every student as files for PyTorch and ONNX."""
    import onnx

    from gdist.stages.export.formats.onnx_graph import graph_of
    from gdist.stages.export.formats.onnx_quantize import quantize
    from gdist.stages.train.student_store import save_student_to

    teacher = AutoConfig.from_pretrained(source).to_dict() | {"do_normalize": False}
    for name, kind in STUDENTS.items():
        torch.manual_seed(0)
        # By default the output layer begins at zero: every layer would be layer 0, and the forms could not differ.
        fields = {"output_init": "random"} if kind == "gendistiller" else {}
        student = KINDS[kind](student_config(kind, teacher, **fields)).eval()
        save_student_to(folder / name, student)
        onnx.save(graph_of(student), folder / f"{name}.onnx")
        onnx.save(quantize(graph_of(student, for_integers=True)), folder / f"{name}-int8.onnx")


def files(form: str, source: str, folder: Path) -> Path:
    """The form's file on disk."""
    name, *kind = form.split()
    if name == "teacher":
        return Path(source) / "model.safetensors"
    if "onnx" in kind:
        return folder / f"{name}{'-int8' if 'int8' in kind else ''}.onnx"
    return folder / name / "model.safetensors"


def load(form: str, source: str, folder: Path, threads: int, device: str) -> Model:
    """Load the form, ready to run on waveforms in main memory. Forms in ONNX Runtime always run on the CPU."""
    name, *kind = form.split()
    if "onnx" in kind:
        from gdist.stages.export.formats.onnx_library import open_session

        session = open_session(files(form, source, folder), threads)

        def run_onnx(waveform_1S: Tensor) -> list[Tensor]:
            mask_1S = np.ones(waveform_1S.shape, np.int64)
            states = session.run(None, {"input_values": waveform_1S.numpy(), "attention_mask": mask_1S})
            return [torch.from_numpy(state) for state in states[:-1]]

        return run_onnx
    bf16 = "bf16" in kind
    if name == "teacher" and kind:
        from gdist.stages.teachers import load_teacher

        teacher = load_teacher(source, precision="bf16" if bf16 else "fp32", device=device)

        def run_teacher(waveform_1S: Tensor) -> list[Tensor]:
            return list(teacher.hidden_states(waveform_1S.to(device), torch.tensor([waveform_1S.shape[1]])))

        return run_teacher
    model = AutoModel.from_pretrained(source if name == "teacher" else folder / name).eval().to(device)

    def run_torch(waveform_1S: Tensor) -> Sequence[Tensor]:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            states: Sequence[Tensor] = model(waveform_1S.to(device), output_hidden_states=True).hidden_states
        return states

    return run_torch


def speech(seconds: float) -> Tensor:
    """Bundled sentences one after another, ``[1, S]``."""
    samples = int(seconds * framing.SAMPLE_RATE)
    bundled_1S = torch.cat(bundled(), dim=1)
    return bundled_1S.repeat(1, -(-samples // bundled_1S.shape[1]))[:, :samples]


def memory(form: str, source: str, folder: Path, seconds: float, threads: int, device: str) -> None:
    """Print the bytes that loading and running add to the libraries themselves. Runs in a separate process."""
    torch.set_num_threads(threads)
    waveform_1S = speech(seconds)
    if "onnx" in form:
        import onnxruntime  # noqa: F401  its libraries do not count as the form's
    elif "gdist" in form:
        import gdist.stages.teachers.packed  # noqa: F401
    before = resident("VmRSS")
    load(form, source, folder, threads, device)(waveform_1S)
    on_gpu = device != "cpu" and "onnx" not in form
    print(json.dumps(torch.cuda.max_memory_allocated(device) if on_gpu else resident("VmHWM") - before))


def resident(what: str) -> int:
    """Bytes of memory, now (VmRSS) or at peak (VmHWM). ``getrusage`` would include what a parent had before."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def speed(
    forms: Sequence[str], source: str, folder: Path, lengths: Sequence[float], threads: int, rounds: int, device: str
) -> list[dict[str, Any]]:
    """One row for each form and length: its speed, relative to real time and to the first form."""
    torch.set_num_threads(threads)
    ways = {form: load(form, source, folder, threads, device) for form in forms}
    rows = []
    for seconds in lengths:
        waveform_1S = speech(seconds)
        took: dict[str, list[float]] = {form: [] for form in forms}
        for turn in range(rounds + 1):
            for form, model in ways.items():
                time.sleep(PAUSE)
                seconds_taken = timed(partial(model, waveform_1S), device)
                if turn:  # the first turn warms up
                    took[form].append(seconds_taken)
        for form, times in took.items():
            ratios = [first / own for first, own in zip(took[forms[0]], times, strict=True)]
            rows.append(
                {
                    "form": form,
                    "threads": threads,
                    "seconds": seconds,
                    "realtime": seconds / statistics.median(times),
                    "speedup": statistics.median(ratios),
                    "speedup_range": [min(ratios), max(ratios)],
                }
            )
    return rows


def cosines(forms: Sequence[str], source: str, folder: Path, seconds: float, device: str) -> dict[str, float]:
    """The cosine between each form of a model and the same model in PyTorch and float32."""
    waveform_1S = speech(seconds)
    found: dict[str, float] = {}
    references: dict[str, torch.Tensor] = {}
    for form in forms:
        name = form.split()[0]
        states = load(form, source, folder, torch.get_num_threads(), device)(waveform_1S)
        hidden_LTD = torch.stack([state[0].float().cpu() for state in states])[1:]
        reference_LTD = references.setdefault(name, hidden_LTD)
        found[form] = float(F.cosine_similarity(hidden_LTD, reference_LTD, dim=-1).mean())
    return found


def parameters(form: str, source: str, folder: Path) -> int:
    name = form.split()[0]
    model = AutoModel.from_pretrained(source if name == "teacher" else folder / name)
    with_heads = getattr(model, "num_parameters_with_heads", model.num_parameters)
    return int(with_heads())


def apart(options: argparse.Namespace, what: str, *rest: str) -> Any:
    """Run one part in a separate process, and return its result."""
    command = [
        sys.executable,
        __file__,
        "--part",
        what,
        "--teacher",
        options.teacher,
        "--device",
        options.device,
        "--folder",
        str(options.folder),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": rest[-1]}
    done = subprocess.run([*command, *rest[:-1], "--threads", rest[-1]], stdout=subprocess.PIPE, env=environment)
    if done.returncode:
        raise SystemExit(f"{what} {' '.join(rest)} failed")
    return json.loads(done.stdout.splitlines()[-1])


def show(results: dict[str, Any], lengths: Sequence[float]) -> None:
    """Print the results as tables in Markdown."""
    print("\n| form | M parameters | MB on disk | MB of memory | cosine |\n|---|---|---|---|---|")
    for form, row in results["forms"].items():
        sizes = f"{row['params'] / 1e6:.2f} | {row['bytes'] / 1e6:.0f} | {row['memory'] / 1e6:.0f}"
        print(f"| {form} | {sizes} | {row['cosine']:.4f} |")
    columns = sorted({(row["threads"], row["seconds"]) for row in results["speed"]})
    heads = [f"{seconds:g} s, {threads} thread{'s'[: threads > 1]}" for threads, seconds in columns]
    print(f"\n| form | {' | '.join(heads)} |\n|---|{'---|' * len(columns)}")
    by_place = {(row["form"], row["threads"], row["seconds"]): row for row in results["speed"]}
    for form in results["forms"]:
        cells = [by_place[form, *column] for column in columns]
        print(f"| {form} | " + " | ".join(f"{c['realtime']:.0f} × ({c['speedup']:.2f})" for c in cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="", help="a checkpoint [default: WavLM Base's shapes]")
    parser.add_argument("--form", action="append", choices=FORMS, help="[default: all]")
    parser.add_argument("--seconds", action="append", type=float, help="[default: 1, 5 and 15]")
    parser.add_argument("--threads", action="append", type=int, help="[default: 1 and 2]")
    parser.add_argument("--rounds", type=int, default=9)
    add_device(parser)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    lengths, forms = options.seconds or [1.0, 5.0, 15.0], options.form or list(FORMS)
    place = (options.teacher, options.folder)
    if options.part == "memory":
        memory(forms[0], *place, max(lengths), options.threads[0], options.device)
        return
    if options.part == "speed":
        print(json.dumps(speed(forms, *place, lengths, options.threads[0], options.rounds, options.device)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = Path(scratch)
        options.teacher = options.teacher or wavlm_base(options.folder / "wavlm-base")
        place = (options.teacher, options.folder)
        prepare(*place)
        near = cosines(forms, *place, max(lengths), options.device)
        durations = [part for seconds in lengths for part in ("--seconds", str(seconds))]
        chosen = [part for form in forms for part in ("--form", form)]
        results: dict[str, Any] = {
            "forms": {
                form: {
                    "params": parameters(form, *place),
                    "bytes": files(form, *place).stat().st_size,
                    "memory": apart(options, "memory", "--form", form, *durations, "1"),
                    "cosine": near[form],
                }
                for form in forms
            },
            "speed": [
                row
                for threads in options.threads or [1, 2]
                for row in apart(options, "speed", *chosen, *durations, "--rounds", str(options.rounds), str(threads))
            ],
        }
    print(json.dumps(results, indent=2)) if options.json else show(results, lengths)


if __name__ == "__main__":
    main()
