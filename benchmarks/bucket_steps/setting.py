"""What every step is given: the options, the bucket, the caches in it, and where figures go."""

import argparse
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bucket_steps.content import Content
from bucket_steps.server import Bucket
from gdist.pipeline.cache.arrays import shard_key
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.plan import WAVEFORM, layer_arrays
from gdist.pipeline.local.folder import LocalFolder

Say = Callable[[str, float | str], None]


@dataclass
class Setting:
    """One run of the benchmark."""

    options: argparse.Namespace
    place: Path
    bucket: Bucket
    content: Content
    names: Iterator[int]

    def folder(self, name: str) -> Path:
        """The files of the cache ``s3://bench/NAME``, which is made when it is first wanted."""
        folder = self.bucket.folder / name
        if not folder.exists():
            self.content.make(folder, *self.shapes[name])
        return folder

    def uri(self, name: str) -> str:
        self.folder(name)
        return f"{self.bucket.uri}/{name}"

    @property
    def shapes(self) -> dict[str, tuple[str, str, int]]:
        """Name → encoding, layers and packs. Many packs are for what is decided pack by pack."""
        packs, two = self.options.packs, "0,12"
        return {
            "int8": ("int8", "all", packs),
            "fp16": ("fp16", "all", packs),
            "two": ("int8", two, packs),
            "many": ("int8", two, 4 * packs),
        }

    def line(self, latency: float = 0.03) -> None:
        """Set the line, and begin to count."""
        self.bucket.line(latency, self.options.megabytes)

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """An empty folder, which is removed again because there is not room for all of them."""
        folder = self.place / f"near-{next(self.names)}"
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def shards_of(cache: Cache) -> dict[str, int]:
    """Key → bytes of every shard of a cache, the audio's included. The cache must be in a folder."""
    names = [*layer_arrays(cache.identity, cache.layers), WAVEFORM]
    folder = cache.storage.folder
    assert folder is not None
    return {
        key: (folder / key).stat().st_size
        for name in names
        for key in (shard_key(name, pack) for pack in range(cache.packs))
    }


def opened(uri: str, near: Path | None, limit: int | None = None) -> Cache:
    """Open a cache, with a local folder where one is given."""
    if near is None:
        return Cache.open(uri)
    return Cache.open(uri, local=LocalFolder(near, limit))
