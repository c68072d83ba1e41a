"""From the cache to batches: ``Batches`` for loops of one's own."""

from gdist.pipeline.loading.batch import Batch
from gdist.pipeline.loading.dataset import Batches
from gdist.pipeline.loading.splits import DataConfig

__all__ = ["Batch", "Batches", "DataConfig"]
