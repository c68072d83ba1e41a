"""`gdist caches`: what is found, what it costs, and what strangers may leave in a bucket."""

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import contents
from in_bucket import s3_bucket
from servers import Flaky

from gdist.pipeline import printing
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.storage.objects import Storage, seal
from gdist.stages.caches.listing import layers_text
from gdist.stages.extract.inspection import describe

Gdist = Callable[..., Result]
GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": {"owner": "somebody"}}'
ARRAY = b'{"zarr_format": 3, "node_type": "array", "shape": [9]}'


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flaky]:
    with s3_bucket(tmp_path_factory.mktemp("caches")) as flaky:
        yield flaky


def rooted(**gdist: Any) -> bytes:
    """A root document with a seal that matches, whatever it says."""
    return seal({"attributes": {"gdist": gdist}, "node_type": "group"}, gdist)


def strange_places(tiny_cache: Path) -> dict[str, bytes]:
    """What others keep next to caches: key → bytes."""
    root = (tiny_cache / "zarr.json").read_bytes()
    places = {
        "damaged/zarr.json": root.replace(b"tiny-wavlm", b"tiny-WAVLM"),
        "format/zarr.json": rooted(format=2),
        "nonsense/zarr.json": rooted(format=1, identity=[]),
        "text/zarr.json": b"hello",
        "list/zarr.json": b"[1, 2]",
        "deep-json/zarr.json": b"[" * 100_000,
        "weather/zarr.json": GROUP,
        "weather/temperature/zarr.json": ARRAY,
        "old-weather/.zarray": b"{}",
        "rootless/index.parquet": b"PAR1",
        "rootless/plans/00000.json": root,
        "rootless/teacher/config.json": b"{}",
    }
    places |= {f"weather/temperature/c/{i}/0": b"chunk" for i in range(40)}
    places |= {f"old-weather/{i}/0": b"chunk" for i in range(40)}
    return places | {f"corpus/{i:02d}/audio.flac": b"fLaC" for i in range(12)}


@pytest.fixture(scope="module")
def documents(tiny_cache: Path) -> dict[str, bytes]:
    """What of a cache a survey may read; its shards and receipts are not there."""
    return {key: data for key, data in contents(tiny_cache).items() if "/c/" not in key and "receipts" not in key}


@pytest.fixture(scope="module")
def team(s3: Flaky, tiny_cache: Path, documents: dict[str, bytes]) -> str:
    """A bucket's prefix with four caches among other things."""
    uri = f"{s3.uri}/team"
    storage = Storage(uri)
    for place in ("libri", "libri/ablation", "2026/may/digits 50%20#1"):
        for key, data in documents.items():
            storage.put(f"{place}/{key}", data)
    partial = contents(tiny_cache)
    for key in ("summaries/00000.json", "summaries/00000.parquet", "receipts/00003.json", "layers/01/c/3/0"):
        del partial[key]
    for key, data in (partial | {"extracting.json": b"{}"}).items():
        storage.put(f"partial/{key}", data)
    for key, data in strange_places(tiny_cache).items():
        storage.put(key, data)
    return uri


def test_a_bucket(s3: Flaky, team: str, gdist: Gdist, tiny_cache: Path) -> None:
    s3.does()
    result = gdist("caches", team, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    places = ["2026/may/digits 50%20#1", "libri", "libri/ablation", "partial"]
    assert [cache["uri"] for cache in found["caches"]] == [f"{team}/{place}" for place in places]
    expected = describe(Cache.open(str(tiny_cache)))
    for cache in found["caches"]:
        assert cache["teacher"] == "tiny-wavlm" and cache["layers"] == [0, 1, 2, 3] and cache["encoding"] == "fp16"
        assert cache["audio_seconds"] == pytest.approx(expected["audio_seconds"], rel=0.02)
        assert cache["utterances"] == 30 and cache["dim"] == 32 and cache["tasks"] == 9
    assert [cache["whole"] for cache in found["caches"]] == [True, True, True, False]
    assert [cache["tasks_done"] for cache in found["caches"]] == [9, 9, 9, 8]
    assert [cache["locked"] for cache in found["caches"]] == [False, False, False, True]
    assert abs(found["caches"][1]["bytes"] - expected["bytes"]) < 0.02 * expected["bytes"]
    reasons = {note["uri"].removeprefix(f"{team}/"): note["reason"] for note in found["problems"]}
    assert "does not describe a cache" in reasons.pop("damaged")
    assert "cache format 2" in reasons.pop("format")
    assert "does not describe a cache" in reasons.pop("nonsense")
    assert f"it has no zarr.json, but it was a cache: gdist verify {team}/rootless --repair" in reasons.pop(
        "rootless"
    )
    assert not reasons and not found["not_looked_at"]


def test_what_it_costs(s3: Flaky, team: str, gdist: Gdist) -> None:
    """A request for each folder and each root, five for each whole cache, and one listing of the partial one. The
    folders of caches and of arrays are not entered, however many objects they have."""
    s3.does()
    found = json.loads(gdist("caches", team, "--json").stdout)
    seen = s3.saw()
    entered = Counter(record["path"].partition("prefix=")[2].partition("&")[0] for record in seen)
    assert not [place for place in entered if any(part in place for part in ("layers", "receipts", "%2Fc%2F"))]
    listings = [record for record in seen if "delimiter" in record["path"]]
    assert len(listings) == found["folders"] <= 35
    roots = [record for record in seen if record["path"].endswith("zarr.json")]
    assert len(roots) == 3 + 1 + 8
    assert len(seen) == len(listings) + len(roots) + 3 * 4 + 2


def test_the_table(s3: Flaky, team: str, gdist: Gdist) -> None:
    result = gdist("caches", team)
    assert result.exit_code == 0
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert [line[0] for line in lines] == ["2026/may/digits 50%20#1", "libri", "libri/ablation", "partial"]
    assert lines[1][1:5] == ["tiny-wavlm", "0.01", "0-3", "fp16"] and lines[1][6] == "whole"
    assert lines[3][6] == "8 of 9 packs, locked"
    assert (
        "4 caches" in result.stdout and f"{team}/format: " in result.stderr and "not looked at" not in result.stderr
    )


def test_a_folder_that_may_not_be_listed(s3: Flaky, team: str, gdist: Gdist) -> None:
    s3.does({"fault": "status", "status": 403, "code": "AccessDenied", "path": r"prefix=team%2Flibri%2F(&|$)"})
    try:
        found = json.loads(gdist("caches", team, "--json").stdout)
    finally:
        s3.does()
    assert len(found["caches"]) == 2
    assert any(note["uri"] == f"{team}/libri" and "cannot list" in note["reason"] for note in found["problems"])


def test_a_slow_bucket(s3: Flaky, team: str, gdist: Gdist, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says on stderr how far it is, from time to time."""
    monkeypatch.setattr("gdist.stages.caches.listing.PLAIN_LINE_SECONDS", 0.0)
    result = gdist("caches", team)
    assert "caches: 1 folder looked at, 0 caches so far" in result.stderr
    assert "folders looked at, 4 caches so far" in result.stderr and "looked at" not in result.stdout
    assert not [line for line in gdist("caches", team, "--json").stderr.splitlines() if "so far" in line]


def test_bounds(s3: Flaky, team: str, gdist: Gdist) -> None:
    result = gdist("caches", team, "--depth", 1)
    assert "3 caches" not in result.stdout and "2 caches" in result.stdout
    assert f"not looked at (below --depth 1): {team}/2026/may, {team}/corpus/00, " in result.stderr
    assert f"try: gdist caches {team} --depth 3 --folders 50000" in result.stderr
    found = json.loads(gdist("caches", team, "--folders", 3, "--json").stdout)
    assert found["folders"] == 3 and len(found["not_looked_at"]) >= 8
    assert gdist("caches", team, "--depth", 0).stderr.count("and ") >= 1


def test_no_cache(s3: Flaky, gdist: Gdist, tmp_path: Path) -> None:
    result = gdist("caches", f"{s3.uri}/nothing-here")
    assert result.exit_code == 0 and "no cache in 1 folder" in result.stderr and not result.stdout
    assert gdist("caches", tmp_path / "absent").exit_code == 1
    assert gdist("caches", "s3://no-such-bucket-of-ours/x").exit_code == 1


class TestFolders:
    def test_links_names_and_strangers(self, tiny_cache: Path, gdist: Gdist, tmp_path: Path) -> None:
        top = tmp_path / "top"
        shutil.copytree(tiny_cache, top / "a")
        (top / "b").symlink_to(tiny_cache)
        (top / "again").symlink_to(top / "a")
        (top / "circle").symlink_to(top)
        (top / "nowhere").symlink_to(tmp_path / "absent")
        odd = top / "caf\udce9 \x1b[31m"
        shutil.copytree(tiny_cache, odd)
        for key, data in strange_places(tiny_cache).items():
            (top / key).parent.mkdir(parents=True, exist_ok=True)
            (top / key).write_bytes(data)
        result = gdist("caches", top, "--json")
        found = json.loads(result.stdout)
        names = [cache["uri"].removeprefix(f"{top}/") for cache in found["caches"]]
        assert len(names) == 3 and "b" in names and ("a" in names) != ("again" in names)
        assert names[-1].startswith("caf\\udce9 ")
        assert len(found["problems"]) == 4
        table = gdist("caches", top)
        assert table.exit_code == 0 and "\x1b[31m" not in table.stdout and "caf\\udce9" in table.stdout
        assert describe(Cache.open(str(tiny_cache)))["bytes"] == pytest.approx(found["caches"][0]["bytes"], rel=0.02)

    def test_the_place_is_a_cache(self, own_cache: Path, gdist: Gdist) -> None:
        shutil.copytree(own_cache, own_cache / "ablation")
        found = json.loads(gdist("caches", f"{own_cache}/", "--json").stdout)
        assert [cache["uri"].rstrip("/") for cache in found["caches"]] == [str(own_cache), f"{own_cache}/ablation"]
        assert gdist("caches", own_cache).stdout.count(" . ") == 1

    def test_inspect_points_there(self, own_cache: Path, gdist: Gdist) -> None:
        for command in ("inspect", "verify"):
            result = gdist(command, own_cache.parent)
            assert result.exit_code == 1 and "but a cache is in its folders" in result.stderr
            assert f"try: gdist caches {own_cache.parent}" in result.stderr.replace("\n", "")
        shutil.rmtree(own_cache)
        assert "it has no zarr.json" in gdist("inspect", own_cache.parent).stderr


def test_memory(documents: dict[str, bytes], gdist: Gdist) -> None:
    """Each location in memory is a store of its own."""
    top = f"memory://{uuid.uuid4()}"
    for place in ("one", "two/three"):
        storage = Storage(f"{top}/{place}")
        for key, data in documents.items():
            storage.put(key, data)
    found = json.loads(gdist("caches", top, "--json").stdout)
    assert [cache["uri"] for cache in found["caches"]] == [f"{top}/one", f"{top}/two/three"]


def test_texts() -> None:
    assert layers_text([0, 1, 2, 3, 8, 11, 12]) == "0-3,8,11-12" and layers_text([]) == ""
    assert printing.printable("a\x1b[0m\n\udce9") == "a\\x1b[0m\\n\\udce9"
