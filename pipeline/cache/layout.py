"""Which rows of the cache belong to which utterance: decided before the teacher runs, from its framing and from
sample counts alone.

A *pack* is ``pack_frames`` rows: the unit of work, of writing and of commits. An utterance is whole in one pack and
starts on a chunk boundary, so no chunk has two owners. Worked by hand, with chunks of 128 and packs of 256 rows,
and wav2vec 2.0's framing:

    samples   frames   rows used   pack   start_frame
     16,000       49         128      0             0
     64,000      199         256      1           256      (128 rows are left in pack 0: too few)
        300        0           0      1           512      (too short for one frame: quarantined, uses no row)
     16,000       49         128      2           512
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from gdist.pipeline.cache.entries import Coded, Entries, Numbers
from gdist.pipeline.framing import SAMPLE_RATE, WAV2VEC2, Framing

CHUNK_FRAMES = 128
PACK_FRAMES = 16_384


@dataclass(frozen=True)
class Lengths(Sequence[tuple[str, int, str | None]]):
    """What is known of each utterance before it is placed: (id, samples at 16 kHz, known problem or None).

    Attributes:
        ids: Arrow strings [N].
        samples: int64 [N].
        problems: row → why it cannot be used, for the few rows that have such a reason.
    """

    ids: pa.Array
    samples: Numbers
    problems: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: Iterable[tuple[str, int, str | None]]) -> "Lengths":
        """Make columns of rows."""
        if isinstance(lengths, cls):
            return lengths
        rows = list(lengths)
        problems = {row: problem for row, (_, _, problem) in enumerate(rows) if problem}
        samples = np.array([samples for _, samples, _ in rows], np.int64)
        return cls(pa.array([name for name, _, _ in rows], pa.string()), samples, problems)

    def take(self, rows: Numbers) -> "Lengths":
        """Return these rows, in this order."""
        problems = {}
        if self.problems:
            place_of = {row: place for place, row in enumerate(rows.tolist())}
            problems = {place_of[row]: why for row, why in self.problems.items() if row in place_of}
        return Lengths(self.ids.take(pa.array(rows)), self.samples[rows], problems)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: Any) -> Any:
        assert isinstance(row, int), "take() returns several"
        return self.ids[row].as_py(), int(self.samples[row]), self.problems.get(row)

    def __iter__(self) -> Iterator[tuple[str, int, str | None]]:
        return (self[row] for row in range(len(self)))


def place(
    lengths: Iterable[tuple[str, int, str | None]],
    max_samples: int,
    chunk_frames: int = CHUNK_FRAMES,
    pack_frames: int = PACK_FRAMES,
    first_pack: int = 0,
    framing: Framing = WAV2VEC2,
) -> Entries:
    """Give each (id, samples at 16 kHz, known problem or None) its rows, in the order given.

    Args:
        lengths: rows, or the columns of :class:`Lengths`.
        max_samples: longer utterances get no rows; neither do those that the teacher cannot process, because they are
            too short or too long for it.
        first_pack: where to begin; the packs before it belong to other utterances.
        framing: the teacher's.
    """
    lengths = Lengths.of(lengths)
    samples, pack_samples = lengths.samples, pack_frames * framing.hop
    problems = dict(lengths.problems)
    longest = min(max_samples, pack_samples, framing.longest or max_samples)
    unusable = (samples > longest) | (samples < framing.fewest)
    for row in np.flatnonzero(unusable).tolist():
        problems.setdefault(row, _unusable(int(samples[row]), max_samples, pack_samples, framing))
    unusable[list(problems)] = True
    frames = np.where(unusable, 0, framing.num_frames(samples)).astype(np.int32)
    # Frames overlap, so a waveform may need a few rows more than there are frames.
    held = np.where(unusable, 0, -(-framing.num_rows(samples) // chunk_frames) * chunk_frames)
    packs, starts = _placed(held, pack_frames, first_pack)
    return Entries(
        {
            "id": lengths.ids,
            "pack": packs,
            "start_frame": starts,
            "num_frames": frames,
            "num_samples": samples,
            "problem": _sparse(problems, len(lengths)),
        },
        {},
    )


def _placed(held: Numbers, pack_frames: int, first_pack: int) -> tuple[Numbers, Numbers]:
    """Return the pack and the first row of utterances that hold this many rows each.

    A pack is filled in order until the next utterance does not fit. An utterance without rows stays in the pack of
    those before it, also where that pack is full and its own first row is already the next pack's.
    """
    packs, ends = np.empty(len(held), np.int32), np.cumsum(held)
    starts = ends - held  # without the rows that are left over at the ends of packs
    first, pack = 0, first_pack
    while first < len(held):
        before = int(starts[first])
        last = int(np.searchsorted(ends, before + pack_frames, side="right"))
        packs[first:last] = pack
        starts[first:last] += pack * pack_frames - before
        first, pack = last, pack + 1
    return packs, starts


def _sparse(problems: Mapping[int, str], size: int) -> Coded:
    """Return a column of texts that are mostly missing."""
    texts = sorted(set(problems.values()))
    number = {text: code for code, text in enumerate(texts)}
    codes = np.full(size, len(texts), np.int32)
    codes[list(problems)] = [number[problem] for problem in problems.values()]
    return Coded(codes, [*texts, None])


def _unusable(samples: int, max_samples: int, pack_samples: int, framing: Framing) -> str:
    if samples < framing.fewest:
        return f"too short: {samples} samples at 16 kHz, one frame needs {framing.fewest}"
    seconds = samples / SAMPLE_RATE
    if 0 < framing.longest <= min(max_samples, pack_samples):
        length = f"{-(-samples * 10 // SAMPLE_RATE) / 10:g}"  # rounded up, so that it is never the limit itself
        most = f"{framing.longest / SAMPLE_RATE:g}"
        return f"too long: {length} s, this teacher takes {most} s (manifest build --split-seconds {most} cuts it)"
    limit = f"the limit is {max_samples / SAMPLE_RATE:.0f} s"
    if pack_samples < max_samples:
        limit = f"a pack holds {pack_samples / SAMPLE_RATE:.0f} s"
    return f"too long: {seconds:.0f} s, {limit} (manifest build --split-seconds cuts it)"
