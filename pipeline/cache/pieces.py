"""Which bytes of a shard are read together: pieces of chunks, and runs of pieces."""

from collections.abc import Sequence
from typing import NamedTuple

Rows = tuple[int, int]  # [start, stop)


class Piece(NamedTuple):
    """Rows of one chunk: where its bytes are in the shard, which of its rows to read, where to put them, and whether
    they may be read straight into that place."""

    start: int
    stop: int
    first: int
    last: int
    row: int
    plain: bool


def join(ranges: Sequence[Rows]) -> list[Rows]:
    """Join ranges, which are in order, into fewer requests: over the smallest gaps, as long as these add no more than
    a tenth to the bytes.

    By hand: the ranges 0–100, 104–200 and 900–1000 become 0–200 and 900–1000, since the gap of 4 bytes is less than
    a tenth of 296, and the gap of 700 is not.
    """
    gaps = sorted((ranges[place + 1][0] - ranges[place][1], place) for place in range(len(ranges) - 1))
    spare = sum(stop - start for start, stop in ranges) // 10
    bridged = set()
    for gap, place in gaps:
        spare -= max(gap, 0)
        if spare < 0:
            break
        bridged.add(place)
    joined: list[Rows] = []
    for place, (start, stop) in enumerate(ranges):
        if place - 1 in bridged:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined


def range_of(run: list[Piece]) -> Rows:
    """Return where the bytes of a run are."""
    return run[0].start, max(piece.stop for piece in run)


def runs_of(pieces: list[Piece], limit: float) -> list[list[Piece]]:
    """Group pieces that are read together: adjacent ones of one kind, of no more than ``limit`` bytes."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        if runs:
            before = runs[-1][-1]
            follows = piece.start == before.stop or (piece.start < before.stop and not piece.plain)
            if follows and piece.plain == before.plain and piece.stop - runs[-1][0].start <= limit:
                runs[-1].append(piece)
                continue
        runs.append([piece])
    return runs
