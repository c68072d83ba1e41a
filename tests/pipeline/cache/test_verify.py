"""One byte flipped in any object of a cache: `gdist verify` reports it, and whose data it is."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import contents

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.plan import layer_name

Gdist = Callable[..., Result]
CHUNK_INDEX_BYTES = 16  # offset and length of one inner chunk, in a shard's index (Zarr v3's sharding codec)


def verified(gdist: Gdist, cache: Path) -> tuple[int, dict[str, Any]]:
    result = gdist("verify", cache, "--json")
    return result.exit_code, json.loads(result.stdout)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


def owner_of(cache: Cache, shard: bytes, pack: int, position: int) -> set[str] | None:
    """The owner of a byte of a shard, by the shard's index and the table; None in the index, which all share."""
    rows, chunk = cache.identity["pack_frames"], cache.identity["chunk_frames"]
    index = shard[-(rows // chunk * CHUNK_INDEX_BYTES + 4) :]
    for number in range(rows // chunk):
        offset = int.from_bytes(index[number * 16 :][:8], "little")
        length = int.from_bytes(index[number * 16 + 8 :][:8], "little")
        if offset <= position < offset + length:
            first = pack * rows + number * chunk
            return {
                e.id
                for e in cache.entries
                if e.num_frames
                and e.start_frame < first + chunk
                and first < e.start_frame + e.num_rows(cache.framing)
            }
    return None


def test_an_untouched_cache_is_ok(gdist: Gdist, tiny_cache: Path) -> None:
    code, found = verified(gdist, tiny_cache)
    assert code == 0
    assert found == {"ok": True, "packs": 9, "packs_missing": [], "bad": [], "repaired": []}
    result = gdist("verify", tiny_cache)
    assert result.exit_code == 0 and "ok, 9 packs, 0 damaged objects" in result.stderr


@pytest.mark.thorough
def test_one_byte_in_every_object(gdist: Gdist, own_cache: Path) -> None:
    cache = Cache.open(str(own_cache))
    rng, blamed = random.Random(0), set()
    objects = contents(own_cache)
    assert len(objects) > 60
    for key, data in objects.items():
        for position in {0, len(data) - 1, rng.randrange(len(data))}:
            (own_cache / key).write_bytes(flipped(data, position))
            code, found = verified(gdist, own_cache)
            assert code == 1 and found["ok"] is False, f"{key}, byte {position}"
            (bad,) = found["bad"]
            assert bad["object"] == key
            if "/c/" in key:
                array, _, rest = key.partition("/c/")
                pack = int(rest.split("/")[0])
                owners = owner_of(cache, data, pack, position)
                expected = {e.id for e in cache.pack_entries(pack)} if owners is None else owners
                assert (bad["array"], bad["pack"], set(bad["utterances"])) == (array, pack, expected)
                blamed |= expected
                what = "waveform" if array == "waveform" else f"layer {int(array[-2:])}"
                names = ", ".join(bad["utterances"][:5]) or "rows that belong to no utterance"
                assert f"{key}: its bytes do not match its receipt; {what}, utterance {names}" in bad["message"]
            elif key.startswith("receipts/"):
                assert bad["utterances"] == [] and bad["pack"] == int(key[9:14])
                assert f"; no data of pack {bad['pack']} is lost" in bad["message"]
            elif key.startswith(("layers/", "waveform/")) and key != "layers/zarr.json":
                assert bad["message"].endswith(", every utterance") and bad["array"] == key.removesuffix("/zarr.json")
            else:
                assert key in bad["message"]
        (own_cache / key).write_bytes(data)
    assert verified(gdist, own_cache)[0] == 0
    assert len(blamed) > 20  # most of the 30 had their turn


def test_every_byte_of_an_utterance_is_its_own(gdist: Gdist, own_cache: Path) -> None:
    """Through one shard, one byte in every chunk: exactly its owner is reported, and reads agree."""
    cache = Cache.open(str(own_cache))
    path = own_cache / "layers/02/c/3/0"
    data = path.read_bytes()
    seen = []
    for position in range(50, len(data), 997):
        path.write_bytes(flipped(data, position))
        found = verified(gdist, own_cache)[1]["bad"][0]
        readable = [e.id for e in cache.pack_entries(3) if reads(own_cache, e)]
        assert set(readable) | set(found["utterances"]) == {e.id for e in cache.pack_entries(3)}
        assert not set(readable) & set(found["utterances"])
        seen.append(found["utterances"])
    assert len({tuple(names) for names in seen}) >= 3


def reads(folder: Path, entry: Entry) -> bool:
    from gdist.pipeline.errors import CacheDamagedError

    try:
        Cache.open(str(folder)).hidden(2, [(entry, 0, entry.num_frames)])
    except CacheDamagedError as error:
        assert f"utterance {entry.id} " in error.message
        return False
    return True


@pytest.mark.parametrize("key", ["layers/01/c/4/0", "waveform/c/0/0"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "longer", "swapped"])
def test_lost_shards(gdist: Gdist, own_cache: Path, key: str, damage: str) -> None:
    path, pack = own_cache / key, int(key.split("/c/")[1].split("/")[0])
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        other = (own_cache / key.replace(f"/c/{pack}/", "/c/5/")).read_bytes()
        path.write_bytes({"truncated": data[:-100], "empty": b"", "longer": data + b"\0", "swapped": other}[damage])
    code, found = verified(gdist, own_cache)
    assert code == 1 and not found["ok"]
    (bad,) = found["bad"]
    assert bad["object"] == key and bad["pack"] == pack
    assert bad["reason"] == ("it is missing" if damage == "missing" else "its bytes do not match its receipt")
    if damage in ("missing", "truncated", "empty"):
        assert set(bad["utterances"]) == {e.id for e in Cache.open(str(own_cache)).pack_entries(pack)}
    result = gdist("verify", own_cache)
    assert result.exit_code == 1
    assert bad["message"] in result.stderr.replace("\n", " ")
    assert f"to repair it: gdist verify {own_cache} --repair" in result.stderr.replace("\n", "")


def test_the_suggested_repair_works(
    gdist: Gdist, own_cache: Path, tiny_cache: Path, tiny_teacher: Path, speech: Path
) -> None:
    (own_cache / "layers/03/c/2/0").write_bytes(b"torn")
    (own_cache / "receipts/00002.json").unlink()
    options = ["--teacher", tiny_teacher, "--manifest", speech, "--cache", own_cache, "--pack-frames", 512]
    assert gdist("extract", *options).exit_code == 0
    assert contents(own_cache) == contents(tiny_cache)


def test_missing_receipts(gdist: Gdist, own_cache: Path) -> None:
    """Of packs whose data is there, and whose receipts have a copy in the summary."""
    for pack in (2, 7):
        (own_cache / f"receipts/{pack:05d}.json").unlink()
    code, found = verified(gdist, own_cache)
    assert code == 1 and found["packs_missing"] == []
    assert [bad["message"] for bad in found["bad"]] == [
        f"receipts/{pack:05d}.json: it is missing; no data of pack {pack} is lost" for pack in (2, 7)
    ]
    assert "missing packs" not in gdist("verify", own_cache).stderr


def test_missing_packs(gdist: Gdist, own_cache: Path) -> None:
    for pack in (2, 7):
        (own_cache / f"receipts/{pack:05d}.json").unlink()
    for name in ("00000.json", "00000.parquet"):
        (own_cache / "summaries" / name).unlink()
    code, found = verified(gdist, own_cache)
    assert code == 1 and found == {"ok": False, "packs": 9, "packs_missing": [2, 7], "bad": [], "repaired": []}
    result = gdist("verify", own_cache)
    assert result.exit_code == 1 and "missing packs: [2, 7] (run the same `gdist extract` again)" in result.stderr
    inspected = gdist("inspect", own_cache)
    assert inspected.exit_code == 0 and "7 of 9 done" in inspected.stdout and "unfinished" in inspected.stderr


@pytest.mark.parametrize("key", ["zarr.json", "index.parquet"])
@pytest.mark.parametrize("damage", ["flipped", "missing", "empty"])
def test_documents_that_opening_requires(gdist: Gdist, own_cache: Path, key: str, damage: str) -> None:
    (own_cache / "plans/00000.parquet").unlink()  # the index's copy, which would do
    path = own_cache / key
    data = path.read_bytes()
    path.write_bytes(flipped(data, len(data) // 2) if damage == "flipped" else b"")
    if damage == "missing":
        path.unlink()
    result = gdist("verify", own_cache)
    assert result.exit_code == 1 and f"{key}" in result.stderr and "try: " in result.stderr
    as_json = gdist("verify", own_cache, "--json")
    assert as_json.exit_code == 1
    if key == "zarr.json" and damage == "missing":  # then it is no cache at all
        assert "no cache at" in as_json.stderr
    else:
        found = json.loads(as_json.stdout)
        assert not found["ok"] and found["bad"][0]["object"] == key and key in found["bad"][0]["message"]
    assert gdist("inspect", own_cache).exit_code == 1


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("layers/02/zarr.json", "is missing; layer 2, every utterance"),
        ("waveform/zarr.json", "is missing; waveform, every utterance"),
        ("teacher/frontend.safetensors", "is missing"),
        ("layers/zarr.json", "is missing"),
    ],
)
def test_missing_documents(gdist: Gdist, own_cache: Path, key: str, says: str) -> None:
    (own_cache / key).unlink()
    code, found = verified(gdist, own_cache)
    assert code == 1 and [bad["message"] for bad in found["bad"]] == [f"{key}: {says}"]


def test_everything_at_once_is_listed(gdist: Gdist, own_cache: Path) -> None:
    for layer in range(4):
        (own_cache / layer_name(layer) / "c/1/0").write_bytes(b"torn")
    (own_cache / "receipts/00003.json").write_bytes(b"{}")
    (own_cache / "receipts/00004.json").unlink()
    (own_cache / "summaries/00000.parquet").unlink()
    code, found = verified(gdist, own_cache)
    assert code == 1 and found["packs_missing"] == [4]
    expected = [
        "summaries/00000.parquet",
        *(f"{layer_name(layer)}/c/1/0" for layer in range(4)),
        "receipts/00003.json",
    ]
    assert [bad["object"] for bad in found["bad"]] == expected


def test_no_cache_at_all(gdist: Gdist, tmp_path: Path) -> None:
    for place, says in ((tmp_path, "no cache at"), (tmp_path / "none", "there is no such folder")):
        result = gdist("verify", place)
        assert result.exit_code == 1 and says in result.stderr
