"""A cache may be anybody's: whatever its documents say, with every checksum right, is used or refused by name."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import resealed
from click.testing import Result

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import CacheDamagedError, CacheError
from gdist.pipeline.storage.objects import Storage

Gdist = Callable[..., Result]


def put(place: str, value: Any) -> Callable[[Any], None]:
    """A change: ``identity.dim`` gets another value; ``...`` deletes it."""

    def change(document: Any) -> None:
        *steps, last = place.split(".")
        for step in steps:
            document = document[int(step) if isinstance(document, list) else step]
        if value is ...:
            del document[last]
        else:
            document[last] = value

    return change


ADDITION = {"packs": [0, 9], "layers": [0, 1, 2, 3], "waveform": True}
ROOTS = [
    ("packs", 10**9, "its packs is 1000000000, and its additions have 9"),
    ("packs", -1, "its packs is not an integer >= 1"),
    ("packs", 9.0, "its packs is not an integer"),
    ("packs", ..., "it lacks packs"),
    ("generation", 10**9, "its generation is not an integer <= 9999"),
    ("generation", True, "its generation is not an integer"),
    ("utterances", 2**60, "its utterances is not an integer <= 2147483647"),
    ("utterances", 3, "its packs is 9, and its utterances is 3"),
    ("frames", 10**9, "its frames is 1000000000, and its packs have 4608 rows"),
    ("additions", [], "its additions is not a list of length >= 1"),
    ("additions", [ADDITION | {"packs": [0, 10**9]}], "its packs is 9, and its additions have 1000000000"),
    ("additions", [ADDITION | {"packs": [0, 10**12]}], "its additions[0].packs[1] is not an integer <= 2147483647"),
    (
        "additions",
        [ADDITION | {"packs": [1, 9]}],
        "its additions[0].packs is [1, 9]; it must be some packs from 0 on",
    ),
    ("additions", [ADDITION | {"packs": [0, 9, 1]}], "its additions[0].packs is not a list of length <= 2"),
    ("additions", [ADDITION, ADDITION], "its additions are 2, in 1 plans"),
    ("additions", [ADDITION | {"waveform": False}], "its additions[0] is not layers that were added"),
    ("additions", [ADDITION | {"layers": [0, 1]}], "its identity.layers is [0, 1, 2, 3], and its additions have"),
    ("additions", [ADDITION | {"layers": [3, 2, 1, 0]}], "it must be in ascending order"),
    ("additions", [ADDITION | {"layers": []}], "its additions[0].layers is not a list of length >= 1"),
    ("identity", [], "its identity is not a table, but a list"),
    ("identity.layers", [0, 1, 1, 3], "its identity.layers is [0, 1, 1, 3]; it must be in ascending order"),
    ("identity.layers", [0, 1, 2, 9], "its identity.layers has 9, and its teacher has layers 0 to 3"),
    ("identity.layers", ["0"], "its identity.layers[0] is not an integer, but text"),
    ("identity.dim", 0, "its identity.dim is not an integer >= 1"),
    ("identity.dim", 10**9, "its identity.dim is not an integer <= 65536"),
    ("identity.dim", 33, "it gives layers/00 the shape [4608, 32]; it must be [4608, 33]"),
    ("identity.pack_frames", 10**10, "its identity.pack_frames is not an integer <= 1048576"),
    ("identity.pack_frames", 500, "its identity.pack_frames is not an integer that's a multiple of 128"),
    ("identity.pack_frames", 1024, "it gives layers/00 the shape [4608, 32]; it must be [9216, 32]"),
    ("identity.chunk_frames", -512, "its identity.chunk_frames cannot be used: Invalid enum value -512"),
    ("identity.compress", "gzip", "its identity.compress is 'gzip'"),
    ("identity.compress", "none", "it does not describe layers/00 as gdist stores it"),
    ("identity.encoding", "int8", "it does not describe layers/00 as gdist stores it"),
    ("identity.encoding", "a\x1b[31m", "its identity.encoding is not text"),
    ("identity.max_seconds", 1e400, "Infinity, which is no number of JSON"),
    ("identity.batch_seconds", -1.0, "its identity.batch_seconds is not a finite number > 0"),
    ("identity.teacher", {}, "its identity.teacher lacks"),
    ("identity.teacher.window_samples", 2**40, "its identity.teacher.window_samples is not an integer <="),
    ("identity.framing.hop", 10**6, "its identity.framing.hop is more than 65536"),
    ("identity.framing.hop", 0, "has a framing that no teacher has: hop is 0"),
    ("about", {"teacher": 3}, "its about[…] is not text"),
    ("about", {"teacher": "\u202egnp.exe"}, "its about[…] is not text"),
    ("objects", {}, "it does not list index.parquet"),
    ("objects", {"../evil": "0" * 64}, "it lists '../evil', which is no document of a cache"),
    ("objects", {"planning": "0" * 64}, "it lists 'planning', which is no document of a cache"),
    ("objects", {"zarr.json": "0" * 64}, "it lists 'zarr.json', which is no document of a cache"),
    ("objects", {"index.parquet": "0"}, "its objects[…] is not text"),
]


@pytest.mark.parametrize(("place", "value", "words"), ROOTS)
def test_the_root_document(own_cache: Path, gdist: Gdist, place: str, value: Any, words: str) -> None:
    resealed.root(own_cache, put(place, value))
    with pytest.raises(CacheError) as caught:
        Cache.open(str(own_cache))
    assert words in caught.value.message and str(own_cache) in caught.value.message
    assert gdist("verify", own_cache).exit_code == 1
    listed = gdist("caches", own_cache.parent)
    assert listed.exit_code == 0 and words in listed.stderr.replace("\n", " ")


ARRAYS = [
    ("layers/00.chunk_grid.configuration.chunk_shape", [-512, 32], "it does not describe layers/00 as gdist stores"),
    ("layers/00.codecs.0.configuration.chunk_shape", [64, 32], "it does not describe layers/00 as gdist stores it"),
    ("layers/00.codecs.0.configuration.codecs", [{"name": "bytes"}, {"name": "gzip"}], "it does not describe layers"),
    ("layers/00.codecs", [{"name": "bytes"}], "it does not describe layers/00 as gdist stores it"),
    ("layers/00.data_type", "float32", "it does not describe layers/00 as gdist stores it"),
    ("layers/00.data_type", {"name": "numpy.datetime64"}, "it does not describe layers/00 as gdist stores it"),
    ("layers/00.fill_value", 0.0, "it gives layers/00 the fill value 0.0; it must be nan"),
    ("layers/00.shape", [10**15, 32], "it gives layers/00 the shape [1000000000000000, 32]; it must be [4608, 32]"),
    ("layers/00", ..., "it does not describe the array layers/00"),
    ("layers/00", 3, "it does not describe the array layers/00"),
    ("waveform.fill_value", False, "it gives waveform the fill value False; it must be -32768"),
    ("more", {"node_type": "array", "shape": [1]}, "it describes 'more', which is no array of this cache"),
]


@pytest.mark.parametrize(("place", "value", "words"), ARRAYS)
def test_array_metadata(own_cache: Path, gdist: Gdist, place: str, value: Any, words: str) -> None:
    resealed.metadata(own_cache, put(place, value))
    with pytest.raises(CacheDamagedError) as caught:
        Cache.open(str(own_cache))
    assert words in caught.value.message
    assert gdist("verify", own_cache).exit_code == 1


RECEIPTS = [
    ("pack", 1, "it is the receipt of pack 1"),
    ("pack", "0", "its pack is not an integer, but text"),
    ("utterances", 10**6, "its utterances is 1000000; the pack has"),
    ("objects", {}, "it says nothing about layers/00/c/0/0"),
    ("objects.more", {"bytes": 1, "xxh3_128": "0" * 32}, "it lists 'more'"),
    ("objects.layers/00/c/0/0.bytes", 10**12, "it says that layers/00/c/0/0 has 1000000000000 bytes; "),
    ("objects.layers/00/c/0/0.bytes", 0, "its objects[…].bytes is not an integer >= 1"),
    ("objects.layers/00/c/0/0.xxh3_128", "../../../evil", "its objects[…].xxh3_128 is not text"),
    ("objects.layers/00/c/0/0", None, "its objects[…] is not a table, but nothing"),
    ("quarantine", [], "its quarantine is not a table, but a list"),
    ("statistics.layers.00.rms", 1e300, "its statistics.layers[…].rms is not a finite number <= 1e+60"),
    ("statistics.layers.00", ..., "its statistics.layers is not of 00, 01, 02, 03"),
    ("statistics", {}, "its statistics lacks"),
]


@pytest.mark.parametrize(("place", "value", "words"), RECEIPTS)
def test_a_receipt(own_cache: Path, gdist: Gdist, place: str, value: Any, words: str) -> None:
    change = put(place, value) if "/c/" not in place else in_objects(place, value)
    resealed.document(own_cache, "receipts/00000.json", change)
    for summary in (own_cache / "summaries").iterdir():
        summary.unlink()
    cache = Cache.open(str(own_cache))
    with pytest.raises(CacheDamagedError) as caught:
        list(cache.receipts())
    assert words in caught.value.message and "receipts/00000.json" in caught.value.message
    found = gdist("verify", own_cache, "--json")
    assert found.exit_code == 1
    (bad,) = json.loads(found.stdout)["bad"]
    assert bad["object"] == "receipts/00000.json" and words in bad["reason"]


def in_objects(place: str, value: Any) -> Callable[[Any], None]:
    key, _, field = place.removeprefix("objects.").partition(".")

    def change(receipt: Any) -> None:
        holder, name = (receipt["objects"][key], field) if field else (receipt["objects"], key)
        holder[name] = value

    return change


def fifo(path: Path) -> None:
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(40 << 30)


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("thing", [fifo, huge, listening, endless])
@pytest.mark.parametrize(
    "key",
    [
        *("zarr.json", "index.parquet", "teacher/config.json", "receipts/00000.json", "layers/00/c/0/0"),
        *("planning", "layers/00/zarr.json", "extracting.json", "plans/00000.json"),
    ],
)
def test_what_is_no_file_of_gdists_is_not_waited_for(
    own_cache: Path, gdist: Gdist, tiny_teacher: Path, speech: Path, key: str, thing: Callable[[Path], None]
) -> None:
    """A FIFO would be waited for without end; 40 GB that are a hole on the disk would be 40 GB of memory."""
    (own_cache / key).unlink(missing_ok=True)
    thing(own_cache / key)
    marker = key in ("planning", "extracting.json")
    extract = ("extract", "--teacher", tiny_teacher, "--manifest", speech, "--cache", own_cache, "--device", "cpu")
    commands = [extract] if marker else [("verify", own_cache), ("inspect", own_cache)]
    results = [gdist(*command, "--pack-frames", 512) if marker else gdist(*command) for command in commands]
    assert results[0].exit_code == 1 and key in results[0].stderr, results[0].output
    for result in results:
        assert result.exit_code in (0, 1)
    assert (own_cache / key).lstat()


def test_a_bucket_s_objects_are_not_fetched_beyond_their_bounds() -> None:
    storage = Storage("memory://bounded", create=True)
    storage.put("a", bytes(100))
    assert storage.get("a", 100) == bytes(100)
    with pytest.raises(CacheDamagedError, match="memory://bounded/a has 100 bytes; it has 99 at most"):
        storage.get("a", 99)


def test_nothing_is_written_that_is_not_read(tiny_teacher: Path, speech: Path, tmp_path: Path, gdist: Gdist) -> None:
    command = (
        "extract",
        "--teacher",
        tiny_teacher,
        "--manifest",
        speech,
        "--cache",
        tmp_path / "c",
        "--device",
        "cpu",
    )
    result = gdist(*command, "--pack-frames", 1 << 21)
    assert (
        result.exit_code == 2 and "--pack-frames 2097152: must be a multiple of 128, at most 1048576" in result.stderr
    )
