"""How bytes move: manifests, audio, the cache, the loader, a run's directory. Knows no teacher and no student."""
