"""Training batches as a torch dataset, for your own training loops."""

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

    Each pass is the next epoch; set ``epoch`` to repeat one. Threads assemble whole batches and read ahead, so a
    DataLoader around this dataset takes ``batch_size=None`` and ``num_workers=0``.

    Args:
        cache: an open cache, or its location.
        layers: hidden states to read; all that are stored when None. Batches have them in ascending order.
        split: which utterances: "train", "valid" or "test", as ``data`` defines them; all when None.
        data: which utterances, and how much of each, as in a run's [data] table.
        batch_seconds: seconds of audio per batch, padding included.
        waveforms: whether to read the audio too.
        seed: of the order and of the crops.
        device: where hidden states are decoded.

    Raises:
        CacheError: the cache does not contain a layer, or no utterance of the split can be used.
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
            raise CacheError(f"the cache at {cache.uri} does not contain layers {absent}; it contains {cache.layers}")
        usable = usable_entries(cache, data.skip_missing, selection.layers)
        entries = usable if split is None else choose_splits(usable, data)[split]
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
        for batch in self._loader.stream(count):
            if batch.position[0] != epoch:  # the last batches were damaged and left out
                return
            yield batch
            if batch.position[1] == count:
                return

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError(*_NO_WORKERS)  # a worker that is not forked would receive a pickled copy


_NO_WORKERS = (
    "batches cannot be read in worker processes: each worker would read all of them, and the store's reader does not "
    "survive a fork; threads of this process already read ahead",
    "DataLoader(batches, batch_size=None, num_workers=0)",
)
