"""How fast a teacher is on this machine: its forward pass alone, over batches like those of extraction.

Axes: B batch, S samples.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gdist.pipeline import console
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.errors import TeacherError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.device import choose_device
from gdist.stages.extract.batching import OVERHEAD_SAMPLES, batches
from gdist.stages.extract.plan import BATCH_SECONDS
from gdist.stages.teachers import Teacher, load_teacher

ASSUMED_SPEED = 1000.0  # × real time, for a Base model on a data-center GPU
TIMED_SECONDS = 5.0
TIMED_BATCHES = 3  # at least, however long they take


def speed_of(
    name: str,
    precision: str,
    device: str,
    given: float | None,
    measure: bool | None,
    packs: Sequence[Sequence[Entry]],
    last_layer: int,
    window: str | None = None,
) -> dict[str, Any]:
    """Find the speed of a teacher.

    Args:
        given: the speed that the user gave, × real time.
        measure: whether to measure; None measures if there is a GPU and the weights can be loaded.

    Returns:
        the ``realtime_factor``, its ``source`` (measured, given or assumed), and the ``device`` and the number of
        ``batches`` that it was measured with.

    Raises:
        TeacherError: a measurement was requested, and the weights cannot be loaded.
    """
    speed: dict[str, Any] = {"realtime_factor": given or ASSUMED_SPEED, "source": "given" if given else "assumed"}
    speed |= {"device": None, "batches": 0}
    device = choose_device(device, "--device ")
    if given or measure is False or (measure is None and device == "cpu"):
        return speed
    try:
        teacher = load_teacher(name, precision=precision, device=device, window=window)
    except TeacherError as error:
        if measure:
            raise
        console.say(f"the teacher's speed was not measured: {error.message}", style="yellow")
        return speed
    console.say(f"timing {teacher.num_params / 1e6:.1f} M parameters on {device} in {precision} …")
    batch_seconds = BATCH_SECONDS[device.partition(":")[0]]
    factor, timed = measure_speed(teacher, packs, batch_seconds, last_layer, TIMED_SECONDS)
    return {"realtime_factor": factor, "source": "measured", "device": device, "batches": timed}


def measure_speed(
    teacher: Teacher, packs: Sequence[Sequence[Entry]], batch_seconds: float, last_layer: int, seconds: float
) -> tuple[float, int]:
    """Measure the speed in seconds of audio per second, as the median over batches.

    Padding takes time but does not count as audio. The audio is noise, since its content does not affect the speed.
    The lengths are those of whole packs of the corpus.

    Args:
        seconds: the minimum time to measure for. At least three batches are timed, after one that is not timed.

    Returns:
        the speed, and the number of batches that were timed.
    """
    size, overhead = int(batch_seconds * SAMPLE_RATE), OVERHEAD_SAMPLES[teacher.device.type]
    cut = [batch for entries in packs for batch in batches(entries, size, overhead, teacher.least_samples)]
    assert cut, "a corpus has at least one usable utterance"
    # The first batch has the longest utterances of its pack. It warms up the allocator and the choice of kernels. The
    # others are shuffled, since few may be timed and a pack's batches are ordered by length.
    _time(teacher, cut[0], last_layer)
    order = np.random.default_rng(0).permutation(len(cut))
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < TIMED_BATCHES or time.perf_counter() - began < seconds:
        batch = cut[order[len(rates) % len(cut)]]
        audio_seconds = sum(entry.num_samples for entry in batch) / SAMPLE_RATE
        rates.append(audio_seconds / _time(teacher, batch, last_layer))
    return statistics.median(rates), len(rates)


def _time(teacher: Teacher, batch: Sequence[Entry], last_layer: int) -> float:
    """The seconds that one batch takes, from its samples on the host to its last layer."""
    num_samples_B = torch.tensor([entry.num_samples for entry in batch])
    generator = torch.Generator().manual_seed(0)
    waveform_BS = torch.randn(len(batch), int(num_samples_B.max()), generator=generator) * 0.1
    _wait(teacher.device)
    began = time.perf_counter()
    for _ in teacher.hidden_states(waveform_BS, num_samples_B, last_layer):
        pass
    _wait(teacher.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    """Wait until the device is done, since calls on a GPU return earlier."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
