"""A local folder in which shards of caches in buckets are kept, for every run of this machine."""
