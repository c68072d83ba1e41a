"""What a loader's batches need of each cache that is in a bucket, fetched ahead; nothing for caches in folders."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.near import Near
from gdist.pipeline.cache.plan import WAVEFORM, layer_arrays
from gdist.pipeline.loading.ahead import Ahead, Reads, Window
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.joined import Joined, Part
from gdist.pipeline.loading.matching import same


@dataclass(frozen=True)
class _InBucket:
    """A cache in a bucket, and which of its shards batches read."""

    part: Part
    near: Near
    reads: Reads


class Sources:
    """The caches of a loader that are in buckets.

    Args:
        entries: the utterances of which batches are made, as the first cache has them.
        layers: all that may be read, numbered as by ``caches``.
        rank, world, resident: as of :class:`Reads`.
    """

    def __init__(
        self,
        caches: Joined,
        entries: Sequence[Entry],
        layers: Sequence[int],
        rank: int,
        world: int,
        resident: bool = False,
    ) -> None:
        self.layers = layers
        self._far: list[_InBucket] = []
        for part in caches.parts:
            if (near := part.cache.near) is not None:
                own = entries if part.leads else same(entries, part.cache)
                self._far.append(_InBucket(part, near, Reads(part.cache, own, rank, world, resident)))

    def fetching(self) -> "Fetching":
        """Prepare for shards to be fetched ahead of need."""
        for far in self._far:
            if not far.reads.announced:
                selection = far.part.selection(Selection(tuple(self.layers)))
                names = layer_arrays(far.part.cache.identity, selection.layers)
                far.near.intend([*names, *[WAVEFORM] * selection.waveforms], far.reads.packs)
                far.reads.announced = True
        return Fetching([(far, Ahead(far.near)) for far in self._far])


class Fetching:
    """Fetches from each of several caches ahead of need."""

    def __init__(self, ahead: Sequence[tuple[_InBucket, Ahead]]) -> None:
        self._ahead = ahead

    def fetch(self, window: Window, chosen: Callable[[], Iterable[tuple[int, Selection]]]) -> None:
        """Begin to fetch what a window needs, after all that earlier windows need.

        Args:
            chosen: yields numbers of batches and what is read for them; called only where there is a bucket.
        """
        for far, ahead in self._ahead:
            own = ((place, far.part.selection(selection)) for place, selection in chosen())
            ahead.fetch(window, far.reads.shares(window.batches, own))

    def read(self, window: Window) -> None:
        """Note that a batch of the window has been read."""
        for _, ahead in self._ahead:
            ahead.read(window)

    def close(self) -> None:
        """Stop fetching."""
        for _, ahead in self._ahead:
            ahead.close()
