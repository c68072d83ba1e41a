"""From the cache to batches: ``Batches`` for your own training loops."""

from gdist.pipeline.loading.batch import Batch
from gdist.pipeline.loading.dataset import Batches
from gdist.pipeline.loading.splits import DataConfig

__all__ = ["Batch", "Batches", "DataConfig"]
