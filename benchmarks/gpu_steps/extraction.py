"""Extraction against what bounds it, and against the loop that most people write.

    forward     the teacher's forward pass alone, on batches that are on the device
    sink        the rest alone: hidden states that are in the device's memory → encoded → written → receipts
    gdist       audio files → a committed cache, what `gdist extract` does after it has loaded the teacher
    loop        Hugging Face's model, one utterance at a time, and numpy.save for each

The aims: gdist ≥ 0.95 of the slower of forward and sink, and ≥ 10 times the loop. Speeds are × real time.

Axes: B batch, S samples, T frames, D features.
"""

import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from extract import limit, loop
from torch import Tensor

from gdist.pipeline import audio, framing
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.extract.batching import batches
from gdist.stages.extract.extract import run_here
from gdist.stages.extract.plan import ExtractConfig, make_plan, measure
from gdist.stages.teachers import load_teacher
from gpu_steps.setting import Say, Setting

Ready = list[tuple[Tensor, Tensor]]


class FromMemory:
    """A teacher that computes nothing: each layer is the beginning of the same random hidden states."""

    def __init__(self, teacher: Any, longest: int, largest: int) -> None:
        self._teacher = teacher
        self._states_BTD = torch.randn(largest, longest, teacher.dim, device=teacher.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def hidden_states(
        self, waveform_BS: Tensor, num_samples_B: Tensor, last_layer: int | None = None
    ) -> Iterator[Tensor]:
        """As a teacher's; padding is not zero, which nothing here looks at."""
        frames = self._teacher.framing.num_frames(int(num_samples_B.max()))
        for _ in range((self._teacher.num_layers if last_layer is None else last_layer) + 1):
            yield self._states_BTD[: len(num_samples_B), :frames]


def run(setting: Setting, say: Say) -> None:
    """Compare the ways for each precision and encoding."""
    kinds = (("bf16", "fp16"), ("bf16", "int8"), ("fp32", "fp16"))
    for precision, encoding in kinds[: 1 if setting.small else None]:
        setting.forget_peak()
        figures = compare(setting, precision, encoding, with_loop=encoding == "fp16")
        say(**{f"{precision} to {encoding}": figures | {"peak_GB": setting.peak()}})


def compare(setting: Setting, precision: str, encoding: str, with_loop: bool) -> dict[str, float]:
    """The speeds of all ways, in turns."""
    folder = setting.work / "extracted"
    config = ExtractConfig(
        setting.teacher, str(setting.speech), str(folder), precision=precision, encoding=encoding,
        pack_frames=setting.pack_frames, device=setting.device,
    )  # fmt: skip
    manifest = Manifest.read(setting.speech)
    teacher = load_teacher(setting.teacher, precision=precision, device=setting.device)
    utterances, lengths = measure(manifest)
    plan = make_plan(config, teacher, manifest, lengths, setting.device)
    seconds = sum(entry.num_samples for entry in plan.entries) / framing.SAMPLE_RATE
    ready = on_device(setting, plan, utterances)
    longest = teacher.framing.num_frames(max(entry.num_samples for entry in plan.entries))
    null = FromMemory(teacher, longest, max(len(num_samples_B) for _, num_samples_B in ready))
    written = 0

    def extracted(by: Any) -> None:
        nonlocal written
        shutil.rmtree(folder, ignore_errors=True)
        cache = Cache.create(str(folder), plan)
        run_here(cache, by, cache.todo(), utterances, lambda seconds, note: None)
        written = sum(int(meta["size"]) for meta in cache.storage.objects().values())

    ways: dict[str, Callable[[], None]] = {
        "forward": lambda: limit(teacher, ready),
        "sink": lambda: extracted(null),
        "gdist": lambda: extracted(teacher),
    }
    limit(teacher, ready[:2])  # warm up
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 if setting.small else 3):
        for name, way in ways.items():
            took[name].append(setting.seconds(way))
    figures = {name: seconds / statistics.median(times) for name, times in took.items()}
    figures["written_GBps"] = written / 1e9 / statistics.median(took["gdist"])
    figures["sink_GBps"] = written / 1e9 / statistics.median(took["sink"])
    figures["of_the_slower"] = figures["gdist"] / min(figures["forward"], figures["sink"])
    if with_loop:
        some = [utterances[entry.id] for entry in plan.entries[: 2 if setting.small else 24]]
        figures["loop"] = in_a_loop(setting, some, precision)
        figures["over_loop"] = figures["gdist"] / figures["loop"]
    shutil.rmtree(folder, ignore_errors=True)
    return figures


def on_device(setting: Setting, plan: Any, utterances: Mapping[str, Any]) -> Ready:
    """The batches of extraction, as tensors on the device."""
    ready: Ready = []
    for pack in range(plan.packs):
        entries = [entry for entry in plan.entries if entry.pack == pack and entry.num_frames]
        for members in batches(entries, int(plan.identity["batch_seconds"] * framing.SAMPLE_RATE)):
            waveform_BS = torch.zeros(len(members), max(entry.num_samples for entry in members))
            for row, entry in enumerate(members):
                found = utterances[entry.id]
                samples_S = audio.load_utterance(found.segment)
                waveform_BS[row, : len(samples_S)] = audio.to_float(samples_S)
            num_samples_B = torch.tensor([entry.num_samples for entry in members])
            ready.append((waveform_BS.to(setting.device), num_samples_B))
    return ready


def in_a_loop(setting: Setting, some: list[Any], precision: str) -> float:
    """The speed of the loop over some utterances."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(setting.teacher).eval().to(setting.device)
    out = setting.work / "npy"
    out.mkdir(exist_ok=True)
    loop(model, some[:2], precision, True, out)  # warm up
    took = setting.seconds(lambda: loop(model, some, precision, True, out))
    return float(sum(utterance.num_samples / utterance.sample_rate for utterance in some)) / took
