"""Formats of features: the files that another tool reads.

To add a format, write one file here with what ``base.Format`` requires, and add its row to ``FORMATS``; the tests of
each format read it back with its own tool. ``gdist export-features --help`` reads the table, so nothing heavy is
imported here.
"""

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from gdist.stages.features.formats.base import Format

__all__ = ["FORMATS", "TOKENS", "format_named"]

FORMATS: dict[str, str] = {
    "npy": "a NumPy file per utterance, and an index in JSON lines",
    "kaldi": "ark and scp, for Kaldi and ESPnet",
    "lhotse": "a FeatureSet manifest and its NumPy files",
    "hf": "Parquet shards for datasets.load_dataset",
    "webdataset": "tar shards with .npy and .json",
    "zarr": "a Zarr v3 store with one array per layer",
}

TOKENS = "km"  # what --kmeans and --centroids write: HuBERT's token files


def format_named(name: str) -> "Format":
    """Return the module of a format, which is only imported now."""
    return cast("Format", importlib.import_module(f"gdist.stages.features.formats.{name}"))
