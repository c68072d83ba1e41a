"""The steps of benchmarks/speech.py: packages, transcripts, sources, recordings, splits, phones, summary."""
