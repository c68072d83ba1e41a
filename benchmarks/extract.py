"""How close extraction comes to the teacher's own speed, and how far it is ahead of the loop that most people write.

    python benchmarks/extract.py --precision fp32 --precision bf16

Three ways to do the same work on the same speech take turns, so that other load on the machine affects all of them
equally:

    limit     the teacher's forward pass alone, on batches that are ready as tensors
    gdist     audio files → a committed cache: what `gdist extract` does after it has loaded the teacher
    loop      Hugging Face's model, one utterance at a time, and numpy.save for each; in a separate process, with the
              memory allocator's default settings

On a CPU it also prints the most that the cores could do (`roof`): the counted arithmetic of Hugging Face's forward
pass, all of it at the speed of the fastest matrix product.

It prints ratios of audio seconds per second. The teacher has WavLM Base's shapes and random weights, unless
``--teacher`` names another. Axes: B batch, S samples.
"""

import argparse
import json
import math
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
import torch
from timing import add_device, timed
from torch.utils.flop_counter import FlopCounterMode

from gdist.data_manifests import demo_folder
from gdist.pipeline import audio, framing
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.manifest.table import Manifest, Utterance
from gdist.stages.device import keep_freed_memory
from gdist.stages.extract.batching import planned
from gdist.stages.extract.extract import run_here
from gdist.stages.extract.plan import ExtractConfig, make_plan, measure
from gdist.stages.teachers import Teacher, load_teacher
from gdist.stages.teachers.packed import PackedLinear, can_pack
from gdist.stages.teachers.precision import PRECISIONS


def wavlm_base(folder: Path) -> str:
    """Save a checkpoint with WavLM Base's shapes and random weights, whose arithmetic is that of the real one."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    torch.manual_seed(0)
    WavLMModel(WavLMConfig()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return str(folder)


def speech(minutes: float, join_seconds: float, out: Path) -> Path:
    """Write a manifest and FLAC files of bundled sentences, joined until each file has ``join_seconds``.

    Sentences are used again until there are ``minutes`` of speech.
    """
    demo = Manifest.read(demo_folder() / "demo.parquet").measured()
    sentences = [
        audio.load_utterance(u.segment) for u in demo.utterances() if (u.num_samples or 0) >= 2 * (u.sample_rate or 0)
    ]
    order = np.random.default_rng(0).permutation(len(sentences))
    turn = 0
    rows: list[dict[str, Any]] = []
    while sum(row["num_samples"] for row in rows) < minutes * 60 * framing.SAMPLE_RATE:
        pieces: list[Any] = []
        while not pieces or sum(map(len, pieces)) < join_seconds * framing.SAMPLE_RATE:
            pieces.append(sentences[order[turn % len(order)]])
            turn += 1
        name, samples_S = f"u{len(rows):04d}", np.concatenate(pieces)
        soundfile.write(out.parent / f"{name}.flac", samples_S, framing.SAMPLE_RATE, subtype="PCM_16")
        length = {"num_samples": len(samples_S), "sample_rate": framing.SAMPLE_RATE}
        rows.append({"id": name, "path": f"{name}.flac"} | length)
    Manifest(pa.Table.from_pylist(rows), str(out.parent)).write(out)
    return out


def limit(teacher: Teacher, ready: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """The teacher's forward pass alone."""
    for waveform_BS, num_samples_B in ready:
        for _ in teacher.hidden_states(waveform_BS, num_samples_B):
            pass


def loop(model: Any, utterances: list[Utterance], precision: str, half: bool, out: Path) -> None:
    """The loop that most people write."""
    device, autocast = next(model.parameters()).device, PRECISIONS[precision]
    for utterance in utterances:
        samples_S = audio.load_utterance(utterance.segment)
        with torch.inference_mode(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            hidden = model(audio.to_float(samples_S)[None].to(device), output_hidden_states=True).hidden_states
        stacked = torch.stack([h.float() for h in hidden])
        np.save(out / f"{utterance.id}.npy", (stacked.half() if half else stacked).cpu().numpy())


def loop_process(
    turns: Any, source: str, device: str, utterances: list[Utterance], precision: str, half: bool, out: Path
) -> None:
    """Run the loop each time a message arrives, and reply with the seconds it took."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(source).eval().to(device)
    loop(model, utterances[:2], precision, half, out)  # warm up
    turns.send("ready")
    while turns.recv():
        began = time.perf_counter()
        loop(model, utterances, precision, half, out)
        turns.send(time.perf_counter() - began)


def arithmetic(source: str, seconds: float) -> float:
    """Floating-point operations of Hugging Face's forward pass over ``seconds`` of audio."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(source).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, int(seconds * framing.SAMPLE_RATE)))
    return float(counter.get_total_flops())


def fastest_product(precision: str) -> float:
    """Operations per second of the fastest matrix product measured on this CPU, in feed-forward shapes."""
    dtype = PRECISIONS[precision] or torch.float32
    hidden = torch.randn(1600, 768).to(dtype)
    linear = torch.nn.Linear(768, 3072).requires_grad_(False)
    ways = [linear.to(dtype)]
    if can_pack(torch.device("cpu"), dtype):
        ways.append(PackedLinear(linear, dtype))  # type: ignore[arg-type]
    best = math.inf
    for way in ways * 20:
        began = time.perf_counter()
        way(hidden)
        best = min(best, time.perf_counter() - began)
    return 2 * 1600 * 768 * 3072 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="a checkpoint [default: WavLM Base's shapes]")
    parser.add_argument("--precision", action="append", choices=list(PRECISIONS))
    parser.add_argument("--encoding", action="append", help="[default: fp32 for fp32, else fp16]")
    add_device(parser, "auto")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument(
        "--join-seconds", type=float, default=9.0, help="join sentences into utterances of at least this"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pack-frames", type=int, default=4096, help="small, so that a short run has several packs")
    parser.add_argument("--no-loop", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = options.teacher or wavlm_base(folder / "wavlm-base")
        manifest_path = speech(options.minutes, options.join_seconds, folder / "speech.parquet")
        results = [
            compare(options, source, manifest_path, precision, encoding, folder)
            for precision in options.precision or ["fp32", "bf16"]
            for encoding in options.encoding or ["fp32" if precision == "fp32" else "fp16"]
        ]
    if options.json:
        print(json.dumps(results, indent=2))


def compare(
    options: argparse.Namespace, source: str, manifest_path: Path, precision: str, encoding: str, folder: Path
) -> dict[str, Any]:
    """Time all ways with one precision and encoding; print and return their speeds and ratios."""
    config = ExtractConfig(
        source, str(manifest_path), str(folder / "cache"), precision=precision, encoding=encoding,
        pack_frames=options.pack_frames, device=options.device,
    )  # fmt: skip
    manifest = Manifest.read(manifest_path)
    teacher = load_teacher(source, precision=precision, device=options.device)
    utterances, samples = measure(manifest)
    plan = make_plan(config, teacher, manifest, samples, options.device)
    seconds = sum(entry.num_samples for entry in plan.entries) / framing.SAMPLE_RATE
    ready = []
    for pack in range(plan.packs):
        entries = [entry for entry in plan.entries if entry.pack == pack and entry.num_frames]
        for members in planned(entries, plan.identity, teacher.device.type):
            waveform_BS = torch.zeros(len(members), max(entry.num_samples for entry in members))
            for row, entry in enumerate(members):
                found = utterances[entry.id]
                samples_S = audio.load_utterance(found.segment)
                waveform_BS[row, : len(samples_S)] = audio.to_float(samples_S)
            ready.append((waveform_BS.to(teacher.device), torch.tensor([entry.num_samples for entry in members])))

    def gdist() -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        cache = Cache.create(str(folder / "cache"), plan)
        run_here(cache, teacher, cache.todo(), utterances, lambda seconds, note: None)
        assert not cache.todo()

    ways: dict[str, Callable[[], float]] = {
        "limit": lambda: timed(lambda: limit(teacher, ready), options.device),
        "gdist": lambda: timed(gdist, options.device),
    }
    if not options.no_loop:
        (folder / "npy").mkdir(exist_ok=True)
        turns, theirs = multiprocessing.Pipe()
        ordered = [utterances[entry.id] for entry in plan.entries]
        arguments = (theirs, source, options.device, ordered, precision, encoding != "fp32", folder / "npy")
        context = multiprocessing.get_context("spawn")
        context.Process(target=loop_process, args=arguments, daemon=True).start()
        turns.recv()  # it is ready

        def in_turn() -> float:
            turns.send(True)
            return float(turns.recv())

        ways["loop"] = in_turn
    if options.device == "cpu":
        keep_freed_memory()  # as extraction does
    limit(teacher, ready[:1])  # warm up
    took: dict[str, list[float]] = {name: [] for name in ways}
    products = []
    for _ in range(options.rounds):
        products.append(fastest_product(precision) if options.device == "cpu" else math.nan)
        for name, way in ways.items():
            took[name].append(way())
    speed = {name: seconds / statistics.median(times) for name, times in took.items()}
    ratios = {
        f"gdist/{name}": statistics.median(t / g for t, g in zip(times, took["gdist"], strict=True))
        for name, times in took.items()
        if name != "gdist"
    }
    if options.device == "cpu":
        mean = seconds / len(plan.entries)
        speed["roof"] = max(products) / (arithmetic(source, mean) / mean)
        ratios |= {f"roof/{name}": speed["roof"] / speed[name] for name in ("limit", "loop") if name in speed}
    if not options.no_loop:
        turns.send(False)
    lengths = [entry.num_samples / framing.SAMPLE_RATE for entry in plan.entries]
    shown = ", ".join(f"{name} {value:.1f}" for name, value in speed.items())
    print(f"{precision} stored in {encoding}, {options.device}, {torch.get_num_threads()} threads, {seconds:.0f} s "
          f"(utterances of {min(lengths):.0f} to {max(lengths):.0f} s) "
          f"in {plan.packs} packs; × real time: {shown}")  # fmt: skip
    print("  " + ", ".join(f"{name} = {value:.3f}" for name, value in ratios.items()), flush=True)
    return {"precision": precision, "encoding": encoding, "device": options.device, "speed": speed, "ratios": ratios}


if __name__ == "__main__":
    main()
