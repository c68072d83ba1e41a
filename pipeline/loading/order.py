"""The order of an epoch: which utterances, or crops of them, share a batch.

It is kept as positions and made into spans batch by batch: 20 million utterances take some 15 bytes each.

Axes: N utterances, K batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.entries import Entries, Entry, Numbers, numbers


@dataclass(frozen=True, eq=False)
class Batches(Sequence[list[Span]]):
    """Batches of spans, each made when it is asked for.

    Attributes:
        members: positions of utterances in ``entries``, [N], batch by batch.
        firsts, frames: of each member, the first frame and the number of frames: [N].
        bounds: where each batch begins and ends among the members: [K, 2].
        windows: the batches with which windows of packs begin, and K.
    """

    entries: Sequence[Entry]
    members: Numbers
    firsts: Numbers
    frames: Numbers
    bounds: Numbers
    windows: Sequence[int]

    def __len__(self) -> int:
        return len(self.bounds)

    @overload
    def __getitem__(self, place: int) -> list[Span]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[Span]]: ...
    def __getitem__(self, place: int | slice) -> list[Span] | list[list[Span]]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        start, stop = self.bounds[place].tolist()
        members = self.members[start:stop]
        columns = self.entries
        entries = columns.at(members) if isinstance(columns, Entries) else [columns[i] for i in members.tolist()]
        firsts, frames = self.firsts[start:stop].tolist(), self.frames[start:stop].tolist()
        return list(zip(entries, firsts, frames, strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __add__(self, others: Sequence[list[Span]]) -> list[list[Span]]:
        return [*self, *others]


def shuffled(
    entries: Sequence[Entry],
    rng: np.random.Generator,
    batch_frames: int,
    crop_frames: int = 0,
    grid: int = 1,
    window_packs: int = 1,
    tail: int = 1,
) -> Batches:
    """Permute the packs, shuffle the utterances within windows of packs, and group them by length.

    Args:
        batch_frames: frames per batch at most, padding included.
        crop_frames, grid, tail: as in :func:`crops`.
    """
    size = np.int32 if len(entries) < 2**31 else np.int64
    lengths = numbers(entries, "num_frames")
    order, windows = _windows(numbers(entries, "pack"), rng, window_packs)
    members = order.astype(size, copy=False)
    firsts, frames = np.empty(len(order), np.int32), np.empty(len(order), np.int32)
    bounds, counts = [], [0]
    for start, stop in zip(windows[:-1].tolist(), windows[1:].tolist(), strict=True):
        there = members[start:stop][rng.permutation(stop - start)]
        first, length = crops(lengths[there], rng, crop_frames, grid, tail)
        # Within a shuffled window, similar lengths share a batch; the noise varies which ones share it.
        noisy = length * rng.uniform(0.9, 1.1, len(there))
        by_length = np.argsort(noisy, kind="stable")
        members[start:stop], firsts[start:stop] = there[by_length], first[by_length]
        frames[start:stop] = length = length[by_length]
        edges = start + np.array(group(length.tolist(), batch_frames))
        batches = rng.permutation(len(edges) - 1)
        bounds.append(np.stack([edges[batches], edges[batches + 1]], axis=1))
        counts.append(counts[-1] + len(batches))
    return Batches(entries, members, firsts, frames, np.concatenate([np.empty((0, 2), np.int64), *bounds]), counts)


def longest_first(entries: Sequence[Entry], batch_frames: int) -> Batches:
    """Every utterance whole, exactly once."""
    lengths = numbers(entries, "num_frames")
    members = np.argsort(-lengths, kind="stable")
    edges = np.array(group(lengths[members].tolist(), batch_frames))
    bounds = np.stack([edges[:-1], edges[1:]], axis=1)
    return Batches(entries, members, np.zeros_like(members), lengths[members], bounds, [0, len(bounds)])


def crops(
    lengths: Numbers, rng: np.random.Generator, crop_frames: int, grid: int, tail: int = 1
) -> tuple[Numbers, Numbers]:
    """Return the first frame and the number of frames of a crop of each utterance, given all their lengths: [N] each.

    Args:
        crop_frames: longer utterances are cropped to this length; 0 keeps them whole.
        grid: crops start at multiples of it, so the last possible one may be shorter.
        tail: the fewest frames of that one; fewer are in no crop.
    """
    firsts = np.zeros(len(lengths), np.int32)
    if not crop_frames:
        return firsts, lengths
    crop_frames = min(crop_frames, np.iinfo(lengths.dtype).max)
    grid = min(grid, crop_frames)
    long = lengths > crop_frames
    left = lengths[long].astype(np.int64)
    last = -(-(left - crop_frames) // grid)  # from here on the crop reaches the end
    last -= left - last * grid < tail
    firsts[long] = grid * rng.integers(last + 1)  # one draw for each that is cropped, in order
    return firsts, np.minimum(lengths - firsts, crop_frames)


def group(lengths: Sequence[int], batch_frames: int) -> list[int]:
    """Cut a sequence of spans into batches whose frames, padding included, stay within ``batch_frames``.

    Returns:
        where the batches begin, and the number of spans.
    """
    edges = [0]
    longest = begin = 0
    for place, length in enumerate(lengths):
        if length > longest:
            longest = length
        if longest * (place + 1 - begin) > batch_frames and place > begin:
            edges.append(place)
            begin, longest = place, length
    return [*edges, len(lengths)] if lengths else edges


def _windows(packs: Numbers, rng: np.random.Generator, window_packs: int) -> tuple[Numbers, Numbers]:
    """Return all positions window by window, in order within each, and where the windows begin (and the end)."""
    if (packs[1:] >= packs[:-1]).all():  # as in an index; otherwise it takes a sort
        new = np.concatenate([[True], packs[1:] != packs[:-1]])[: len(packs)]
        every, number = packs[new], np.cumsum(new) - 1
    else:
        every, number = np.unique(packs, return_inverse=True)
    window = np.empty(len(every), np.int32)
    window[np.searchsorted(every, rng.permutation(every))] = np.arange(len(every)) // window_packs
    window_N = window[number]
    edges = np.concatenate([[0], np.cumsum(np.bincount(window_N))])
    return np.argsort(window_N, kind="stable"), edges
