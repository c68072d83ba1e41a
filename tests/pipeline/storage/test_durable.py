"""Before a receipt is written its shards are on the disk, and so is the plan before the marker goes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import extracted

from gdist.pipeline.errors import CacheError
from gdist.pipeline.storage.durable import make_durable
from gdist.pipeline.storage.objects import Storage


def name_of(handle: int) -> str:
    return str(Path(f"/proc/self/fd/{handle}").readlink())


def test_in_this_order(tiny_teacher: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extraction, watched: nothing is announced that is not on the disk."""
    synced: set[str] = set()
    late: list[str] = []
    original_sync = os.fsync

    def fsync(handle: int) -> None:
        synced.add(name_of(handle).removeprefix(f"{tmp_path}/c/"))
        original_sync(handle)

    def watched(original: Callable[..., bool]) -> Callable[..., bool]:
        def put_new(self: Storage, key: str, data: bytes) -> bool:
            pack = int(key.split("/")[1].split(".")[0].split("-")[0]) if key.startswith("receipts/") else None
            if pack is not None:
                shards = [*(f"layers/{layer:02d}/c/{pack}/0" for layer in range(4)), f"waveform/c/{pack}/0"]
                late.extend(shard for shard in shards if shard not in synced)
                late.extend(folder for folder in ("layers", f"layers/03/c/{pack}") if folder not in synced)
                late.extend({"zarr.json", "index.parquet", "teacher/config.json"} - synced)
            return original(self, key, data)

        return put_new

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Storage, "put_new", watched(Storage.put_new))
    extracted(tiny_teacher, speech, tmp_path / "c")
    assert not late
    assert {f"receipts/{path.name}" for path in (tmp_path / "c/receipts").iterdir()} <= synced


def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path / "c"), create=True)
    storage.put("a/b", b"1")
    make_durable(storage, ["a/b"])

    def fails(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(CacheError, match=r"cannot write .*/c/a/b: Input/output error"):
        make_durable(storage, ["a/b"])
