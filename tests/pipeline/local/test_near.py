"""Batches from a bucket over a real S3 server: each shard is fetched once, and the batches are those of a folder."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import contents, extracted, make_teacher
from in_bucket import fill, stored
from servers import Flaky, proxied

from gdist.pipeline import machine
from gdist.pipeline.cache import records
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.near import Near
from gdist.pipeline.errors import CacheDamagedError, CacheError
from gdist.pipeline.loading import loader
from gdist.pipeline.loading.batch import Batch, Selection
from gdist.pipeline.loading.joined import Joined
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import usable_entries
from gdist.pipeline.local.folder import LocalFolder
from gdist.pipeline.run import Run
from gdist.pipeline.storage.objects import Storage

ALL = Selection((0, 1, 2, 3), waveforms=True)


@dataclass
class Bucket:
    """A bucket with a cache, and a plain copy of the cache in a folder."""

    flaky: Flaky
    uri: str
    folder: Path

    def gets(self) -> list[str]:
        """The shards that were requested since the last look, one entry per request."""
        seen = [record["path"].partition("?")[0] for record in self.flaky.saw() if record["method"] == "GET"]
        self.flaky.does()
        keys = [path.split("/cache/", 1)[1] for path in seen if "/cache/" in path]
        return [key for key in keys if "/c/" in key]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, speech: Path) -> Iterator[Bucket]:
    patience = {"GDIST_STORE_TIMEOUT": "2", "AWS_MAX_ATTEMPTS": "3"}
    with proxied("moto", tmp_path_factory.mktemp("moto"), "near-speech", **patience) as flaky:
        uri = f"{flaky.uri}/cache"
        extracted(tiny_teacher, speech, uri)
        folder = tmp_path_factory.mktemp("folder") / "cache"
        for key, data in stored(uri).items():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(data)
        yield Bucket(flaky, uri, folder)


@pytest.fixture(autouse=True)
def nothing_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a cache that is larger than memory: every pass reads everything again. And windows are small."""
    monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(loader, "WINDOW_PACKS", 2)


@pytest.fixture
def own(bucket: Bucket, tmp_path: Path) -> Iterator[Bucket]:
    """The same, in a place of its own, whose objects a test may change."""
    uri = f"{bucket.flaky.uri}/{tmp_path.name}/cache"
    fill(uri, bucket.folder)
    bucket.flaky.does()
    yield Bucket(bucket.flaky, uri, bucket.folder)


def of_cache(cache: Cache, selection: Selection = ALL, **options: Any) -> Loader:
    options.setdefault("entries", [entry for entry in cache.entries if entry.num_frames])
    return Loader(cache, options.pop("entries"), selection, options.pop("batch_seconds", 10.0), **options)


def passes(cache: Cache, count: int = 1, **options: Any) -> list[Batch]:
    """All batches of some epochs."""
    batches = of_cache(cache, **options)
    return list(batches.stream(sum(len(batches.epoch_batches(epoch)) for epoch in range(count))))


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        one.ids == other.ids
        and torch.equal(one.hidden_BLTD, other.hidden_BLTD)
        and (one.waveform_BS is None or torch.equal(one.waveform_BS, other.waveform_BS))  # type: ignore[arg-type]
        for one, other in zip(left, right, strict=True)
    )


def shards_of(bucket: Bucket, layers: tuple[int, ...] = ALL.layers) -> list[str]:
    """The keys of all shards of some layers, and of the audio."""
    folders = [*(f"layers/{layer:02d}" for layer in layers), "waveform"]
    found = [f"{name}/c/{path.name}/0" for name in folders for path in (bucket.folder / name / "c").iterdir()]
    return sorted(found)


def near_of(cache: Cache) -> Near:
    assert cache.near is not None
    return cache.near


class TestRequests:
    @pytest.mark.parametrize("local", [False, True])
    def test_a_pass_requests_each_shard_once(self, bucket: Bucket, tmp_path: Path, local: bool) -> None:
        bucket.gets()
        cache = Cache.open(bucket.uri, local=LocalFolder(tmp_path) if local else None)
        batches = passes(cache)
        assert sorted(bucket.gets()) == shards_of(bucket)
        assert same(batches, passes(Cache.open(str(bucket.folder))))
        sizes = sum((bucket.folder / key).stat().st_size for key in shards_of(bucket))
        assert (near_of(cache).traffic.fetched, near_of(cache).traffic.local) == (sizes, 0)

    def test_later_passes_and_runs_request_nothing(self, bucket: Bucket, tmp_path: Path) -> None:
        first = passes(Cache.open(bucket.uri, local=LocalFolder(tmp_path)), 2)
        assert sorted(bucket.gets()) == shards_of(bucket)
        cache = Cache.open(bucket.uri, local=LocalFolder(tmp_path))
        assert same(first, passes(cache, 2))
        assert not bucket.gets()
        assert near_of(cache).traffic.fetched == 0 < near_of(cache).traffic.local

    def test_other_layers_are_never_fetched(self, bucket: Bucket, tmp_path: Path) -> None:
        bucket.gets()
        cache = Cache.open(bucket.uri, local=LocalFolder(tmp_path))
        passes(cache, selection=Selection((3,), waveforms=False))
        assert sorted(bucket.gets()) == [key for key in shards_of(bucket, (3,)) if key.startswith("layers")]

    @pytest.mark.parametrize("leads", [False, True])
    def test_of_two_caches_each_is_fetched_by_itself(
        self, bucket: Bucket, speech: Path, tmp_path: Path, leads: bool
    ) -> None:
        """The one in the bucket beside one in a folder, whichever comes first; audio is read from the first alone."""
        extracted(
            make_teacher(tmp_path / "t", seed=1, hidden_size=48, num_hidden_layers=2), speech, tmp_path / "other"
        )

        def all_of(uri: str, local: LocalFolder | None = None) -> list[Batch]:
            opened = [Cache.open(uri, local=local), Cache.open(str(tmp_path / "other"))]
            caches = Joined([("", cache) for cache in (opened if leads else opened[::-1])])
            numbers = [caches.teachers[0 if leads else 1].numbers[layer] for layer in (1, 3)]
            numbers.append(caches.teachers[1 if leads else 0].numbers[2])
            batches = Loader(caches, usable_entries(caches), Selection(tuple(sorted(numbers))), 10.0)
            return list(batches.stream(2 * len(batches.epoch_batches(0))))

        bucket.gets()
        found = all_of(bucket.uri, LocalFolder(tmp_path / "kept"))
        wanted = [key for key in shards_of(bucket, (1, 3)) if leads or not key.startswith("waveform")]
        assert sorted(bucket.gets()) == wanted
        assert same(found, all_of(str(bucket.folder)))

    def test_ranks_fetch_a_shard_once_between_them(self, bucket: Bucket, tmp_path: Path) -> None:
        bucket.gets()
        ranks = [Cache.open(bucket.uri, local=LocalFolder(tmp_path)) for _ in range(2)]
        shares = [iter(of_cache(cache, rank=rank, world=2)) for rank, cache in enumerate(ranks)]
        count = len(of_cache(ranks[0]).epoch_batches(0))
        got = [[next(share) for share in shares] for _ in range(count)]
        alone = passes(Cache.open(str(bucket.folder)))
        assert [sorted([*one.ids, *other.ids]) for one, other in got] == [sorted(batch.ids) for batch in alone]
        for share in shares:
            share.close()
        assert set(bucket.gets()) == set(shards_of(bucket))
        fetched = [near_of(cache).traffic.fetched for cache in ranks]
        kept = sum(found.bytes for found in LocalFolder(tmp_path).caches())
        assert sum(fetched) == kept

    def test_a_small_part_of_a_shard_is_read_as_ranges(self, bucket: Bucket, tmp_path: Path) -> None:
        packs: dict[int, Any] = {}
        for entry in Cache.open(str(bucket.folder)).entries:
            if entry.num_frames:
                packs.setdefault(entry.pack, []).append(entry)
        few = [min(entries, key=lambda entry: entry.num_frames) for entries in packs.values() if len(entries) > 2]
        assert few
        cache = Cache.open(bucket.uri, local=LocalFolder(tmp_path))
        batches = passes(cache, entries=few)
        assert same(batches, passes(Cache.open(str(bucket.folder)), entries=few))
        assert not list(LocalFolder(tmp_path).caches()[0:0]) and not _shards(tmp_path)
        rows = sum(-(-entry.num_frames // 128) * 128 for entry in few)
        needed = rows * (len(ALL.layers) * 32 * 2 + 2 * 320)
        assert 0 < near_of(cache).traffic.fetched <= 1.1 * needed

    def test_nothing_is_read_ahead_of_the_last_batch(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loader, "WINDOW_PACKS", 1)
        cache = Cache.open(bucket.uri)
        batches = of_cache(cache)
        first = batches.epoch_batches(0).windows[1]
        bucket.gets()
        list(batches.stream(first))
        assert {key.split("/c/")[1] for key in bucket.gets()} == {f"{batches.epoch_batches(0)[0][0][0].pack}/0"}

    def test_what_stays_in_memory_is_not_fetched_again(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loader, "RESIDENT_BYTES", 10**9)
        bucket.gets()
        passes(Cache.open(bucket.uri), 2, selection=Selection((1, 2), waveforms=False))
        assert sorted(bucket.gets()) == [key for key in shards_of(bucket, (1, 2)) if key.startswith("layers")]

    def test_with_little_memory_ranges_are_read(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "available_memory", lambda: 0)
        bucket.gets()
        assert same(passes(Cache.open(bucket.uri)), passes(Cache.open(str(bucket.folder))))
        assert len(bucket.gets()) > 1.5 * len(shards_of(bucket))


def _shards(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if len(path.name) == 32 and path.is_file()]


class TestLimit:
    def test_a_share_stays_and_the_rest_is_streamed(self, bucket: Bucket, tmp_path: Path) -> None:
        total = sum((bucket.folder / key).stat().st_size for key in shards_of(bucket))
        cache = Cache.open(bucket.uri, local=LocalFolder(tmp_path, total // 2))
        first = passes(cache, 3)
        assert same(first, passes(Cache.open(str(bucket.folder)), 3))
        kept = sum(path.stat().st_size for path in _shards(tmp_path))
        assert total * 0.3 < kept <= total // 2
        again = Cache.open(bucket.uri, local=LocalFolder(tmp_path, total // 2))
        bucket.gets()
        assert same(first, passes(again, 3))
        traffic = near_of(again).traffic
        # What is there stays, pass after pass. The last window of a pass may have what the next pass begins with.
        assert 2 * (total - kept) < traffic.fetched <= 3 * (total - kept)
        assert sum(path.stat().st_size for path in _shards(tmp_path)) == kept

    @pytest.mark.parametrize("share", [2, 1])
    def test_a_cache_of_very_many_packs(
        self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int
    ) -> None:
        """Its receipts are read pack by pack, and the sizes of its shards are estimates."""
        monkeypatch.setattr(records, "EAGER", 3)
        total = sum((bucket.folder / key).stat().st_size for key in shards_of(bucket))
        bucket.gets()
        for number in range(2):
            cache = Cache.open(bucket.uri, local=LocalFolder(tmp_path, 10 * total if share == 1 else total))
            assert same(passes(cache), passes(Cache.open(str(bucket.folder))))
            if number == 0:
                assert sorted(bucket.gets()) == shards_of(bucket)
                kept = sum(path.stat().st_size for path in _shards(tmp_path))
        assert near_of(cache).traffic.fetched == total - kept
        assert kept == total if share == 1 else 0.2 * total < kept < total

    def test_less_than_a_pack(self, bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cache = Cache.open(bucket.uri, local=LocalFolder(tmp_path, 1000))
        assert same(passes(cache), passes(Cache.open(str(bucket.folder))))
        assert "no room for a pack" in capsys.readouterr().err and not _shards(tmp_path)


class TestFaults:
    def test_a_flipped_byte_a_cut_and_a_lost_shard(
        self, bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        right = passes(Cache.open(bucket.uri, local=LocalFolder(tmp_path)))
        flipped, cut, lost, zeroed = _shards(tmp_path)[:4]
        whole = {path: path.read_bytes() for path in (flipped, cut, lost, zeroed)}
        flipped.write_bytes(bytes([*whole[flipped][:100], whole[flipped][100] ^ 1, *whole[flipped][101:]]))
        cut.write_bytes(whole[cut][:-7])
        lost.unlink()
        zeroed.write_bytes(bytes(len(whole[zeroed])))
        bucket.gets()
        assert same(right, passes(Cache.open(bucket.uri, local=LocalFolder(tmp_path)), 2)[: len(right)])
        assert {path: path.read_bytes() for path in whole} == whole
        assert len(set(bucket.gets())) == 4
        assert capsys.readouterr().err.count("damaged, and fetched again") == 2

    def test_a_folder_that_is_removed_while_it_is_read(self, bucket: Bucket, tmp_path: Path) -> None:
        cache = Cache.open(bucket.uri, local=LocalFolder(tmp_path / "local"))
        batches = of_cache(cache)
        count = len(batches.epoch_batches(0)) + len(batches.epoch_batches(1))
        got = []
        for batch in batches.stream(count):
            got.append(batch)
            if len(got) == 3:
                (tmp_path / "local").rename(tmp_path / "elsewhere")
        assert same(got, passes(Cache.open(str(bucket.folder)), 2))

    def test_a_damaged_shard_of_the_bucket_is_damage(self, own: Bucket, tmp_path: Path) -> None:
        storage = Storage(own.uri)
        key = shards_of(own)[0]
        data = bytearray(storage.get(key))
        data[50] ^= 1
        storage.put(key, bytes(data))
        with pytest.raises(CacheDamagedError, match="is torn") as caught:
            passes(Cache.open(own.uri, local=LocalFolder(tmp_path)))
        assert caught.value.hint and caught.value.hint.startswith("gdist verify")
        got = passes(Cache.open(own.uri, local=LocalFolder(tmp_path)), skip_damaged=True)
        (own.folder / key).exists()
        mine = {name for batch in got for name in batch.ids}
        lost = {entry.id for entry in Cache.open(own.uri).entries if entry.num_frames} - mine
        assert len(lost) == 1

    def test_a_cache_that_was_repaired_meanwhile(self, own: Bucket, tmp_path: Path, speech: Path) -> None:
        """The receipts that a run has read no longer describe what is in the bucket."""
        cache = Cache.open(own.uri, local=LocalFolder(tmp_path))
        near_of(cache).intend(["layers/01"], np.arange(cache.packs))
        _rewrite(own.uri, "layers/01", 0)
        batches = of_cache(cache, Selection((1,), waveforms=False))
        list(batches.stream(len(batches.epoch_batches(0))))
        record = near_of(Cache.open(own.uri)).records.get("layers/01", 0)
        assert record and record.digest in {path.name for path in _shards(tmp_path)}

    def test_stale_shards_are_deleted(self, own: Bucket, tmp_path: Path) -> None:
        passes(Cache.open(own.uri, local=LocalFolder(tmp_path)))
        before = {path.name for path in _shards(tmp_path)}
        record = near_of(Cache.open(own.uri)).records.get("layers/01", 0)
        assert record
        _rewrite(own.uri, "layers/01", 0)
        passes(Cache.open(own.uri, local=LocalFolder(tmp_path)))
        assert before - {path.name for path in _shards(tmp_path)} == {record.digest}

    def test_a_cache_that_grows_meanwhile(
        self, bucket: Bucket, tmp_path: Path, tiny_teacher: Path, speech: Path
    ) -> None:
        """A run that began before goes on with what there was, and one that begins now deletes nothing of that."""
        uri, few = f"{bucket.flaky.uri}/{tmp_path.name}/cache", Selection((1, 2), waveforms=True)
        extracted(tiny_teacher, speech, uri, layers="1,2")
        begun = of_cache(Cache.open(uri, local=LocalFolder(tmp_path)), few)
        count, more = (len(begun.epoch_batches(epoch)) for epoch in range(2))
        stream = begun.stream(count + more)
        before = [next(stream) for _ in range(count)]
        shards = set(_shards(tmp_path))
        extracted(tiny_teacher, speech, uri, layers="all")
        after = passes(Cache.open(uri, local=LocalFolder(tmp_path)))
        assert shards < set(_shards(tmp_path))
        bucket.gets()
        rest = list(stream)
        assert not bucket.gets()
        right = passes(Cache.open(str(bucket.folder)), 2, selection=few)
        assert same([*before, *rest], right)
        assert same(after, passes(Cache.open(str(bucket.folder))))
        old = Cache.open(uri, begun.cache.gdist["checksum"], LocalFolder(tmp_path))
        assert same(passes(old, 2, selection=few), right) and shards < set(_shards(tmp_path))

    def test_a_server_that_is_lost_ends_the_run(self, own: Bucket) -> None:
        cache = Cache.open(own.uri)
        batches = of_cache(cache)
        stream = batches.stream()
        next(stream)
        own.flaky.does({"fault": "status", "status": 500, "path": "/c/"})
        with pytest.raises(CacheError, match="500"):
            list(stream)
        own.flaky.does()


def _rewrite(uri: str, name: str, pack: int) -> None:
    """Store a shard of a cache in another way, as another machine would after a repair: other bytes, same rows."""
    from gdist.pipeline.cache.arrays import Reader, shard_key
    from gdist.pipeline.cache.encode import encoded
    from gdist.pipeline.storage.objects import seal, unseal

    storage, cache = Storage(uri), Cache.open(uri)
    spec = cache.specs[name]
    rows = Reader(storage, cache.specs).read(name, [(pack * spec.pack_rows, (pack + 1) * spec.pack_rows)])
    with encoded(rows, spec.chunk_rows, "zstd:9") as shard:
        storage.put(shard_key(name, pack), bytes(shard.data))
        (task,) = cache.tasks_of(pack)
        receipt = unseal(storage.get(task.receipt))
        receipt["objects"][shard_key(name, pack)] = shard.record
        storage.put(task.receipt, seal(receipt, receipt))
    cache.withdraw_summaries([0])
    Cache.open(uri).summarize()


class TestCommands:
    def test_a_training_and_the_list(
        self, bucket: Bucket, tmp_path: Path, gdist: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from test_train import SHORT

        monkeypatch.setenv("GDIST_LOCAL", str(tmp_path / "local"))
        settings = [part for name, value in SHORT.items() for part in ("--set", f"{name}={json.dumps(value)}")]
        results = []
        for name, cache in (("first", bucket.uri), ("second", bucket.uri), ("disk", bucket.folder)):
            result = gdist("train", "--cache", cache, "--out", tmp_path / name, *settings, "--json")
            assert result.exit_code == 0, result.stderr
            results.append(json.loads(result.stdout))
            provenance = json.loads((tmp_path / name / "run.json").read_text())
            for field in ("bytes_fetched", "bytes_local", "data_wait_fraction"):
                assert provenance[field] == results[-1][field]
        kinds = [row["kind"] for row in Run(tmp_path / "first").read_metrics() if row["bytes_fetched"]]
        assert {*kinds} == {"train", "valid"}, "what validations read counts, also after the last step"
        assert results[0]["bytes_fetched"] > 0 == results[1]["bytes_fetched"] < results[1]["bytes_local"]
        assert results[2]["bytes_fetched"] == results[2]["bytes_local"] == 0
        students = [contents(tmp_path / name / "student") for name in ("first", "second", "disk")]
        assert students[0] == students[1] == students[2]

        evaluated = gdist("eval", tmp_path / "first", "--probes", "none", "--json")
        assert evaluated.exit_code == 0, evaluated.stderr
        listed = json.loads(gdist("local", "--json").stdout)
        assert [row["cache"] for row in listed["caches"]] == [bucket.uri]
        assert listed["caches"][0]["bytes"] == sum(path.stat().st_size for path in _shards(tmp_path))
        assert bucket.uri in gdist("local").stdout
        wrong = gdist("local", "--clear", "s3://other/cache")
        assert wrong.exit_code == 2 and bucket.uri in wrong.stderr
        assert gdist("local", "--clear", bucket.uri).exit_code == 0
        assert not _shards(tmp_path) and json.loads(gdist("local", "--json").stdout)["caches"] == []

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--local-limit", "many"], "type a number and kB, MB, GB or TB"),
            (["--local-limit", "500GB"], "there is no --local"),
            (["--local", "s3://bucket/local"], "must be a folder on this machine"),
        ],
    )
    def test_what_cannot_be(
        self, gdist: Callable[..., Result], tmp_path: Path, options: list[str], said: str
    ) -> None:
        result = gdist("train", "--cache", tmp_path / "cache", "--out", tmp_path / "run", *options)
        assert result.exit_code == 2 and said in " ".join(result.stderr.split())

    def test_no_folder_is_named(self, gdist: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GDIST_LOCAL", raising=False)
        result = gdist("local")
        assert result.exit_code == 2 and "gdist local --local" in result.stderr
