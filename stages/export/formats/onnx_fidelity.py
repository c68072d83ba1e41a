"""Real speech to evaluate a quantized student on: held-out utterances of its cache, or the bundled sentences.

Axes: S samples, T frames, D features.
"""

import torch
from torch import Tensor

from gdist.data_manifests import demo_folder
from gdist.pipeline import audio, framing
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import GdistError
from gdist.pipeline.loading.splits import choose_splits, data_config, usable_entries
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.run import Run
from gdist.stages.frontend.padding import normalize
from gdist.stages.students import Student

UTTERANCES = 16
MIN_SAMPLES, MAX_SAMPLES = framing.SAMPLE_RATE, 15 * framing.SAMPLE_RATE


def speech_of(run: Run) -> tuple[list[Tensor], str]:
    """Return some utterances ``[1, S]`` as recorded, and where they come from."""
    try:
        cache = Cache.open(run.provenance()["cache"])
        data = data_config(run.tables())
        splits = choose_splits(usable_entries(cache, True), data)
        entries = [entry for entry in splits["test"] or splits["valid"] if entry.num_samples >= MIN_SAMPLES]
        chosen = _spread(entries)
        if chosen:
            waveforms = cache.waveform([(entry, 0, entry.num_frames) for entry in chosen])
            speech = [audio.to_float(samples_S)[None, :MAX_SAMPLES] for samples_S in waveforms]
            return speech, f"the cache {cache.uri}"
    except (GdistError, OSError):
        pass  # the cache was moved or cannot be reached, and is not required
    return bundled(), "the bundled speech"


def bundled() -> list[Tensor]:
    """Return sentences that ship with gdist, ``[1, S]`` each."""
    usable = [u for u in Manifest.read(demo_folder() / "demo.parquet").utterances() if u.sample_rate == 16_000]
    long = [u for u in usable if (u.num_samples or 0) >= MIN_SAMPLES]
    waveforms = [audio.load_utterance(u.segment) for u in _spread(long)]
    return [audio.to_float(samples_S)[None, :MAX_SAMPLES] for samples_S in waveforms]


@torch.no_grad()
def as_recorded(student: Student, waveform_1S: Tensor) -> list[Tensor]:
    """Return the student's own hidden states of an utterance that is not yet normalized."""
    if student.config.do_normalize:
        waveform_1S = normalize(waveform_1S, torch.tensor([waveform_1S.shape[1]]))
    return list(student(waveform_1S).hidden_states)


def _spread[T](some: list[T]) -> list[T]:
    """Take items at regular intervals, so that all speakers of a sorted table occur."""
    return some[:: max(1, -(-len(some) // UTTERANCES))]
