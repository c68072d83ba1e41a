"""A bucket for the tests of commands: a real server behind a proxy that counts, and caches that are put there."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from conftest import PACK_FRAMES, contents
from servers import Flaky, proxied

from gdist.pipeline.storage.objects import Storage


@contextmanager
def s3_bucket(folder: Path) -> Iterator[Flaky]:
    """A bucket that gdist reaches, for the length of a ``with``.

    Args:
        folder: empty; its name is part of the bucket's, since what is open stays open for the life of the process.
    """
    with proxied("moto", folder, f"speech-{folder.name.replace('_', '-').lower()}") as flaky:
        yield flaky


def extract(teacher: Path, manifest: object, cache: object, *more: object) -> list[object]:
    """The command that extracts into a bucket."""
    fixed = ["--pack-frames", PACK_FRAMES, "--device", "cpu", "--json"]
    return ["extract", "--teacher", teacher, "--manifest", manifest, "--cache", cache, *fixed, *more]


def stored(uri: str) -> dict[str, bytes]:
    """Every object below a location."""
    storage = Storage(uri)
    with ThreadPoolExecutor(8) as pool:
        keys = list(storage.objects())
        return dict(zip(keys, pool.map(storage.get, keys), strict=True))


def fill(uri: str, folder: Path) -> Storage:
    """Put a copy of a folder there."""
    storage = Storage(uri)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: storage.put(*item), contents(folder).items()))
    return storage
