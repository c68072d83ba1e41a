"""Which rows of the cache belong to which utterance: decided before the teacher runs, from sample counts alone.

A *pack* is ``pack_frames`` rows: the unit of work, of writing and of commits. An utterance is whole in one pack and
starts on a chunk boundary, so no chunk has two owners. Worked by hand, with chunks of 128 and packs of 256 rows:

    samples   frames   rows used   pack   start_frame
     16,000       49         128      0             0
     64,000      199         256      1           256      (128 rows are left in pack 0: too few)
        300        0           0      1           512      (too short for one frame: quarantined, uses no row)
     16,000       49         128      2           512
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gdist.pipeline import framing
from gdist.pipeline.errors import ManifestError

CHUNK_FRAMES = 128
PACK_FRAMES = 16_384


@dataclass(frozen=True)
class Entry:
    """One utterance's place in the cache.

    Attributes:
        start_frame: its first row, in every layer and in the waveform.
        num_frames: hidden-state rows; 0 when it cannot be used (too short, too long, unreadable when planned).
        num_samples: at 16 kHz.
        problem: why it has no rows, for its quarantine record; None when it has rows.
        labels: the manifest's label columns.
    """

    id: str
    pack: int
    start_frame: int
    num_frames: int
    num_samples: int
    problem: str | None = None
    labels: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def num_rows(self) -> int:
        """Rows of 320 samples that the waveform needs."""
        return framing.num_rows(self.num_samples) if self.num_frames else 0


def place(
    lengths: Iterable[tuple[str, int, str | None]],
    max_samples: int,
    chunk_frames: int = CHUNK_FRAMES,
    pack_frames: int = PACK_FRAMES,
    first_pack: int = 0,
) -> list[Entry]:
    """Give each (id, samples at 16 kHz, known problem or None) its rows, in the order given.

    Args:
        max_samples: longer utterances get no rows; neither do those that are too short for one frame.
        first_pack: where to begin; the packs before it belong to other utterances.
    """
    pack_samples = pack_frames * framing.HOP
    entries: list[Entry] = []
    next_row = first_pack * pack_frames
    for name, samples, known_problem in lengths:
        problem = known_problem or _unusable(samples, max_samples, pack_samples)
        frames = 0 if problem else framing.num_frames(samples)
        # Frames overlap, so a waveform may need up to two rows more than there are frames.
        held = 0 if problem else -(-framing.num_rows(samples) // chunk_frames) * chunk_frames
        if next_row % pack_frames + held > pack_frames:
            next_row = (next_row // pack_frames + 1) * pack_frames
        # The row after a pack's last already belongs to the next pack; an utterance without rows stays in this one.
        pack = (
            next_row // pack_frames
            if held or next_row % pack_frames
            else max(next_row // pack_frames - 1, first_pack)
        )
        entries.append(Entry(name, pack, next_row, frames, samples, problem))
        next_row += held
    return entries


def _unusable(samples: int, max_samples: int, pack_samples: int) -> str | None:
    if samples > min(max_samples, pack_samples):
        limit = f"the limit is {max_samples / framing.SAMPLE_RATE:.0f} s"
        if pack_samples < max_samples:
            limit = f"a pack holds {pack_samples / framing.SAMPLE_RATE:.0f} s"
        seconds = samples / framing.SAMPLE_RATE
        return f"too long: {seconds:.0f} s, {limit} (manifest build --split-seconds cuts it)"
    if framing.num_frames(samples) == 0:
        return f"too short: {samples} samples at 16 kHz, one frame needs {framing.RECEPTIVE_FIELD}"
    return None


def to_table(entries: Sequence[Entry], labels: pa.Table | None = None) -> pa.Table:
    """Build the index: one row per utterance, including the manifest's label columns.

    Raises:
        ManifestError: a label column has the name of one of the index's own columns.
    """
    columns = {
        "id": pa.array([e.id for e in entries], pa.string()),
        "pack": pa.array([e.pack for e in entries], pa.int32()),
        "start_frame": pa.array([e.start_frame for e in entries], pa.int64()),
        "num_frames": pa.array([e.num_frames for e in entries], pa.int32()),
        "num_samples": pa.array([e.num_samples for e in entries], pa.int64()),
        "problem": pa.array([e.problem for e in entries], pa.string()),
    }
    if labels is not None:
        taken = [name for name in labels.column_names if name in columns]
        if taken:
            raise ManifestError(
                f"the cache's index has a column `{taken[0]}` of its own", "rename the manifest's label"
            )
        columns |= {name: labels[name].combine_chunks() for name in labels.column_names}
    return pa.table(columns)


def from_table(table: pa.Table) -> list[Entry]:
    """Invert :func:`to_table`."""
    own = ("id", "pack", "start_frame", "num_frames", "num_samples", "problem")
    rows = table.select(own).to_pylist()
    labels = table.drop_columns(list(own)).to_pylist() if table.num_columns > len(own) else [{} for _ in rows]
    return [Entry(**row, labels=label) for row, label in zip(rows, labels, strict=True)]
