"""`gdist copy`: the same bytes elsewhere, whatever was there before, and however often it was killed."""

import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_extract
from click.testing import Result
from conftest import contents, extracted
from test_extract import Nursery, files_of

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.lock import Lock
from gdist.pipeline.cache.transfer import Transfer
from gdist.pipeline.errors import CacheDamagedError, CacheError, CacheLockedError, CacheMismatchError, UsageError
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.storage.between import overlap
from gdist.pipeline.storage.objects import Storage
from gdist.stages.copy.copying import CopyConfig, copy
from gdist.stages.estimate.prices import load_prices

Gdist = Callable[..., Result]
nursery, bucket = test_extract.nursery, test_extract.bucket


def copied(source: object, target: object, **options: Any) -> dict[str, Any]:
    """What ``gdist copy`` does, in this process."""
    return copy(CopyConfig(str(source), str(target), **options), load_prices(None), show_progress=False)


def objects(uri: str) -> dict[str, bytes]:
    storage = Storage(uri)
    return {key: storage.get(key) for key in storage.objects()}


@pytest.fixture
def grown(tiny_teacher: Path, speech: Path, tmp_path: Path) -> Callable[[Path], None]:
    """Grows a cache of the first 20 utterances and layers 0 and 2 to all of them."""
    manifest = Manifest.read(speech)
    Manifest(manifest.table.slice(0, 20), manifest.root).write(tmp_path / "fewer.parquet")

    def grow(folder: Path, begin: bool = False) -> None:
        first = {"layers": "0,2"} if begin else {}
        extracted(tiny_teacher, tmp_path / "fewer.parquet" if begin else speech, folder, **first)

    return grow


class TestTheSame:
    def test_every_direction(self, tiny_cache: Path, tmp_path: Path, bucket: str) -> None:
        """Disk → bucket → the same bucket (by the store itself) → memory → another disk."""
        whole = contents(tiny_cache)
        places = [tiny_cache, f"{bucket}/a b/+c%20", f"{bucket}/d", "memory://copied", tmp_path / "new" / "folder"]
        for source, target in itertools.pairwise(places):
            result = copied(source, target)
            assert objects(str(target)) == whole, target
            assert result["by_store"] == (str(source).startswith("s3:") and str(target).startswith("s3:"))
            assert (result["packs"], result["packs_missing"], result["utterances"]) == (9, [], 30)
            assert (result["objects_sent"], result["objects_kept"]) == (len(whole), 0)
            assert result["bytes_sent"] == sum(map(len, whole.values()))
            assert [row["layer"] for row in result["layers"]] == [0, 1, 2, 3]

    def test_a_second_time_nothing_is_sent(self, tiny_cache: Path, tmp_path: Path) -> None:
        copied(tiny_cache, tmp_path)
        times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        again = copied(tiny_cache, tmp_path)
        assert (again["objects_sent"], again["bytes_sent"]) == (0, 0)
        assert again["objects_kept"] == len(contents(tiny_cache))
        assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    def test_what_is_there_and_wrong_is_replaced(self, tiny_cache: Path, tmp_path: Path) -> None:
        """Also in a copy that looks finished, and also where the size is right."""
        whole = contents(tiny_cache)
        copied(tiny_cache, tmp_path)
        for number, key in enumerate(key for key in sorted(whole) if key != "zarr.json"):
            if number % 3 == 0:
                (tmp_path / key).unlink()
            elif number % 3 == 1:
                (tmp_path / key).write_bytes(whole[key][:-1] + bytes([whole[key][-1] ^ 1]))
            else:
                (tmp_path / key).write_bytes(whole[key] + b" ")
        copied(tiny_cache, tmp_path)
        assert contents(tmp_path) == whole

    def test_other_peoples_files_stay_where_they_are(self, own_cache: Path, tmp_path: Path) -> None:
        (own_cache / "notes.txt").write_text("mine")
        (own_cache / "layers/00/c/77").mkdir()
        (own_cache / "layers/00/c/77/0").write_bytes(b"of no pack")
        (own_cache / "extracting.json").write_text("{}")
        copied(own_cache, tmp_path / "copy")
        there = contents(tmp_path / "copy")
        assert not {"notes.txt", "layers/00/c/77/0", "extracting.json", "planning"} & there.keys()
        assert there.items() <= contents(own_cache).items()

    def test_remains_of_another_copy_are_cleared_away(self, tiny_cache: Path, tmp_path: Path, speech: Path) -> None:
        """A copy of something else was killed there: none of it is left."""
        copied(tiny_cache, tmp_path)
        (tmp_path / "zarr.json").unlink()
        (tmp_path / "planning").write_bytes(
            b"gdist is at work here; without a zarr.json beside it, this is not a cache yet\n"
        )
        for key in ("layers/07/c/0/0", "layers/01/c/99/0", "receipts/00042.json", "summaries/00003.json"):
            (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / key).write_bytes(b"another cache's")
        (tmp_path / "notes.txt").write_text("mine")
        copied(tiny_cache, tmp_path)
        assert contents(tmp_path) == contents(tiny_cache) | {"notes.txt": b"mine"}

    def test_a_cache_without_summaries(self, own_cache: Path, tmp_path: Path) -> None:
        shutil.rmtree(own_cache / "summaries")
        copied(own_cache, tmp_path / "copy")
        assert contents(tmp_path / "copy") == contents(own_cache)

    def test_training_takes_it_for_the_same_cache(self, tiny_cache: Path, tmp_path: Path) -> None:
        copied(tiny_cache, tmp_path)
        assert Cache.open(str(tmp_path)).gdist["checksum"] == Cache.open(str(tiny_cache)).gdist["checksum"]


class TestASourceThatChanges:
    def test_an_unfinished_source(
        self, own_cache: Path, tmp_path: Path, tiny_teacher: Path, speech: Path, tiny_cache: Path
    ) -> None:
        for pack in (2, 7):
            (own_cache / f"receipts/{pack:05d}.json").unlink()
        target = tmp_path / "copy"
        result = copied(own_cache, target)
        assert result["packs_missing"] == [2, 7] and not (target / "layers/01/c/7").exists()
        assert not (target / "summaries").exists(), "those of the source are not true any more"
        extracted(tiny_teacher, speech, own_cache)
        assert copied(own_cache, target)["packs_missing"] == []
        assert contents(target) == contents(tiny_cache)

    def test_an_unfinished_copy_may_be_extracted_on(
        self, own_cache: Path, tmp_path: Path, tiny_teacher: Path, speech: Path, tiny_cache: Path
    ) -> None:
        (own_cache / "receipts/00004.json").unlink()
        copied(own_cache, tmp_path / "copy")
        assert extracted(tiny_teacher, speech, tmp_path / "copy")["packs_resumed"] == 8
        assert contents(tmp_path / "copy") == contents(tiny_cache)

    def test_a_source_that_grew_since(self, grown: Any, tmp_path: Path) -> None:
        source, target = tmp_path / "source", tmp_path / "copy"
        grown(source, begin=True)
        copied(source, target)
        before = contents(target)
        grown(source)
        result = copied(source, target)
        assert contents(target) == contents(source) and len(contents(source)) > len(before)
        assert result["objects_kept"] > 20
        with pytest.raises(CacheMismatchError, match="has grown beyond"):
            shutil.copytree(source, tmp_path / "new")
            shutil.rmtree(source)
            grown(source, begin=True)
            copied(source, tmp_path / "new")

    def test_a_source_that_grows_meanwhile(
        self, grown: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source, target = tmp_path / "source", tmp_path / "copy"
        grown(source, begin=True)
        original, calls = Transfer.shard, []

        def shard(self: Transfer, *args: Any) -> None:
            calls.append(args)
            if len(calls) == 4:
                grown(source)
            original(self, *args)

        monkeypatch.setattr(Transfer, "shard", shard)
        copied(source, target)
        assert contents(target) == contents(source)
        assert "has grown while it was copied" in capsys.readouterr().err

    def test_a_source_that_is_repaired_meanwhile(
        self, own_cache: Path, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A repair on another machine wrote a shard with other bytes, and its receipt."""
        other = contents(extracted_elsewhere(own_cache, tmp_path))
        key, receipt = "layers/02/c/3/0", "receipts/00003.json"
        original = Transfer.shard

        def shard(self: Transfer, at: str, record: Any) -> None:
            if at == key and not (tmp_path / "copy" / key).exists():
                (own_cache / key).write_bytes(other[key])
                (own_cache / receipt).write_bytes(other[receipt])
            original(self, at, record)

        monkeypatch.setattr(Transfer, "shard", shard)
        shutil.rmtree(own_cache / "summaries")
        copied(own_cache, tmp_path / "copy")
        assert contents(tmp_path / "copy") == contents(own_cache)
        assert (tmp_path / "copy" / key).read_bytes() != (tiny_cache / key).read_bytes()

    @pytest.mark.parametrize("damage", ["flipped", "lost"])
    @pytest.mark.parametrize(
        "key", ["layers/01/c/3/0", "waveform/c/0/0", "receipts/00005.json", "teacher/config.json"]
    )
    def test_a_damaged_source_is_refused(
        self, own_cache: Path, tmp_path: Path, key: str, damage: str, tiny_cache: Path, gdist: Gdist
    ) -> None:
        data = (own_cache / key).read_bytes()
        (own_cache / key).unlink()
        if damage == "flipped":
            (own_cache / key).write_bytes(data[:-3] + bytes([data[-3] ^ 4]) + data[-2:])
        if (key, damage) == ("receipts/00005.json", "lost"):
            assert copied(own_cache, tmp_path / "copy")["packs_missing"] == [5]  # a pack that is not done
        else:
            with pytest.raises(CacheDamagedError, match=key) as caught:
                copied(own_cache, tmp_path / "copy")
            assert "gdist verify" in (caught.value.hint or "")
            assert Cache.find(str(tmp_path / "copy")) is None
        (own_cache / key).write_bytes(data)
        copied(own_cache, tmp_path / "copy")
        assert contents(tmp_path / "copy") == contents(tiny_cache)

    def test_damage_that_a_server_side_copy_meets(self, own_cache: Path, bucket: str, tiny_cache: Path) -> None:
        source, target = f"{bucket}/damaged", f"{bucket}/from-damaged"
        copied(own_cache, source)
        key = "layers/01/c/3/0"
        whole = Storage(source).get(key)
        Storage(source).put(key, whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CacheDamagedError, match=key):
            copied(source, target)
        Storage(source).put(key, whole)
        copied(source, target)
        assert objects(target) == contents(tiny_cache)


def extracted_elsewhere(cache: Path, tmp_path: Path) -> Path:
    """The same cache with another shard in one pack, as if another machine had repaired it, and its receipt."""
    from gdist.pipeline.cache.encode import encoded
    from gdist.pipeline.storage.objects import seal

    folder = Path(shutil.copytree(cache, tmp_path / "elsewhere"))
    opened = Cache.open(str(folder))
    spec, key, task = opened.specs["layers/02"], "layers/02/c/3/0", opened.tasks.of_pack(3)[0]
    receipt = opened.receipt(task)
    assert receipt is not None
    with encoded(spec.empty_pack(), spec.chunk_rows, spec.compress) as shard:
        (folder / key).write_bytes(shard.data)
        receipt["objects"][key] = shard.record
    (folder / task.receipt).write_bytes(seal(receipt, receipt))
    return folder


class TestRefused:
    def test_a_place_with_something_else(self, tiny_cache: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("mine")
        with pytest.raises(CacheError, match=r"is not empty and contains no cache \(it has thesis.tex\)") as caught:
            copied(tiny_cache, tmp_path)
        assert caught.value.hint == "choose another DST"
        assert contents(tmp_path) == {"thesis.tex": b"mine"}

    def test_another_cache(self, tiny_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        extracted(tiny_teacher, speech, tmp_path, encoding="int8")
        before = contents(tmp_path)
        with pytest.raises(CacheMismatchError, match="encoding: int8 → fp16"):
            copied(tiny_cache, tmp_path)
        assert contents(tmp_path) == before

    def test_places_that_overlap(self, tiny_cache: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tiny_cache)
        for target in (tiny_cache, f"{tiny_cache}/", f"{tiny_cache}/copy", tiny_cache.parent, tmp_path / "link/in"):
            with pytest.raises(UsageError, match="same place, or one is inside the other"):
                copied(tiny_cache, target)
        assert (
            overlap("s3://b/a", "s3a://b/a/c")
            and overlap("s3://b", "s3://b/x/")
            and overlap("memory://a", "memory://a")
        )
        assert not overlap("s3://b/a", "s3://b/ab") and not overlap("s3://b/a", "gs://b/a")
        assert not overlap(str(tmp_path / "a"), str(tmp_path / "ab")) and not overlap("memory://a", "memory://b")

    def test_no_cache(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(CacheError, match="no cache at"):
            copied(tmp_path / "empty", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()

    def test_links_at_the_target(self, tiny_cache: Path, tmp_path: Path) -> None:
        copied(tiny_cache, tmp_path / "copy")
        (tmp_path / "elsewhere").mkdir()
        shutil.rmtree(tmp_path / "copy/layers/01")
        (tmp_path / "copy/layers/01").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(CacheError, match="is a link"):
            copied(tiny_cache, tmp_path / "copy")
        assert not contents(tmp_path / "elsewhere")

    def test_names_that_no_cache_has(self, own_cache: Path, tmp_path: Path) -> None:
        """A stranger's root document is data: it names no file outside, and no lock."""
        from gdist.pipeline.cache.plan import HOLDER
        from gdist.pipeline.storage.objects import seal, sha256

        for key in ("../evil", "/etc/passwd", "notes.txt", "extracting.json", "zarr.json"):
            document = json.loads((own_cache / "zarr.json").read_bytes())
            holder = document[HOLDER[0]][HOLDER[1]]
            holder["objects"][key] = sha256(b"evil")
            for name in ("zarr.json", "plans/00000.json"):
                (own_cache / name).write_bytes(seal(document, holder))
            with pytest.raises(CacheDamagedError, match="which is no document of a cache"):
                copied(own_cache, tmp_path / "copy")
            assert "evil" not in {path.name for path in tmp_path.rglob("*")}

    def test_two_at_a_time(self, tiny_cache: Path, tmp_path: Path) -> None:
        storage = Storage(str(tmp_path), create=True)
        with Lock(storage), pytest.raises(CacheLockedError, match=f"process {os.getpid()} on"):
            copied(tiny_cache, tmp_path)
        assert contents(tmp_path) == {}
        copied(tiny_cache, tmp_path)
        assert contents(tmp_path) == contents(tiny_cache)


class TestKilled:
    """`kill -9`, ten times; the same command then leaves every byte as if nothing had happened."""

    @pytest.mark.thorough
    def test_before_each_kind_of_write(
        self, nursery: Nursery, tiny_cache: Path, tmp_path: Path, bucket: str, tiny_teacher: Path, speech: Path
    ) -> None:
        extracted(tiny_teacher, speech, tmp_path / "fp32", encoding="fp32")
        copied(tmp_path / "fp32", tmp_path / "never", encoding="int8", where=("split=t*",))
        part = ["--encoding", "int8", "--where", "split=t*"]
        many, some = (0, 1, 2, 9, 12, 17, 8, 3, 5, 1), (1, 25, 30)
        for source, target, more, kills, expected in (
            (tiny_cache, tmp_path / "c", [], many, contents(tiny_cache)),
            (tiny_cache, f"{bucket}/killed", [], some, contents(tiny_cache)),
            (tmp_path / "fp32", tmp_path / "p", part, (1, 14, 20, 5), contents(tmp_path / "never")),
        ):
            # It dies at the lock, the marker, among the shards, before receipts, summaries, documents and the root.
            killed = 0
            for lives in kills:
                nursery.start("copy", source, target, *more, lives=lives)
                killed += nursery.exit_code() == -signal.SIGKILL
            assert killed >= len(kills) - 1
            nursery.start("copy", source, target, *more)
            assert nursery.exit_code() == 0
            assert objects(str(target)) == expected

    @pytest.mark.thorough
    def test_at_random_moments(self, nursery: Nursery, tiny_cache: Path, tmp_path: Path) -> None:
        folder, rng, killed = tmp_path / "c", random.Random(), 0
        for kill in range(10):
            if kill in (4, 7):
                shutil.rmtree(folder, ignore_errors=True)
            nursery.start("copy", tiny_cache, folder)
            seen, deadline, more = len(files_of(folder)), time.monotonic() + 60, rng.choice([0, 1, 9, 25, 50])
            while len(files_of(folder)) < min(seen + more, 60) and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.02))
            nursery.send(signal.SIGKILL)
            killed += nursery.exit_code() == -signal.SIGKILL
            if (folder / "zarr.json").exists():
                Cache.open(str(folder))
        assert killed >= 5
        nursery.start("copy", tiny_cache, folder)
        assert nursery.exit_code() == 0
        assert contents(folder) == contents(tiny_cache)


class TestWhatItSays:
    def test_json_and_words(self, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
        dry = gdist("copy", tiny_cache, tmp_path / "c", "--dry-run", "--json")
        assert dry.exit_code == 0 and not (tmp_path / "c").exists()
        planned = json.loads(dry.stdout)
        first = gdist("copy", tiny_cache, tmp_path / "c")
        assert first.exit_code == 0 and first.stdout == "", "its layers are those of the source"
        assert "copy: " in first.stderr and "per second" in first.stderr and "30 utterances" in first.stderr
        second = json.loads(gdist("copy", tiny_cache, tmp_path / "c", "--json").stdout)
        assert second["objects_sent"] == 0 and planned["gets"] == planned["puts"] == planned["cost"] == 0
        assert planned["objects"] == second["objects_kept"] and planned["bytes"] <= second["bytes_kept"]
        words = gdist("copy", tiny_cache, tmp_path / "c", "--dry-run")
        assert "would send" in words.stderr and "are there already" in words.stderr

    def test_what_a_bucket_would_cost(self, tiny_cache: Path, bucket: str, tmp_path: Path, gdist: Gdist) -> None:
        (tmp_path / "prices.toml").write_text("[prices]\negress_gb = 90.0\nput_1000 = 1000.0\nget_1000 = 1.0\n")
        more = ["--dry-run", "--json", "--prices", tmp_path / "prices.toml"]
        found = json.loads(gdist("copy", tiny_cache, f"{bucket}/cost", *more).stdout)
        assert found["puts"] >= found["objects"] and found["egress_bytes"] >= found["bytes"]
        expected = found["puts"] + found["gets"] / 1000 + found["egress_bytes"] / 1e9 * 90
        assert found["cost"] == pytest.approx(expected)
        assert Storage(f"{bucket}/cost").objects() == {}
        copied(tiny_cache, f"{bucket}/cost")
        back = json.loads(gdist("copy", f"{bucket}/cost", tmp_path / "back", *more).stdout)
        assert back["puts"] == 0 and back["egress_bytes"] >= back["bytes"]
        aside = json.loads(gdist("copy", f"{bucket}/cost", f"{bucket}/aside", *more).stdout)
        assert aside["by_store"] and aside["egress_bytes"] < 1.5 * aside["bytes"]
