"""The parts of benchmarks/bucket.py."""
