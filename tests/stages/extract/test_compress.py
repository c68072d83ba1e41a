"""`gdist extract --compress`: recorded, kept when the cache is resumed, grown or repaired, and open to zarr alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import Result
from conftest import PACK_FRAMES, contents, extracted

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.verify import verify
from gdist.pipeline.errors import CacheError, CacheMismatchError, UsageError
from gdist.pipeline.storage.objects import seal
from gdist.stages.extract.plan import ExtractConfig

Gdist = Callable[..., Result]

CODECS = {"none": ["bytes", "crc32c"], "zstd:3": ["bytes", "zstd", "crc32c"]}


@pytest.fixture(scope="module", params=CODECS)
def compress(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cache(compress: str, tiny_teacher: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extracted in two goes: layer 2 was added later."""
    folder = tmp_path_factory.mktemp("compress") / "cache"
    extracted(tiny_teacher, speech, folder, layers="0,1,3", compress=compress)
    extracted(tiny_teacher, speech, folder, layers="2", compress=compress)
    return folder


def test_the_same_values_in_other_bytes(cache: Path, compress: str, tiny_cache: Path) -> None:
    found, usual = Cache.open(str(cache)), Cache.open(str(tiny_cache))
    assert found.identity == usual.identity | {"compress": compress}
    assert verify(found, lambda n=1, note="": None)["ok"]
    for entry in found.entries:
        span = [(entry, 0, entry.num_frames)]
        assert all(found.hidden(n, span)[0].equal(usual.hidden(n, span)[0]) for n in range(4))
        assert np.array_equal(found.waveform(span)[0], usual.waveform(span)[0])
    assert found.storage.get("layers/02/c/0/0") != usual.storage.get("layers/02/c/0/0")


def test_zarr_alone_reads_it(cache: Path, compress: str, tiny_cache: Path) -> None:
    ours, usual = (zarr.open_group(path, mode="r") for path in (cache, tiny_cache))
    for name in ("layers/00", "layers/02", "waveform"):
        array = ours[name]
        assert isinstance(array, zarr.Array)
        inner = json.loads((cache / name / "zarr.json").read_bytes())["codecs"][0]["configuration"]["codecs"]
        assert [codec["name"] for codec in inner] == CODECS[compress]
        assert np.asarray(array[:]).tobytes() == np.asarray(usual[name][:]).tobytes()  # type: ignore[index]


def test_resumed_and_repaired_to_the_same_bytes(
    cache: Path, compress: str, tiny_teacher: Path, speech: Path, gdist: Gdist
) -> None:
    whole = contents(cache)
    (cache / "receipts/00003.json").unlink()
    assert (
        extracted(tiny_teacher, speech, cache, compress=compress)["packs_resumed"] == Cache.open(str(cache)).packs - 1
    )
    assert contents(cache) == whole
    (cache / "layers/01/c/2/0").write_bytes(b"torn")
    (cache / "layers/03/zarr.json").unlink()
    result = gdist("verify", cache, "--repair", "--teacher", tiny_teacher, "--json")
    assert result.exit_code == 0 and len(json.loads(result.stdout)["repaired"]) == 2
    assert contents(cache) == whole


def test_another_compression_is_another_cache(cache: Path, compress: str, tiny_teacher: Path, speech: Path) -> None:
    with pytest.raises(CacheMismatchError, match=f"compress: {compress} → zstd:-1"):
        extracted(tiny_teacher, speech, cache)


@pytest.mark.parametrize("encoding", ["fp16", "int8"])
def test_sizes_without_compression(
    tiny_teacher: Path, speech: Path, tmp_path: Path, gdist: Gdist, encoding: str
) -> None:
    """They include the padding, and are known before."""
    options: dict[str, Any] = {"compress": "none", "encoding": encoding}
    dry = extracted(tiny_teacher, speech, tmp_path / "c", **options, dry_run=True)
    extracted(tiny_teacher, speech, tmp_path / "c", **options)
    shards = sum(len(data) for key, data in contents(tmp_path / "c").items() if "/c/" in key)
    assert dry["bytes"] < shards < 1.01 * dry["bytes"]
    everything = sum(len(data) for data in contents(tmp_path / "c").values())
    more = ("--compress", "none", "--pack-frames", PACK_FRAMES, "--no-measure", "--json")
    result = gdist("plan", "--teacher", tiny_teacher, "--manifest", speech, *more)
    rows = {row["name"]: row for row in json.loads(result.stdout)["encodings"]}
    assert 0.9 * rows[encoding]["bytes"] < everything <= rows[encoding]["bytes"]


def test_what_it_may_be(gdist: Gdist) -> None:
    with pytest.raises(UsageError, match="--compress lz4: it is neither zstd:LEVEL"):
        ExtractConfig("t", "m", "c", compress="lz4")
    result = gdist("plan", "--teacher", "t", "--hours", 1, "--compress", "zstd:99")
    assert result.exit_code == 2 and "--compress none" in result.stderr


def test_a_cache_of_an_earlier_revision(own_cache: Path, tiny_teacher: Path, speech: Path, gdist: Gdist) -> None:
    """Says so wherever it is opened, and can be replaced."""
    path = own_cache / "zarr.json"
    root = json.loads(path.read_bytes())
    del root["attributes"]["gdist"]["identity"]["compress"]
    path.write_bytes(seal(root, root["attributes"]["gdist"]))
    with pytest.raises(CacheError, match="made by an earlier revision of gdist"):
        Cache.open(str(own_cache))
    for command in (("verify",), ("inspect",), ("verify", "--repair")):
        result = gdist(*command, own_cache)
        assert result.exit_code == 1 and "earlier revision" in result.stderr and "--restart" in result.stderr
    with pytest.raises(CacheError, match="made by an earlier revision of gdist"):
        extracted(tiny_teacher, speech, own_cache)
    assert extracted(tiny_teacher, speech, own_cache, restart=True)["utterances"] == 30
