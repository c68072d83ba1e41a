"""Which utterances several caches have in common, and that their audio is the same.

The length of every utterance is compared. So are the samples: by the checksums of the stored waveforms where two
caches have the same packs, and otherwise when an utterance is read.

Axes: N utterances.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gdist.pipeline.cache.arrays import shard_key
from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entries, Entry, Number, Numbers
from gdist.pipeline.cache.plan import WAVEFORM
from gdist.pipeline.console import say
from gdist.pipeline.errors import CacheMismatchError

DIGESTED = 20_000  # packs whose receipts are read to compare checksums
LAYOUT: tuple[Number, ...] = ("pack", "start_frame", "num_samples")


def places(entries: Entries, others: Entries) -> Numbers:
    """Where each utterance is among ``others``, by its id; −1 where it is not: [N]."""
    found = pc.index_in(entries.texts("id"), value_set=others.texts("id"))
    placed: Numbers = pc.fill_null(found, -1).to_numpy(zero_copy_only=False)
    return placed


def same(entries: Sequence[Entry], cache: Cache) -> Entries:
    """The same utterances, in the same order, as ``cache`` has them. All of them must be there."""
    if isinstance(entries, Entries):
        return cache.entries.take(places(entries, cache.entries))
    ids = pa.array([entry.id for entry in entries], pa.string())
    found = pc.index_in(ids, value_set=cache.entries.texts("id"))
    return cache.entries.take(found.to_numpy(zero_copy_only=False).astype(np.int64))


def common(first: Cache, entries: Entries, other: Cache, others: Entries) -> Entries:
    """Those of ``entries`` that are among ``others``, too; how many are in only one of both is said.

    Raises:
        CacheMismatchError: there are none, or the audio of one is of another length.
    """
    place_N = places(entries, others)
    both = np.flatnonzero(place_N >= 0)
    if not len(both):
        raise CacheMismatchError(
            f"no usable utterance of {first.uri} has the id of one of {other.uri}",
            "extract both from the same manifest",
        )
    here, there = len(entries) - len(both), len(others) - len(both)
    if here or there:
        say(
            f"{len(both):,} utterances are in both caches and used; {here:,} are only in {first.uri}, {there:,} only "
            f"in {other.uri}",
            style="yellow",
        )
    shared, theirs = entries.take(both), others.take(place_N[both])
    own_N, other_N = shared.numbers("num_samples"), theirs.numbers("num_samples")
    if (differs := np.flatnonzero(own_N != other_N)).size:
        at = int(differs[0])
        raise _different(
            first, other, shared[at].id, f"{own_N[at]:,} samples are stored in one, {other_N[at]:,} in the other"
        )
    return shared


def same_waveforms(first: Cache, other: Cache) -> bool:
    """Whether the caches have the same packs, and their waveforms the same checksums: then all audio is the same."""
    if len(first.entries) != len(other.entries) or first.packs != other.packs or first.packs > DIGESTED:
        return False
    if not first.entries.texts("id").equals(other.entries.texts("id")):
        return False
    for column in LAYOUT:
        if (first.entries.numbers(column) != other.entries.numbers(column)).any():
            return False
    return _digests(first) == _digests(other)


def _digests(cache: Cache) -> dict[str, str]:
    keys = {shard_key(WAVEFORM, pack) for pack in range(cache.packs)}
    found: dict[str, str] = {}
    for receipt in cache.receipts_seen():
        found |= {key: str(written) for key, written in receipt["objects"].items() if key in keys}
    return found


def require_same_audio(first: Cache, spans: Sequence[Span], other: Cache) -> None:
    """Compare the samples of whole utterances.

    Raises:
        CacheMismatchError: they differ.
    """
    entries = [other.utterances[entry.id] for entry, _, _ in spans]
    pieces = first.waveform([(entry, 0, entry.num_frames) for entry, _, _ in spans])
    theirs = other.waveform([(entry, 0, entry.num_frames) for entry in entries])
    for (entry, _, _), own_S, other_S in zip(spans, pieces, theirs, strict=True):
        if not np.array_equal(own_S, other_S):
            raise _different(first, other, entry.id, "their samples differ")


def _different(first: Cache, other: Cache, name: str, how: str) -> CacheMismatchError:
    return CacheMismatchError(
        f"{name} is not the same audio in {first.uri} and in {other.uri}: {how}",
        "extract both from the same manifest and the same files",
    )
