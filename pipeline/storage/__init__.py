"""Where bytes lie: folders and buckets, and the paths that name them."""
