"""The store itself, without a teacher: what is committed reads back bit for bit, and nothing else counts as data."""

import copy
import functools
import itertools
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from conftest import contents
from framings import FRAMINGS
from identities import ABOUT, NOBODYS

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encode import COMPRESS
from gdist.pipeline.cache.encodings import ENCODINGS, Stored
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.layout import place
from gdist.pipeline.cache.plan import NO_SAMPLE, WAVEFORM, Plan, Task, layer_name
from gdist.pipeline.cache.planning import PLANNING, is_ours, remove
from gdist.pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from gdist.pipeline.framing import WAV2VEC2, Framing
from gdist.pipeline.storage.objects import Storage

LAYERS, DIM, CHUNK, PACK = [0, 2], 8, 128, 256
# Lengths on every edge: one frame, a chunk to the frame, one more, a whole pack; and one that is too short.
SAMPLES = [16_000, 400, 399, 128 * 320 + 80, 128 * 320 + 400, 5_000, 256 * 320, 7_777]
MEASURES = {"rms": 1.0, "max_abs": 1.0, "relative_error": 0.0, "cosine": 1.0}
STATISTICS = {"frames": 1, "layers": {f"{layer:02d}": MEASURES for layer in LAYERS}}
Rows = dict[str, np.ndarray[Any, Any]]


def make_plan(encoding: str = "fp16", framing: Framing = WAV2VEC2, **identity: Any) -> Plan:
    lengths = [(f"u{i}", n, None) for i, n in enumerate(SAMPLES)]
    whole = {"layers": LAYERS, "dim": DIM, "encoding": encoding, "compress": COMPRESS}
    whole |= {"framing": framing.to_dict(), "chunk_frames": CHUNK, "pack_frames": PACK}
    labels = pa.table({"speaker": [f"s{i % 2}" for i in range(len(SAMPLES))]})
    entries = place(lengths, 10**9, CHUNK, PACK, framing=framing)
    files = {"config.json": b"{}", "frontend.safetensors": b"F"}
    if ENCODINGS[encoding].calibrated:
        sample = torch.randn(300, DIM, generator=torch.Generator().manual_seed(0))
        tables = ENCODINGS[encoding].calibrate(sample).items()
        layers = identity.get("layers") or LAYERS
        named = {f"{layer:02d}.{name}": table.clone() for layer in layers for name, table in tables}
        files["tables-0.safetensors"] = safetensors.torch.save(named)
    return Plan(NOBODYS | whole | identity, ABOUT, entries, labels, files)


def hidden_of(entry: Entry, layer: int) -> torch.Tensor:
    return torch.randn(
        entry.num_frames, DIM, generator=torch.Generator().manual_seed(hash((entry.id, layer)) % 2**31)
    )


def waveform_of(entry: Entry) -> np.ndarray[Any, Any]:
    return np.random.default_rng(entry.num_samples).integers(-32_767, 32_768, entry.num_samples).astype(np.int16)


def pack_rows(cache: Cache, pack: int) -> Rows:
    """A pack's rows, as :meth:`Cache.commit` takes them."""
    rows = {name: spec.empty_pack() for name, spec in cache.specs.items()}
    for entry in cache.pack_entries(pack):
        start = entry.start_frame - pack * PACK
        if entry.num_frames:
            for layer in LAYERS:
                for folder, stored in encoded(cache, entry, layer).items():
                    destination = rows[layer_name(layer, folder)]
                    first = start * len(destination) // PACK
                    destination[first : first + len(stored)] = stored.numpy()
            flat = rows[WAVEFORM][start : start + entry.num_rows(cache.framing)].reshape(-1)
            flat[: entry.num_samples] = waveform_of(entry)
    return rows


def encoded(cache: Cache, entry: Entry, layer: int) -> Stored:
    """One utterance's rows of each array of a layer."""
    hidden_TD, frames = hidden_of(entry, layer), entry.num_frames
    stored = cache.encoding.encode(hidden_TD[None], torch.tensor([frames]), cache.tables[layer])
    parts = cache.encoding.parts(DIM)
    return {
        folder: rows[0, : -(-frames // CHUNK) if parts[folder].per_chunk else frames]
        for folder, rows in stored.items()
    }


def decoded(cache: Cache, entry: Entry, layer: int) -> torch.Tensor:
    chunk_T = torch.arange(entry.num_frames) // CHUNK
    return cache.encoding.decode(encoded(cache, entry, layer), chunk_T, cache.tables[layer])


def commit(cache: Cache, pack: int) -> None:
    quarantine = {e.id: e.problem for e in cache.pack_entries(pack) if e.problem}
    cache.commit(task_of(cache, pack), pack_rows(cache, pack), quarantine, STATISTICS)


def task_of(cache: Cache, pack: int) -> Task:
    (task,) = cache.tasks_of(pack)
    return task


def filled(uri: object, encoding: str = "fp16", framing: Framing = WAV2VEC2) -> Cache:
    cache = Cache.create(str(uri), make_plan(encoding, framing))
    for pack in range(cache.packs):
        commit(cache, pack)
    return cache


def with_data(cache: Cache) -> list[Entry]:
    return [entry for entry in cache.entries if entry.num_frames]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return filled(tmp_path / "cache")


class TestReadingBack:
    @pytest.mark.parametrize("encoding", ENCODINGS)
    @pytest.mark.filterwarnings("error")  # torch warns of arrays that are not writable
    def test_bit_for_bit(self, tmp_path: Path, encoding: str) -> None:
        filled(tmp_path, encoding)
        cache = Cache.open(str(tmp_path))
        assert cache.packs >= 4
        spans = [(entry, 0, entry.num_frames) for entry in with_data(cache)]
        for layer in LAYERS:
            for (entry, _, _), read in zip(spans, cache.hidden(layer, spans), strict=True):
                expected = decoded(cache, entry, layer)
                assert read.dtype == torch.float32 and torch.equal(read, expected)
        for (entry, _, _), samples in zip(spans, cache.waveform(spans), strict=True):
            assert samples.dtype == np.int16 and np.array_equal(samples, waveform_of(entry))

    @pytest.mark.parametrize("name", FRAMINGS)
    def test_crops_are_slices_of_the_whole(self, tmp_path: Path, name: str) -> None:
        """Whatever the framing is: the samples of a crop are those that yield its frames."""
        filled(tmp_path, framing=FRAMINGS[name][0])
        cache = Cache.open(str(tmp_path))
        framing = cache.framing
        assert framing == FRAMINGS[name][0] and len(with_data(cache)) >= 5
        assert cache.specs[WAVEFORM].width == framing.hop
        rng = np.random.default_rng(0)
        spans = []
        for entry in with_data(cache) * 4:
            first = int(rng.integers(max(entry.num_frames - 1, 1)))
            spans.append((entry, first, int(rng.integers(1, entry.num_frames - first + 1))))
        for (entry, first, frames), read in zip(spans, cache.hidden(2, spans), strict=True):
            assert torch.equal(read, cache.hidden(2, [(entry, 0, entry.num_frames)])[0][first : first + frames])
        for (entry, first, frames), samples in zip(spans, cache.waveform(spans), strict=True):
            start, stop = framing.crop_samples(first, frames)
            stop = entry.num_samples if first + frames == entry.num_frames else stop
            assert np.array_equal(samples, waveform_of(entry)[start:stop])
            assert framing.num_frames(len(samples)) == frames

    def test_in_any_order_and_more_than_once(self, cache: Cache) -> None:
        entry, other = with_data(cache)[3], with_data(cache)[0]
        read = cache.hidden(0, [(entry, 2, 3), (other, 0, 4), (entry, 1, 2)])
        assert torch.equal(read[0][0], read[2][1])
        assert torch.equal(read[1], cache.hidden(0, [(other, 0, 4)])[0])

    def test_memory_holds_the_same_objects(self, cache: Cache) -> None:
        uri = f"memory://{uuid.uuid4()}"
        filled(uri)
        storage = Storage(uri)
        assert cache.storage.folder is not None
        assert {key: storage.get(key) for key in storage.objects()} == contents(cache.storage.folder)

    def test_labels_and_documents_travel(self, cache: Cache) -> None:
        again = Cache.open(cache.uri)
        assert [e.labels["speaker"] for e in again.entries] == [f"s{i % 2}" for i in range(len(SAMPLES))]
        assert again.document("frontend.safetensors") == b"F"

    def test_a_layer_that_is_not_stored(self, cache: Cache) -> None:
        with pytest.raises(CacheError, match=r"does not contain layer 1 \(it contains \[0, 2\]\)"):
            cache.hidden(1, [(cache.entries[0], 0, 1)])

    def test_other_readers_of_zarr_understand_it(self, cache: Cache) -> None:
        import zarr

        group = zarr.open_group(cache.uri, mode="r")
        layer: Any = group["layers/02"]
        assert (layer.shape, layer.shards, layer.chunks) == ((cache.packs * PACK, DIM), (PACK, DIM), (CHUNK, DIM))
        entry = with_data(cache)[3]
        rows = layer[entry.start_frame : entry.start_frame + entry.num_frames]
        assert np.array_equal(rows, hidden_of(entry, 2).half().numpy())
        assert np.isnan(layer[entry.start_frame + entry.num_frames]).all()


class TestNothingElseIsTakenForData:
    """Whatever is lost, a read of the utterance names it; reads of the others still work."""

    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
        """A cache of each encoding, for reading only."""

        @functools.cache
        def of(encoding: str) -> Path:
            folder = tmp_path_factory.mktemp("whole") / encoding
            filled(folder, encoding)
            return folder

        return of

    @pytest.mark.parametrize("array", ["layers/00", "layers/02", WAVEFORM])
    @pytest.mark.parametrize("damage", ["missing", "empty", "torn", "flipped", "receipt"])
    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_lost_rows(
        self, whole: Callable[[str], Path], tmp_path: Path, array: str, damage: str, encoding: str
    ) -> None:
        shutil.copytree(whole(encoding), tmp_path, dirs_exist_ok=True)
        cache = Cache.open(str(tmp_path))
        victim, other = with_data(cache)[2], with_data(cache)[0]
        assert victim.pack != other.pack
        shard = tmp_path / array / "c" / str(victim.pack) / "0"
        data = shard.read_bytes()
        if damage == "missing":
            shard.unlink()
        elif damage == "empty":
            shard.write_bytes(b"")
        elif damage == "torn":
            shard.write_bytes(data[: len(data) // 2])
        elif damage == "flipped":  # the first chunk of the shard
            shard.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
        else:
            (tmp_path / f"receipts/{victim.pack:05d}.json").unlink()

        def read(*entries: Entry) -> list[Any]:
            spans = [(entry, 0, 1) for entry in entries]
            return cache.waveform(spans) if array == WAVEFORM else cache.hidden(int(array[-2:]), spans)

        for entries in ([victim], [other, victim, other]):
            with pytest.raises(CacheDamagedError, match=f"utterance {victim.id} ") as caught:
                read(*entries)
            assert array in caught.value.message
            needs = " --manifest M.parquet" if array == WAVEFORM else ""
            assert caught.value.hint == f"gdist verify {tmp_path} --repair{needs}"
        read(other)

    def test_rows_never_written(self, tmp_path: Path) -> None:
        """A pack whose task forgot an utterance: its rows contain the fill value."""
        cache = Cache.create(str(tmp_path), make_plan())
        for pack in range(cache.packs):
            cache.commit(
                task_of(cache, pack), {name: spec.empty_pack() for name, spec in cache.specs.items()}, {}, {}
            )
        entry = with_data(cache)[0]
        with pytest.raises(CacheDamagedError, match=r"layers/02 .*: utterance u0 is missing from it"):
            cache.hidden(2, [(entry, 0, 1)])
        with pytest.raises(CacheDamagedError, match=r"waveform .*: utterance u0 is missing from it"):
            cache.waveform([(entry, 0, 1)])

    @pytest.mark.parametrize(
        ("name", "message"),
        [("index.parquet", "does not match its checksum"), ("zarr.json", "its bytes do not match its checksum")],
    )
    def test_damaged_documents(self, cache: Cache, name: str, message: str) -> None:
        (Path(cache.uri) / "plans/00000.parquet").unlink()  # the index's copy, which would do
        path = Path(cache.uri) / name
        data = path.read_bytes()
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        with pytest.raises(
            CacheDamagedError, match=message if name == "index.parquet" else "does not describe a cache"
        ):
            Cache.open(cache.uri)

    @pytest.mark.parametrize("name", ["config.json", "frontend.safetensors"])
    def test_damaged_teacher(self, cache: Cache, name: str) -> None:
        (Path(cache.uri) / "teacher" / name).write_bytes(b"G")
        with pytest.raises(CacheDamagedError, match=f"teacher/{name} does not match its checksum"):
            cache.document(name)
        (Path(cache.uri) / "teacher" / name).unlink()
        with pytest.raises(CacheDamagedError, match=f"teacher/{name} is missing"):
            cache.document(name)

    def test_a_receipt_of_another_pack_does_not_count(self, cache: Cache) -> None:
        receipts = Path(cache.uri) / "receipts"
        (receipts / "00001.json").write_bytes((receipts / "00000.json").read_bytes())
        with pytest.raises(CacheDamagedError, match=r"receipts/00001.json .* it is the receipt of pack 0"):
            cache.receipt(task_of(cache, 1))

    def test_a_future_format_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as future:
            future.setattr("gdist.pipeline.cache.plan.FORMAT", 2)
            future.setattr("gdist.pipeline.cache.planning.FORMAT", 2)
            filled(tmp_path)
        with pytest.raises(CacheError, match="has cache format 2; this gdist reads format 1"):
            Cache.open(str(tmp_path))
        with pytest.raises(CacheError, match="has cache format 2"):
            remove(Storage(str(tmp_path)))


class TestBrokenPacks:
    """What a listing and the receipts show before training begins."""

    def test_none(self, cache: Cache) -> None:
        assert cache.broken_packs([*cache.specs]) == {}

    @pytest.mark.parametrize("encoding", ["fp16", "int8"])
    def test_missing_and_cut_short(self, tmp_path: Path, encoding: str) -> None:
        filled(tmp_path, encoding)
        cache = Cache.open(str(tmp_path))
        (tmp_path / "layers/02/c/1/0").unlink()
        cut = tmp_path / "waveform/c/2/0"
        whole = cut.stat().st_size
        cut.write_bytes(cut.read_bytes()[:-7])
        assert cache.broken_packs([*cache.specs]) == {
            1: "layers/02/c/1/0 is missing",
            2: f"waveform/c/2/0 has {whole - 7:,} bytes, not {whole:,}",
        }
        assert cache.broken_packs(["layers/02"]).keys() == {1}
        assert cache.broken_packs(["layers/00", "layers/02"]).keys() == {1}
        assert cache.broken_packs(["layers/00"]) == {}

    def test_packs_that_were_never_committed_are_none(self, tmp_path: Path) -> None:
        cache = Cache.create(str(tmp_path), make_plan())
        commit(cache, 1)
        assert cache.broken_packs([*cache.specs]) == {}
        (tmp_path / "layers/00/c/1/0").unlink()
        assert cache.broken_packs([*cache.specs]) == {1: "layers/00/c/1/0 is missing"}

    def test_layers_with_similar_names(self, tmp_path: Path) -> None:
        """A listing of layers/1 must not include layers/10."""
        cache = filled(tmp_path)
        (tmp_path / "layers/00/c/1/00").write_bytes(b"other people's")
        assert cache.broken_packs([*cache.specs]) == {}

    def test_no_shard_is_read(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        got: list[str] = []
        listed: list[str] = []

        def noted(real: Callable[..., Any], into: list[str]) -> Callable[..., Any]:
            def ask(key: str, *limit: int) -> Any:
                into.append(key)
                return real(key, *limit)

            return ask

        monkeypatch.setattr(cache.storage, "get", noted(cache.storage.get, got))
        monkeypatch.setattr(cache.storage, "objects", noted(cache.storage.objects, listed))
        cache.broken_packs(["layers/00", WAVEFORM])
        assert sorted(got) == [*(task.receipt for task in cache.tasks), "summaries/00000.json"]
        assert sorted(listed) == ["layers/00/c", "receipts", "waveform/c"]


class TestCommit:
    def test_the_same_pack_twice_is_fine(self, cache: Cache) -> None:
        before = contents(Path(cache.uri))
        for pack in range(cache.packs):
            commit(cache, pack)
        assert contents(Path(cache.uri)) == before

    def test_other_bytes_are_refused_and_harm_nothing(self, cache: Cache) -> None:
        before = contents(Path(cache.uri))
        rows = pack_rows(cache, 0)
        rows["layers/02"][0, 0] += 1
        with pytest.raises(CacheError, match=r"pack 0 of .* was written by another process with different bytes"):
            cache.commit(task_of(cache, 0), rows, {}, STATISTICS)
        assert contents(Path(cache.uri)) == before

    def test_losing_the_race_to_other_bytes_is_reported(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        """The other process's receipt appears between our check and our own receipt."""
        rows = pack_rows(cache, 0)
        rows["layers/02"][0, 0] += 1
        looks = iter([None])
        honest = cache.receipt
        monkeypatch.setattr(cache, "receipt", lambda pack: next(looks, honest(pack)))
        with pytest.raises(CacheError, match="was written by another process with different bytes"):
            cache.commit(task_of(cache, 0), rows, {}, STATISTICS)

    def test_the_receipt_is_written_last(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cache = Cache.create(str(tmp_path), make_plan())
        written: list[str] = []
        put, put_new = cache.storage.put, cache.storage.put_new

        def noted(write: Callable[[str, bytes], Any]) -> Callable[[str, bytes], Any]:
            def wrapper(key: str, data: bytes) -> Any:
                written.append(key)
                return write(key, data)

            return wrapper

        monkeypatch.setattr(cache.storage, "put", noted(put))
        monkeypatch.setattr(cache.storage, "put_new", noted(put_new))
        commit(cache, 1)
        assert sorted(written[:-1]) == ["layers/00/c/1/0", "layers/02/c/1/0", "waveform/c/1/0"]
        assert written[-1] == "receipts/00001.json"
        assert cache.done() == {1}


class TestPlanning:
    def test_the_same_plan_opens_what_is_there(self, cache: Cache) -> None:
        before = contents(Path(cache.uri))
        again = Cache.create(cache.uri, make_plan())
        assert again.done() == set(range(again.packs))
        assert contents(Path(cache.uri)) == before

    def test_other_software_is_not_another_input(self, cache: Cache) -> None:
        again = Cache.create(cache.uri, replace(make_plan(), about={"gdist": "99"}))
        assert again.gdist == cache.gdist, "the cache tells what it was made with"

    def test_other_inputs_are_refused_with_every_difference(self, cache: Cache) -> None:
        before = contents(Path(cache.uri))
        with pytest.raises(CacheMismatchError) as caught:
            Cache.create(
                cache.uri, make_plan("fp32", layers=[0, 1, 2], teacher=NOBODYS["teacher"] | {"window": "short"})
            )
        for line in ("encoding: fp16 → fp32", "layers: [0, 2] → [0, 1, 2]", "teacher.window: None → short"):
            assert f"\n  {line}" in caught.value.message
        assert caught.value.hint and "--restart" in caught.value.hint
        assert contents(Path(cache.uri)) == before

    @pytest.mark.parametrize("name", ["notes.txt", "index.parquet", "teacher/config.json", "waveform/c/0/0"])
    def test_a_foreign_folder_is_left_untouched(self, tmp_path: Path, name: str) -> None:
        """Even where its files have the names that gdist's would have."""
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
        (tmp_path / "draft#1").write_text("mine too")
        with pytest.raises(CacheError, match=f"is not empty and contains no cache \\(it has {name}\\)"):
            Cache.create(str(tmp_path), make_plan())
        with pytest.raises(CacheError, match="contains no cache, so nothing there is deleted"):
            remove(Storage(str(tmp_path)))
        assert contents(tmp_path) == {name: b"mine", "draft#1": b"mine too"}

    def test_a_foreign_zarr_store_is_left_untouched(self, tmp_path: Path) -> None:
        (tmp_path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}))
        before = contents(tmp_path)
        for act in (lambda: Cache.create(str(tmp_path), make_plan()), lambda: remove(Storage(str(tmp_path)))):
            with pytest.raises(CacheError):
                act()
        assert contents(tmp_path) == before

    def test_a_plan_killed_anywhere_is_made_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """… with other inputs, too: nothing of the unfinished plan stays."""
        whole = contents(Path(filled(tmp_path / "whole").uri))
        for lives in itertools.count():
            folder = tmp_path / str(lives)
            with monkeypatch.context() as patch:
                die_after(lives, patch)
                try:
                    Cache.create(str(folder), make_plan(layers=[0, 1, 2]))
                except KilledError:
                    pass
                else:
                    break
            if (folder / "zarr.json").exists():  # the plan is complete, and other inputs are another cache
                assert Cache.create(str(folder), make_plan(layers=[0, 1, 2])).layers == [0, 1, 2]
                assert PLANNING not in contents(folder)
                remove(Storage(str(folder)))
            filled(folder)
            assert contents(folder) == whole, f"killed after {lives} operations"
        assert lives == 2 + len(make_plan(layers=[0, 1, 2]).documents())  # the marker comes and goes

    def test_a_restart_killed_anywhere_never_leaves_half_a_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for lives in (0, 1, 2, 5, 12):
            folder = tmp_path / str(lives)
            whole = contents(Path(filled(folder).uri))
            (folder / "notes.txt").write_text("mine")
            with monkeypatch.context() as patch, pytest.raises(KilledError):
                die_after(lives, patch)
                remove(Storage(str(folder)))
            if (folder / "zarr.json").exists():
                assert {k: v for k, v in contents(folder).items() if k not in ("notes.txt", PLANNING)} == whole
            remove(Storage(str(folder)))
            assert {*contents(folder)} == {"notes.txt", PLANNING}
            filled(folder)
            assert contents(folder) == whole | {"notes.txt": b"mine"}

    def test_a_cache_with_a_damaged_root_can_be_restarted(self, cache: Cache) -> None:
        (Path(cache.uri) / "zarr.json").write_bytes(b"{}")
        with pytest.raises(CacheDamagedError) as caught:
            Cache.create(cache.uri, make_plan())
        assert caught.value.hint and "--restart" in caught.value.hint
        remove(Storage(cache.uri))
        filled(cache.uri)

    def test_every_object_of_a_cache_is_known_as_ours(self, cache: Cache, tiny_cache: Path) -> None:
        assert all(map(is_ours, {**contents(Path(cache.uri)), **contents(tiny_cache)}))
        for name in ("notes.txt", "teacher/a/b", "receipts/x.json", "layers/00/notes", "zarr.json.bak"):
            assert not is_ours(name)

    def test_a_plan_is_a_function_of_its_inputs(self) -> None:
        plan = make_plan()
        assert plan.documents() == copy.deepcopy(plan).documents() == make_plan().documents()
        assert list(plan.documents())[-1] == "zarr.json"

    def test_all_packs_empty(self, tmp_path: Path) -> None:
        plan = replace(make_plan(), entries=place([("u0", 10, None)], 10**9, CHUNK, PACK), labels=None)
        cache = Cache.create(str(tmp_path), plan)
        assert cache.packs == 1
        commit(cache, 0)
        receipt = cache.receipt(task_of(cache, 0))
        assert receipt is not None and receipt["quarantine"] == {"u0": plan.entries[0].problem}


def test_the_fill_value_of_the_waveform_is_not_a_sample() -> None:
    """Audio is clipped to ±32,767, so the minimum of int16 is free to mark what was never written."""
    from gdist.pipeline.audio import PEAK

    assert -PEAK > NO_SAMPLE == np.iinfo(np.int16).min


# --- dying ----------------------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Stands in for SIGKILL, between two operations on the store."""


def die_after(lives: int, patch: pytest.MonkeyPatch) -> None:
    """The store takes ``lives`` more writes and deletions."""
    left = iter(range(lives))

    def mortal(operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise KilledError
            return operation(*args, **kwargs)

        return wrapped

    patch.setattr(obstore, "put", mortal(obstore.put))
    honest = Storage.delete

    def delete(self: Storage, keys: list[str]) -> None:
        for key in keys:
            mortal(honest)(self, [key])

    patch.setattr(Storage, "delete", delete)
