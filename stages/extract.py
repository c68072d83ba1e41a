"""Stage one, read top to bottom: plan → map (audio → teacher → encoded rows, a pack at a time) → commit.

While the teacher runs on one pack, the next pack's audio is decoded and the previous pack is written. Memory holds at
most three packs, however long the corpus.

Axes: B batch, T frames, D features, S samples.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline import audio, console, framing
from gdist.pipeline.cache import Cache, require_same
from gdist.pipeline.encodings import unstorable
from gdist.pipeline.errors import AudioError, CacheError
from gdist.pipeline.layout import Entry
from gdist.pipeline.manifest import Manifest, Utterance
from gdist.pipeline.plan import WAVEFORM, Plan, layer_name, remove
from gdist.pipeline.storage import Storage
from gdist.stages.device import choose_device
from gdist.stages.extract_plan import AUDIO_THREADS, ExtractConfig, describe, make_plan, measure
from gdist.stages.teachers import Teacher, load_teacher

Rows = dict[str, np.ndarray[Any, Any]]
Loaded = tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]
"""(utterance id → int16 samples at 16 kHz, utterance id → why it cannot be used)"""


def extract(config: ExtractConfig, show_progress: bool = True) -> dict[str, Any]:
    """Run the teacher over the manifest into the cache, or finish what an earlier run began.

    Returns:
        the fields of ``gdist extract --json`` (see docs/commands.md).
    """
    began = time.monotonic()
    manifest = Manifest.read(config.manifest)
    device = choose_device(config.device, "--device ")
    teacher = load_teacher(config.teacher, precision=config.precision, device=device, final_norm=config.final_norm)
    utterances, lengths = measure(manifest)
    plan = make_plan(config, teacher, manifest, lengths, device)
    if config.dry_run:
        return describe(plan, done=0 if config.restart else packs_done(config.cache, plan))
    if config.restart:
        remove(Storage(config.cache, create=True))
    cache = Cache.create(config.cache, plan)

    done = cache.done()
    todo = [pack for pack in range(cache.packs) if pack not in done]
    total, before = audio_seconds(cache, range(cache.packs)), audio_seconds(cache, done)
    if done and todo:
        console.say(f"resuming: {len(done)} of {cache.packs} packs are done")
    batch_samples = int(plan.identity["batch_seconds"] * framing.SAMPLE_RATE)
    mapping = time.monotonic()
    heard = 0.0
    with (
        console.progress("extract", total, "s of audio", start=before, enabled=show_progress) as advance,
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
    ):

        def report(seconds: float) -> None:
            nonlocal heard
            heard += seconds
            advance(seconds, f"{heard / (time.monotonic() - mapping):.0f}× real time")

        upcoming = [reader.submit(read_audio, cache, pack, utterances) for pack in todo[:1]]
        writing: Future[Any] | None = None
        for position, pack in enumerate(todo):
            waveforms, quarantine = upcoming.pop().result()
            upcoming += [reader.submit(read_audio, cache, later, utterances) for later in todo[position + 1 :][:1]]
            rows, statistics = run_pack(cache, teacher, pack, waveforms, quarantine, batch_samples, report)
            if writing is not None:
                writing.result()  # one pack is written while the next is computed, never more
            writing = writer.submit(cache.commit, pack, rows, quarantine, statistics)
        if writing is not None:
            writing.result()
    return summarize(cache, resumed=len(done), new_seconds=total - before, seconds=time.monotonic() - began)


# --- map ------------------------------------------------------------------------------------------------------------


def read_audio(cache: Cache, pack: int, utterances: dict[str, Utterance]) -> Loaded:
    """Decode a pack's utterances in threads. What cannot be used comes back with its reason."""
    quarantine = {entry.id: entry.problem for entry in cache.pack_entries(pack) if entry.problem}

    def one(entry: Entry) -> np.ndarray[Any, Any] | str:
        utterance = utterances[entry.id]
        if utterance.num_samples is None or utterance.sample_rate is None:  # it had a length when it was planned
            return f"can no longer be read: {utterance.path}"
        try:
            samples_S = audio.load_utterance(
                utterance.path, utterance.start, utterance.num_samples, utterance.sample_rate
            )
        except AudioError as error:
            return error.message
        if len(samples_S) != entry.num_samples:
            return f"changed: {len(samples_S)} samples at 16 kHz, {entry.num_samples} when planned: {utterance.path}"
        return samples_S

    usable = [entry for entry in cache.pack_entries(pack) if entry.num_frames]
    waveforms: dict[str, np.ndarray[Any, Any]] = {}
    with ThreadPoolExecutor(AUDIO_THREADS) as pool:
        for entry, loaded in zip(usable, pool.map(one, usable), strict=True):
            if isinstance(loaded, str):
                quarantine[entry.id] = loaded
            else:
                waveforms[entry.id] = loaded
    return waveforms, quarantine


def batches(entries: list[Entry], batch_samples: int) -> Iterator[list[Entry]]:
    """Utterances of like length together; a batch holds at most ``batch_samples``, padding included (or one)."""
    batch: list[Entry] = []
    for entry in sorted(entries, key=lambda e: (-e.num_samples, e.start_frame)):
        if batch and batch[0].num_samples * (len(batch) + 1) > batch_samples:
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch


def run_pack(
    cache: Cache,
    teacher: Teacher,
    pack: int,
    waveforms: dict[str, np.ndarray[Any, Any]],
    quarantine: dict[str, str],
    batch_samples: int,
    report: Callable[[float], None],
) -> tuple[Rows, dict[str, Any]]:
    """One pack's encoded rows of every array, and its statistics. Adds to ``quarantine`` what cannot be stored."""
    rows = {name: spec.empty_pack() for name, spec in cache.specs.items()}
    squares: dict[int, float] = dict.fromkeys(cache.layers, 0.0)
    largest: dict[int, float] = dict.fromkeys(cache.layers, 0.0)
    base = pack * cache.identity["pack_frames"]
    frames = 0
    for batch in batches([e for e in cache.pack_entries(pack) if e.id in waveforms], batch_samples):
        num_samples_B = torch.tensor([entry.num_samples for entry in batch])
        waveform_BS = torch.zeros(len(batch), int(num_samples_B.max()))
        for row, entry in enumerate(batch):
            waveform_BS[row, : entry.num_samples] = audio.to_float(waveforms[entry.id])
        unusable: dict[int, str] = {}
        sizes: dict[int, tuple[Tensor, Tensor]] = {}
        for layer, hidden_BTD in enumerate(teacher.hidden_states(waveform_BS, num_samples_B)):
            if layer not in squares:
                continue
            sizes[layer] = (hidden_BTD.double().square().sum((1, 2)), hidden_BTD.abs().amax((1, 2)))
            if unstorable(hidden_BTD, cache.encoding):
                for row, entry in enumerate(batch):
                    why = unstorable(hidden_BTD[row, : entry.num_frames], cache.encoding)
                    if why and row not in unusable:
                        unusable[row] = f"layer {layer}: {why}"
            stored_BTD = cache.encoding.encode(hidden_BTD)
            for row, entry in enumerate(batch):
                start = entry.start_frame - base
                rows[layer_name(layer)][start : start + entry.num_frames] = stored_BTD[row, : entry.num_frames]
        for row, entry in enumerate(batch):
            start = entry.start_frame - base
            if row in unusable:
                quarantine[entry.id] = unusable[row]
                for layer in cache.layers:
                    name = layer_name(layer)
                    rows[name][start : start + entry.num_frames] = cache.specs[name].fill_value
                continue
            rows[WAVEFORM][start : start + entry.num_rows].reshape(-1)[: entry.num_samples] = waveforms[entry.id]
            frames += entry.num_frames
        stored = [row for row in range(len(batch)) if row not in unusable]
        if stored:
            for layer, (squares_B, largest_B) in sizes.items():
                squares[layer] += float(squares_B[stored].sum())
                largest[layer] = max(largest[layer], float(largest_B[stored].max()))
        report(float(num_samples_B.sum()) / framing.SAMPLE_RATE)
    report(sum(e.num_samples for e in cache.pack_entries(pack) if e.num_frames and e.id not in waveforms) / 16_000)
    values = max(frames * cache.identity["dim"], 1)
    layers = {
        f"{layer:02d}": {"rms": (squares[layer] / values) ** 0.5, "max_abs": largest[layer]} for layer in cache.layers
    }
    return rows, {"frames": frames, "layers": layers}


# --- results --------------------------------------------------------------------------------------------------------


def audio_seconds(cache: Cache, packs: Iterable[int]) -> float:
    """Seconds of usable audio the packs hold."""
    samples = sum(entry.num_samples for pack in packs for entry in cache.pack_entries(pack) if entry.num_frames)
    return samples / framing.SAMPLE_RATE


def summarize(cache: Cache, resumed: int, new_seconds: float, seconds: float) -> dict[str, Any]:
    """What ``gdist extract`` reports of a complete cache."""
    receipts = cache.receipts()
    quarantined = {name: reason for receipt in receipts for name, reason in receipt["quarantine"].items()}
    stored = [entry for entry in cache.entries if entry.id not in quarantined]
    return {
        "utterances": len(stored),
        "frames": sum(entry.num_frames for entry in stored),
        "audio_seconds": sum(entry.num_samples for entry in stored) / framing.SAMPLE_RATE,
        "seconds": seconds,
        "realtime_factor": new_seconds / seconds,
        "bytes": sum(int(meta["size"]) for meta in cache.storage.objects().values()),
        "packs": cache.packs,
        "packs_resumed": resumed,
        "quarantined": len(quarantined),
        "quarantine": quarantined,
    }


def packs_done(uri: str, plan: Plan) -> int:
    """Packs that an earlier run of the same plan committed at ``uri``; 0 when there is no cache.

    Raises:
        CacheMismatchError: there is one, made from other inputs.
    """
    try:
        cache = Cache.open(uri)
    except CacheError:
        return 0
    require_same(uri, cache.gdist, plan)
    return len(cache.done())


def show(result: dict[str, Any], dry_run: bool) -> None:
    """The result for people."""
    amount = f"{result['utterances']} utterances, {console.duration(result['audio_seconds'])} of audio"
    if dry_run:
        console.say(f"would extract {amount}: {result['packs']} packs, at most {console.size(result['bytes'])}")
        console.say(f"{result['packs_resumed']} packs are there already; {result['objects']} objects in all")
    else:
        speed = f"{console.duration(result['seconds'])}, {result['realtime_factor']:.0f}× real time"
        console.say(f"{amount} in {console.size(result['bytes'])}; {speed}", style="green")
        if result["packs_resumed"]:
            console.say(f"{result['packs_resumed']} of {result['packs']} packs were there already")
    for name, reason in sorted(result["quarantine"].items()):
        console.say(f"quarantined {name}: {reason}", style="yellow")
