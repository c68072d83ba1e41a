"""Training batches as a torch dataset, for loops of one's own."""

from collections.abc import Iterator, Sequence
from typing import Literal

from torch.utils.data import IterableDataset, get_worker_info

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import CacheError, UsageError
from gdist.pipeline.loading.batch import Batch, Selection
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import DataConfig, choose_splits, usable_entries


class Batches(IterableDataset[Batch]):
    """The batches of one epoch for each pass over it, in the order in which `gdist train` would read them.

    Each pass is the next epoch; set ``epoch`` to repeat one. Batches are whole already and read ahead by threads, so
    a DataLoader around it takes ``batch_size=None`` and ``num_workers=0``.

    Args:
        cache: an open cache, or where it is.
        layers: hidden states to read, ascending; all that are stored when None.
        split: whose utterances: "train", "valid" or "test", as ``data`` tells them apart; all when None.
        data: which utterances, and how much of each, as in a run's [data] table.
        batch_seconds: audio a batch, padding included.
        waveforms: read the audio too.
        seed: of the order and of the crops.
        device: where hidden states are decoded.

    Raises:
        CacheError: the cache does not hold a layer, or no utterance of the split.
    """

    def __init__(
        self,
        cache: Cache | str,
        layers: Sequence[int] | None = None,
        split: Literal["train", "valid", "test"] | None = "train",
        *,
        data: DataConfig | None = None,
        batch_seconds: float = 60.0,
        waveforms: bool = True,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        data = data or DataConfig()
        cache = Cache.open(cache) if isinstance(cache, str) else cache
        selection = Selection(tuple(sorted(cache.layers if layers is None else layers)), waveforms)
        absent = [layer for layer in selection.layers if layer not in cache.layers]
        if absent:
            raise CacheError(f"the cache at {cache.uri} does not hold layers {absent}; it holds {cache.layers}")
        entries = usable_entries(cache, data.skip_missing, selection.layers)
        entries = entries if split is None else choose_splits(entries, data)[split]
        if not entries:
            raise CacheError(f"no utterance of the cache at {cache.uri} can be used in the split {split}")
        self.epoch = 0
        self._loader = Loader(
            cache,
            entries,
            selection,
            batch_seconds,
            data.crop_seconds,
            seed,
            device=device,
            skip_damaged=data.skip_damaged,
        )

    def __iter__(self) -> Iterator[Batch]:
        if get_worker_info() is not None:
            raise UsageError(*_NO_WORKERS)
        epoch, self.epoch = self.epoch, self.epoch + 1
        count = len(self._loader.epoch_batches(epoch))
        self._loader.load_state_dict({"epoch": epoch, "position": 0})
        for batch in self._loader:
            if batch.position[0] != epoch:  # the last ones were damaged, and left out
                return
            yield batch
            if batch.position[1] == count:
                return

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError(*_NO_WORKERS)  # workers that are not forked are sent a copy


_NO_WORKERS = (
    "batches are not read in worker processes: each would read all of them, and what reads from the store does not "
    "survive a fork; threads of this process read ahead already",
    "DataLoader(batches, batch_size=None, num_workers=0)",
)
