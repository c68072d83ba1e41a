"""Which utterances share a batch: a pure function of their lengths, so a pack gives the same bytes every time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.framing import SAMPLE_RATE

# The cost of starting one more batch, in samples of padding. A GPU computes seconds of audio in the time in which a
# batch's kernels are launched: LibriSpeech's packs take 5 batches, not 13, for 5 % of padding. The kind
# of device is no part of a cache's identity, since last bits differ between devices anyway; on each kind the batches
# follow from the identity.
OVERHEAD_SAMPLES = {"cpu": 8_000, "cuda": 80_000}


def planned(entries: Sequence[Entry], identity: Mapping[str, Any], device: str) -> Iterator[list[Entry]]:
    """Yield the batches of a pack, which follow from the cache's identity and the kind of device."""
    samples = int(identity["batch_seconds"] * SAMPLE_RATE)
    return batches(entries, samples, OVERHEAD_SAMPLES[device], window_of(identity))


def window_of(identity: Mapping[str, Any]) -> int:
    """Return how many samples a cache's teacher computes for an utterance at least; 0 where it computes its own."""
    return int(identity.get("teacher", {}).get("window_samples", 0))


def batches(
    entries: Sequence[Entry],
    batch_samples: int,
    overhead: int = OVERHEAD_SAMPLES["cpu"],
    least_samples: int = 0,
) -> Iterator[list[Entry]]:
    """Cut the utterances, longest first, into batches with the least padding.

    The cuts minimize the padded samples plus ``overhead`` per batch, exactly (dynamic programming). Worked by hand,
    with lengths 10, 9, 4, 4 and an overhead of 3: one batch costs 40 + 3; {10, 9} and {4, 4} cost 20 + 3 + 8 + 3.

    Args:
        batch_samples: the largest size of a batch, padding included, unless a single utterance is longer.
        least_samples: shorter utterances count as so many: a teacher may compute a whole window for each of them.
    """
    ordered = sorted(entries, key=lambda entry: (-entry.num_samples, entry.start_frame))
    lengths = np.array([max(entry.num_samples, least_samples) for entry in ordered], dtype=np.int64)
    least = np.zeros(len(ordered) + 1, dtype=np.int64)  # the cost of the first n utterances
    first = np.zeros(len(ordered) + 1, dtype=np.int64)  # where the last batch of the first n utterances begins
    for stop in range(1, len(ordered) + 1):
        # A batch begins with its longest utterance, so the further back it begins, the larger it is.
        begin = max(0, stop - max(1, batch_samples // int(lengths[stop - 1])))
        starts = np.arange(begin, stop)
        padded = lengths[begin:stop] * (stop - starts)
        cost = least[begin:stop] + padded + overhead
        cost[(padded > batch_samples) & (starts < stop - 1)] = np.iinfo(np.int64).max
        best = int(cost.argmin())
        least[stop], first[stop] = cost[best], begin + best
    cuts = [len(ordered)]
    while cuts[-1]:
        cuts.append(int(first[cuts[-1]]))
    for start, stop in zip(cuts[::-1], cuts[-2::-1], strict=False):
        yield ordered[start:stop]
