"""How bytes move: manifests, audio, the cache, the loader, a run's directory. No teacher or student is known here."""
