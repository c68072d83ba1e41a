"""The local folder by itself: one fetch for all processes, whatever dies, and only gdist's own files touched."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import mounted
from fetching import opened, shard

from gdist.pipeline.cache.encode import digest
from gdist.pipeline.errors import UsageError
from gdist.pipeline.local.folder import ROOT, LocalFolder
from gdist.pipeline.local.kept import Bytes, KeptCache, Record


def fetched(kept: KeptCache, record: Record, data: Bytes) -> tuple[bool, Bytes | None]:
    return kept.fetched(record, lambda alive: data)


def keep(kept: KeptCache, seed: int, size: int = 5000) -> bool:
    """Whether a shard is here afterwards."""
    record, data = shard(seed, size)
    kept.fetched(record, lambda alive: data)
    return kept.has(record)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def parts(folder: Path) -> list[str]:
    return [name for name in files(folder) if name.endswith(".part")]


def never(alive: object) -> Bytes:
    raise AssertionError("it is here already")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    with mounted(tmp_path / "disk", "size=1m") as disk:
        yield disk


class TestKept:
    def test_a_shard_is_found_by_its_digest_alone(self, tmp_path: Path) -> None:
        record, data = shard(1)
        kept = opened(tmp_path)
        assert kept.fetched(record, lambda alive: data) == (True, None)
        assert opened(tmp_path).fetched(record, never) == (False, None)
        assert kept.storage.get(kept.key(record)) == bytes(data)
        assert not kept.has(shard(2)[0]) and not kept.has(record._replace(bytes=4999))
        assert not opened(tmp_path, uri="s3://bucket/libri2").has(record)

    def test_a_failed_fetch_leaves_nothing(self, tmp_path: Path) -> None:
        kept, (record, _) = opened(tmp_path), shard(1)
        before = files(tmp_path)

        def broken(alive: object) -> Bytes:
            raise ValueError("does not match")

        with pytest.raises(ValueError, match="does not match"):
            kept.fetched(record, broken)
        assert files(tmp_path) == before
        assert (tmp_path / ROOT / "used").read_text() == "0"
        assert keep(kept, 1)

    def test_a_damaged_shard_is_noticed_and_discarded(self, tmp_path: Path) -> None:
        kept, (record, _) = opened(tmp_path), shard(1)
        keep(kept, 1)
        path = kept.path / kept.key(record)
        assert kept.is_whole(record, digest)
        path.write_bytes(bytes(5000))
        assert kept.has(record) and not kept.is_whole(record, digest)
        kept.discard(record)
        assert not path.exists() and keep(kept, 1)

    def test_a_digest_that_is_not_one_never_becomes_a_path(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError):
            opened(tmp_path).has(Record(5000, "../../../etc/passwd"))

    def test_shards_that_are_no_longer_the_caches(self, tmp_path: Path) -> None:
        kept = opened(tmp_path)
        assert keep(kept, 1) and keep(kept, 2)
        kept.delete([shard(1)[0].digest])
        assert kept.digests() == {shard(2)[0].digest}


class TestRoom:
    def test_a_limit_is_never_exceeded_by_any_number_of_threads(self, tmp_path: Path) -> None:
        caches = [opened(tmp_path, 42_000, f"s3://bucket/{name}") for name in "ab"]
        with ThreadPoolExecutor(8) as pool:
            stayed = list(pool.map(lambda seed: keep(caches[seed % 2], seed), range(30)))
        assert sum(stayed) == 8
        assert LocalFolder(tmp_path).recount() == 40_000
        assert all(cache.keeping for cache in caches), "a full folder is no fault"

    def test_what_does_not_fit_is_handed_over(self, tmp_path: Path) -> None:
        record, data = shard(1)
        fetched, here = opened(tmp_path, 4_000).fetched(record, lambda alive: data)
        assert fetched and here is data

    def test_the_count_survives_what_was_killed_or_deleted_by_hand(self, tmp_path: Path) -> None:
        kept = opened(tmp_path, 12_000)
        assert keep(kept, 1) and keep(kept, 2) and not keep(kept, 3)
        (kept.path / kept.key(shard(1)[0])).unlink()
        assert not keep(kept, 3), "nobody counts in between"
        assert keep(opened(tmp_path, 12_000), 3)

    def test_a_full_disk_is_said_once_and_loses_nothing(
        self, small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            LocalFolder, "room", lambda self, used: 1 << 40
        )  # as if another process had just filled it
        kept = opened(small_disk)
        shards = [shard(seed, 300_000) for seed in range(6)]
        got = [fetched(kept, *each) for each in shards]
        assert [here is None for _, here in got] == [True] * 3 + [False] * 3
        assert all(
            here is None or np.array_equal(here, shard(seed, 300_000)[1]) for seed, (_, here) in enumerate(got)
        )
        assert capsys.readouterr().err.count("no more shards are kept") == 1
        assert all(kept.is_whole(record, digest) for record, _ in shards[:3]), "what is there is still read"
        assert not parts(small_disk)

    def test_some_of_a_disk_is_left_to_others(self, small_disk: Path) -> None:
        kept = opened(small_disk)
        assert sum(keep(kept, seed, 100_000) for seed in range(12)) < 10
        assert kept.keeping


class TestFaults:
    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match=r"cannot keep a local copy in .*: Not a directory"):
            LocalFolder(tmp_path / "file" / "local")
        with pytest.raises(UsageError, match="must be a folder on this machine"):
            LocalFolder("s3://bucket/local")

    def test_a_read_only_folder_is_read(self, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert keep(opened(small_disk), 1)
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        kept = opened(small_disk)
        assert kept.has(shard(1)[0]) and not keep(kept, 2)
        assert capsys.readouterr().err.count("no more shards are kept") == 1

    def test_a_removed_folder_is_not_made_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        kept = opened(tmp_path / "local")
        assert keep(kept, 1)
        subprocess.run(["rm", "-r", tmp_path / "local"], check=True)
        record, data = shard(1)
        assert kept.fetched(record, lambda alive: data)[1] is data
        assert not (tmp_path / "local").exists(), "it may be where a disk is to be mounted"
        assert "the folder is gone" in capsys.readouterr().err

    def test_a_link_in_place_of_a_shard_is_not_followed(self, tmp_path: Path) -> None:
        kept, (record, data) = opened(tmp_path / "local"), shard(1)
        theirs = tmp_path / "theirs"
        theirs.write_bytes(data.tobytes())
        link = kept.path / f"{kept.key(record)}.part"
        link.parent.mkdir()
        link.symlink_to(theirs)
        assert kept.fetched(record, lambda alive: data)[1] is data
        assert theirs.read_bytes() == data.tobytes()


class TestOthersFiles:
    def test_clearing_deletes_only_what_gdist_keeps(self, tmp_path: Path) -> None:
        kept, other = opened(tmp_path), opened(tmp_path, uri="s3://bucket/other")
        assert keep(kept, 1) and keep(kept, 2) and keep(other, 3)
        for name in ("notes.txt", f"{ROOT}/notes.txt", f"{ROOT}/{kept.path.name}/ab.txt", "ab/" + "ab" * 16):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("mine")
        (kept.path / "ff").symlink_to(other.path)
        folder = LocalFolder(tmp_path)
        assert [(found.note["uri"], found.shards) for found in folder.caches()] == [
            ("s3://bucket/libri", 2),
            ("s3://bucket/other", 1),
        ]
        assert folder.clear([kept.path.name]) == (2, 10_000)
        assert {(tmp_path / name).read_text() for name in ("notes.txt", f"{ROOT}/notes.txt")} == {"mine"}
        assert other.has(shard(3)[0]) and not kept.has(shard(1)[0])
        assert keep(kept, 1), "a run goes on with a folder that was cleared"

    def test_an_empty_cache_leaves_no_trace(self, tmp_path: Path) -> None:
        kept = opened(tmp_path)
        assert keep(kept, 1)
        LocalFolder(tmp_path).clear([kept.path.name])
        assert files(tmp_path) == {f"{ROOT}/lock", f"{ROOT}/used"}


# --- several processes ----------------------------------------------------------------------------------------------


def fetching(folder: Path, log: Path, seconds: float, *seeds: int) -> "subprocess.Popen[bytes]":
    """A process that fetches these shards one after another; see fetching.py."""
    script = str(Path(__file__).with_name("fetching.py"))
    return subprocess.Popen([sys.executable, script, *map(str, (folder, log, seconds, *seeds))])


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has begun to fetch shard 1 into tmp_path / "local", and will not finish."""
    process = fetching(tmp_path / "local", tmp_path / "log", 3600, 1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


class TestProcesses:
    def test_a_shard_is_fetched_once_between_them(self, tmp_path: Path) -> None:
        seeds, log = list(range(20)), tmp_path / "log"
        orders = [seeds[start:] + seeds[:start] for start in (0, 0, 10)]
        processes = [fetching(tmp_path / "local", log, 0.02, *order) for order in orders]
        assert [process.wait(120) for process in processes] == [0, 0, 0]
        assert sorted(map(int, log.read_text().split())) == seeds
        assert not parts(tmp_path)

    def test_an_owner_that_is_killed_blocks_nobody(self, tmp_path: Path, owner: "subprocess.Popen[bytes]") -> None:
        kept, (record, data) = opened(tmp_path / "local"), shard(1)
        got: list[object] = []
        waiting = threading.Thread(target=lambda: got.append(kept.fetched(record, lambda alive: data)))
        waiting.start()
        time.sleep(0.3)
        assert not got, "it waits for the owner"
        owner.kill()
        waiting.join(30)
        assert got == [(True, None)] and kept.has(record)

    def test_what_a_killed_owner_left_is_removed_by_the_next_run(
        self, tmp_path: Path, owner: "subprocess.Popen[bytes]"
    ) -> None:
        opened(tmp_path / "local")
        assert parts(tmp_path), "its owner lives"
        assert (tmp_path / "local" / ROOT / "used").read_text() == "5000"
        owner.kill()
        owner.wait()
        opened(tmp_path / "local")
        assert not parts(tmp_path)
        assert (tmp_path / "local" / ROOT / "used").read_text() == "0"

    def test_an_owner_that_was_stopped_is_passed_by(
        self, tmp_path: Path, owner: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        owner.send_signal(signal.SIGSTOP)
        monkeypatch.setenv("GDIST_STORE_TIMEOUT", "0.2")
        record, data = shard(1)
        fetched, here = opened(tmp_path / "local").fetched(record, lambda alive: data)
        assert fetched and here is data
