"""What an index says of utterances: each has an id, and rows of its own within its pack, as many as its audio needs.

Axes: N utterances.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gdist.pipeline.cache.entries import Coded, Entries, Numbers
from gdist.pipeline.framing import Framing
from gdist.pipeline.ids import LONGEST_ID, first_obeyed
from gdist.pipeline.printing import OBEYED
from gdist.pipeline.schema import SchemaError

STEP = 1 << 20  # utterances at a time
FEW = 1 << 16  # utterances whose ids are compared at once: of more, it takes longer than all else, and by_id does it
_OBEYED = re.compile(f"[{OBEYED}]")


def require_line(name: str) -> None:
    """Raise SchemaError for the name of a column that a terminal would obey."""
    if _OBEYED.search(name):
        raise SchemaError(f"its column {name!r:.60} has a name with control characters")


def require_places(entries: Entries, gdist: Mapping[str, Any], framing: Framing) -> None:
    """Check the places of all utterances; SchemaError names the first that cannot be."""
    _require_ids(entries.texts("id"))
    identity, usable, before, ordered = gdist["identity"], _without_problem(entries), 0, True
    counts, frames = np.zeros(gdist["packs"], np.int64), 0
    for first in range(0, len(entries), STEP):
        part = slice(first, first + STEP)
        packs, starts, stops = _rows(entries, part, usable[part], identity, framing, gdist["packs"])
        counts += np.bincount(packs, minlength=gdist["packs"])
        frames += int(entries.numbers("num_frames")[part].sum(dtype=np.int64))
        if len(starts):
            ordered = ordered and bool(starts[0] >= before and (starts[1:] >= stops[:-1]).all())
            before = int(stops[-1])
    if len(entries) and not counts.all():
        raise SchemaError(f"no utterance is in pack {int(counts.argmin())}")
    if frames != gdist["frames"]:
        raise SchemaError(f"its utterances have {frames} frames; the root document says {gdist['frames']}")
    if not ordered:
        _require_apart(entries, usable, identity, framing)


def _require_ids(ids: pa.Array) -> None:
    if not len(ids):
        return
    lengths = pc.min_max(pc.binary_length(ids)).as_py()
    if not 0 < lengths["min"] <= lengths["max"] <= LONGEST_ID:
        raise SchemaError(
            f"it has an id of {lengths['min']} to {lengths['max']} bytes; 1 to {LONGEST_ID} are possible"
        )
    if len(ids) <= FEW and pc.count_distinct(ids).as_py() < len(ids):
        twice = pc.value_counts(ids).to_pylist()
        raise SchemaError(f"its id {next(each['values'] for each in twice if each['counts'] > 1)!r:.60} occurs twice")
    if (found := first_obeyed(ids)) >= 0:
        raise SchemaError(f"its id {ids[found].as_py()!r:.60} has control characters")


def _without_problem(entries: Entries) -> Numbers:
    """Return which utterances have no reason to be left out: bool [N]."""
    column = entries.columns["problem"]
    if isinstance(column, Coded):
        absent = np.array([value is None for value in column.values])
        found: Numbers = absent[column.codes]
    else:
        found = column.is_null().to_numpy(zero_copy_only=False)
    return found


def _rows(
    entries: Entries, part: slice, usable: Numbers, identity: Mapping[str, Any], framing: Framing, packs: int
) -> tuple[Numbers, Numbers, Numbers]:
    """Check utterances one by one. Returns their packs; and where the rows begin and end of those that have any."""
    pack, start, frames, samples = (
        entries.numbers(name)[part] for name in ("pack", "start_frame", "num_frames", "num_samples")
    )
    size, chunk = identity["pack_frames"], identity["chunk_frames"]

    def require(right: Numbers, what: str, among: Numbers | None = None) -> None:
        if not right.all():
            row = int(right.argmin()) if among is None else int(np.flatnonzero(among)[right.argmin()])
            name = entries.texts("id")[part.start + row].as_py()
            raise SchemaError(
                f"utterance {name!r:.60} {what} (pack {pack[row]}, start_frame {start[row]}, "
                f"num_frames {frames[row]}, num_samples {samples[row]})"
            )

    require((pack >= 0) & (pack < packs), f"is in none of the {packs} packs")
    require((samples >= 0) & (start >= 0) & (start <= packs * size), "begins outside of the packs")
    require((frames > 0) == usable, "has frames and a reason to have none, or neither")
    own_pack, own_start, own_samples = pack[usable], start[usable], samples[usable]
    require(own_samples <= size * framing.hop, "has more samples than a pack", usable)
    require(framing.num_frames(own_samples) == frames[usable], "has other frames than its samples give", usable)
    stop = own_start + -(-framing.num_rows(own_samples) // chunk) * chunk
    require(own_start % chunk == 0, "does not begin with a chunk", usable)
    require(
        (own_start >= own_pack * np.int64(size)) & (stop <= (own_pack + np.int64(1)) * size),
        "is not in its pack",
        usable,
    )
    return pack, own_start, stop


def _require_apart(entries: Entries, usable: Numbers, identity: Mapping[str, Any], framing: Framing) -> None:
    """Check that no two utterances share rows, where they are not in the order of their rows."""
    starts = entries.numbers("start_frame")[usable]
    chunk = identity["chunk_frames"]
    stops = starts + -(-framing.num_rows(entries.numbers("num_samples")[usable]) // chunk) * chunk
    order = np.argsort(starts, kind="stable")
    shared = starts[order][1:] < stops[order][:-1]
    if shared.any():
        at = np.flatnonzero(usable)[order[int(shared.argmax()) :][:2]]
        first, second = (entries.texts("id")[int(row)].as_py() for row in at)
        raise SchemaError(f"utterances {first!r:.60} and {second!r:.60} share rows")
