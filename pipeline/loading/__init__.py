"""From the cache to batches."""
