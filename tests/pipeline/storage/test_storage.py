"""Objects in folders and in memory, sealed documents, and places that cannot be written."""

import os
import uuid
from pathlib import Path
from typing import Any

import obstore
import pytest
from conftest import mounted
from hypothesis import given
from hypothesis import strategies as st

from gdist.pipeline.errors import CacheDamagedError, CacheError, UsageError
from gdist.pipeline.storage.objects import Storage, seal, unseal


@pytest.fixture(params=["folder", "file://", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    uris = {
        "folder": str(tmp_path / "a b" / "c"),
        "file://": f"file://{tmp_path}/c",
        "memory": f"memory://{uuid.uuid4()}",
    }
    return Storage(uris[request.param], create=True)


class TestObjects:
    def test_what_is_put_can_be_read(self, storage: Storage) -> None:
        storage.put("layers/00/c/0/0", b"old and longer")
        storage.put("layers/00/c/0/0", b"new")
        storage.put("empty", b"")
        assert storage.get("layers/00/c/0/0") == b"new"
        assert storage.get("empty") == b""

    def test_put_new_is_create_only(self, storage: Storage) -> None:
        assert storage.put_new("receipts/00000.json", b"first")
        assert not storage.put_new("receipts/00000.json", b"second")
        assert storage.get("receipts/00000.json") == b"first"

    def test_a_missing_object_is_file_not_found(self, storage: Storage) -> None:
        with pytest.raises(FileNotFoundError):
            storage.get("nothing/here")

    def test_listing_is_sorted_and_has_sizes(self, storage: Storage) -> None:
        for key in ("b/2", "b/10", "a", "bb/1"):
            storage.put(key, b"x" * len(key))
        assert {key: meta["size"] for key, meta in storage.objects().items()} == {
            "a": 1,
            "b/10": 4,
            "b/2": 3,
            "bb/1": 4,
        }
        assert list(storage.objects()) == ["a", "b/10", "b/2", "bb/1"]
        assert list(storage.objects("b")) == ["b/10", "b/2"]

    def test_deleting_a_missing_object_is_fine(self, storage: Storage) -> None:
        storage.put("a", b"x")
        storage.put("b", b"x")
        storage.delete(["nothing", "a", "a"])
        assert list(storage.objects()) == ["b"]

    def test_no_temporary_file_stays(self, tmp_path: Path) -> None:
        storage = Storage(str(tmp_path), create=True)
        storage.put("k", b"1")
        storage.put_new("k", b"2")
        storage.put_new("l", b"3")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["k", "l"]

    def test_the_sweep_takes_our_temporary_files_only(self, tmp_path: Path) -> None:
        storage = Storage(str(tmp_path), create=True)
        staged = ["layers/00/c/0/0#1", "receipts/00000.json#12"]
        kept = ["notes#1", "layers/00/c/0/0", "song in c#", "receipts/00000.json#1x"]
        for name in staged + kept:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        assert storage.sweep_staged(lambda key: key.startswith(("layers/", "receipts/"))) == 2
        assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)

    def test_two_names_of_memory_are_two_stores(self) -> None:
        name = uuid.uuid4()
        Storage(f"memory://{name}").put("k", b"x")
        assert Storage(f"memory://{name}").get("k") == b"x"
        assert not Storage(f"memory://{name}-other").objects()


class TestPlacesThatCannotBeUsed:
    def test_a_file_is_not_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(CacheError, match=r"cannot open .*file: File exists") as caught:
            Storage(str(tmp_path / "file"), create=True)
        assert caught.value.hint == "a file of that name is in the way; choose another place"
        with pytest.raises(CacheError, match="it is not a folder"):
            Storage(str(tmp_path / "file"))
        with pytest.raises(CacheError, match="Not a directory") as caught:
            Storage(str(tmp_path / "file" / "below"), create=True)
        assert caught.value.hint == "a part of the path is a file; choose another place"
        assert (tmp_path / "file").read_text() == "mine"

    def test_reading_creates_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CacheError, match="there is no such folder"):
            Storage(str(tmp_path / "nothing"))
        assert not list(tmp_path.iterdir())

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
    def test_where_no_folder_can_be_created(self) -> None:
        with pytest.raises(CacheError, match="no folder can be created there") as caught:
            Storage("/proc/gdist", create=True)
        assert caught.value.hint == "choose a place you may write to, or fix its permissions"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_of_another_user(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(CacheError, match="Permission denied") as caught:
            Storage(str(tmp_path), create=True).put("k", b"x")
        assert caught.value.hint == "choose a place you may write to, or fix its permissions"

    def test_a_full_disk(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "full", "size=64k") as folder:
            storage = Storage(str(folder), create=True)
            storage.put("small", b"kept")
            with pytest.raises(CacheError, match=r"cannot write .*/big: .*No space left on device") as caught:
                storage.put("big", b"x" * 200_000)
            assert caught.value.hint and "free some space" in caught.value.hint
            assert storage.get("small") == b"kept"
            assert [path.name for path in folder.iterdir()] == ["small"]

    def test_a_read_only_disk(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "fixed", "ro") as folder, pytest.raises(CacheError, match="Read-only") as caught:
            Storage(str(folder), create=True).put("a/b", b"x")
        assert caught.value.hint == "the file system is mounted read-only; choose another place"

    @pytest.mark.parametrize("uri", ["s4://bucket/x", "s3://"])
    def test_unknown_addresses(self, uri: str) -> None:
        with pytest.raises(UsageError, match=f"cannot use {uri}") as caught:
            Storage(uri)
        assert caught.value.hint and "s3://BUCKET/PATH" in caught.value.hint


class TestHints:
    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("Error performing PUT http://169.254.169.254/latest/api/token in 2s", "no credentials were found"),
            ("Server returned 404 Not Found: <Code>NoSuchBucket</Code>", "there is no such bucket"),
            ("HTTP error: error sending request", "check the network"),
            ("Unable to copy data to file: No space left on device (os error 28)", "free some space"),
            ("Unable to create dir /x: Permission denied (os error 13)", "choose a place you may write to"),
        ],
    )
    def test_what_object_stores_say(self, monkeypatch: pytest.MonkeyPatch, text: str, hint: str) -> None:
        def fail(*_: object, **__: object) -> None:
            raise obstore.exceptions.GenericError(f"Generic S3 error: {text}\n\nDebug source: …")

        monkeypatch.setattr(obstore, "put", fail)
        with pytest.raises(CacheError) as caught:
            Storage("memory://hints").put("a", b"x")
        assert caught.value.message == f"cannot write memory://hints/a: {text}"
        assert caught.value.hint and caught.value.hint.startswith(hint)


# --- seals ----------------------------------------------------------------------------------------------------------

DOCUMENT: dict[str, Any] = {"pack": 3, "quarantine": {"ü–1": "too short"}, "rms": [0.125, 1e-7], "deep": {"x": None}}


@pytest.fixture(scope="module")
def sealed() -> bytes:
    document = dict(DOCUMENT)
    return seal(document, document)


class TestSeals:
    def test_what_is_sealed_reads_back(self, sealed: bytes) -> None:
        document = unseal(sealed)
        assert document.pop("checksum") and document == DOCUMENT

    def test_the_seal_may_be_inside(self) -> None:
        holder: dict[str, Any] = {"format": 1}
        data = seal({"attributes": {"gdist": holder}, "zarr_format": 3}, holder)
        assert unseal(data, ("attributes", "gdist"))["attributes"]["gdist"] == holder
        with pytest.raises(CacheDamagedError):
            unseal(data)

    def test_every_flipped_bit_is_noticed(self, sealed: bytes) -> None:
        for position in range(len(sealed)):
            for bit in range(8):
                changed = bytearray(sealed)
                changed[position] ^= 1 << bit
                self.refused(bytes(changed))

    def test_every_lost_or_added_byte_is_noticed(self, sealed: bytes) -> None:
        for position in range(len(sealed)):
            self.refused(sealed[:position] + sealed[position + 1 :])
            self.refused(sealed[:position])
            for more in (b" ", b"\n", b"\x00", b"0"):
                self.refused(sealed[:position] + more + sealed[position:])

    @given(
        st.binary(max_size=64) | st.sampled_from([b"[]", b"1", b'"x"', b"{}", b'{"checksum": ""}', b"[" * 100_000])
    )
    def test_anything_else_is_refused(self, data: bytes) -> None:
        self.refused(data)

    @staticmethod
    def refused(data: bytes) -> None:
        with pytest.raises(CacheDamagedError):
            unseal(data)
