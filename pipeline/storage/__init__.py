"""Where bytes are stored: folders and buckets, and the paths that name them."""
