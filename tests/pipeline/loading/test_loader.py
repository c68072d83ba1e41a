"""Batches from the cache: an order that can be computed, saved, shared among ranks and resumed."""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gdist.pipeline.audio import to_float
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.standing import Standing
from gdist.pipeline.errors import CacheDamagedError, CacheError, ConfigError
from gdist.pipeline.loading import loader
from gdist.pipeline.loading.batch import Batch, Buffers, Selection
from gdist.pipeline.loading.in_memory import InMemory
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.order import crops, group
from gdist.pipeline.loading.splits import DataConfig, choose_splits, usable_entries

LAYERS = [0, 3]
READ = Selection((0, 3))


@pytest.fixture(scope="module")
def cache(tiny_cache: Path) -> Cache:
    return Cache.open(str(tiny_cache))


def make(cache: Cache, **options: Any) -> Loader:
    settings: dict[str, Any] = {"choose": READ, "batch_seconds": 5.0, "seed": 3}
    return Loader(cache, usable_entries(cache), **(settings | options))


def same(one: Batch, other: Batch) -> bool:
    assert (one.waveform_BS is None) == (other.waveform_BS is None)
    return (
        one.ids == other.ids
        and one.position == other.position
        and torch.equal(one.hidden_BLTD, other.hidden_BLTD)
        and torch.equal(one.num_frames_B, other.num_frames_B)
        and torch.equal(one.num_samples_B, other.num_samples_B)
        and (one.waveform_BS is None or other.waveform_BS is None or torch.equal(one.waveform_BS, other.waveform_BS))
    )


class TestOrder:
    def test_it_is_a_function_of_seed_and_epoch(self, cache: Cache) -> None:
        whole = make(cache, crop_seconds=1.0)
        assert whole.epoch_batches(2) == make(cache, crop_seconds=1.0).epoch_batches(2)
        assert whole.epoch_batches(2) != whole.epoch_batches(3)
        assert whole.epoch_batches(2) != make(cache, crop_seconds=1.0, seed=4).epoch_batches(2)

    def test_it_does_not_depend_on_what_was_read_before(self, cache: Cache) -> None:
        used = make(cache)
        list(islice(used, 7))
        assert used.epoch_batches(5) == make(cache).epoch_batches(5)

    def test_each_utterance_once_per_epoch(self, cache: Cache) -> None:
        one = make(cache)
        for epoch in range(3):
            ids = [entry.id for batch in one.epoch_batches(epoch) for entry, _, _ in batch]
            assert Counter(ids) == Counter(entry.id for entry in cache.entries)

    def test_batches_are_within_their_seconds_and_of_similar_lengths(self, cache: Cache) -> None:
        one = make(cache, batch_seconds=6.0)
        batches = one.epoch_batches(0)
        for batch in batches:
            longest = max(frames for _, _, frames in batch)
            assert longest * len(batch) <= 6 * 50 or len(batch) == 1
        padded = sum(max(f for _, _, f in b) * len(b) for b in batches)
        assert padded < 1.3 * sum(f for b in batches for _, _, f in b)

    def test_windows_keep_reads_near_each_other(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loader, "WINDOW_PACKS", 2)
        touched = [{entry.pack for entry, _, _ in batch} for batch in make(cache).epoch_batches(0)]
        assert max(map(len, touched)) <= 2
        assert [next(iter(packs)) for packs in touched] != sorted(next(iter(packs)) for packs in touched)

    def test_the_stream_follows_the_order_into_the_next_epoch(self, cache: Cache) -> None:
        one = make(cache)
        expected = one.epoch_batches(0) + one.epoch_batches(1)
        for batch, spans in zip(one, expected, strict=False):
            assert batch.ids == tuple(entry.id for entry, _, _ in spans)
        assert one.state_dict()["epoch"] >= 1


class TestState:
    @pytest.mark.parametrize("world", [1, 2, 3])
    def test_it_resumes_in_the_middle_of_an_epoch(self, cache: Cache, world: int) -> None:
        """At any step, even at an epoch's end, and from the state of rank 0 for every rank."""
        per_epoch = len(make(cache).epoch_batches(0))
        steps = 2 * per_epoch + 3
        for rank in range(world):
            uninterrupted = list(islice(make(cache, rank=rank, world=world, crop_seconds=1.5), steps))
            for stop in (1, per_epoch - 1, per_epoch, per_epoch + 2):
                leader = make(cache, rank=0, world=world, crop_seconds=1.5)
                list(islice(leader, stop))
                resumed = make(cache, rank=rank, world=world, crop_seconds=1.5)
                resumed.load_state_dict(leader.state_dict())
                for batch, expected in zip(islice(resumed, steps - stop), uninterrupted[stop:], strict=True):
                    assert same(batch, expected)

    def test_it_resumes_on_another_number_of_ranks(self, cache: Cache) -> None:
        """One state serves any number: together they continue with exactly the rows that one rank would have read."""
        alone = list(islice(make(cache), 12))
        before = make(cache, rank=1, world=2)
        list(islice(before, 5))
        shares = []
        for rank in range(3):
            after = make(cache, rank=rank, world=3)
            after.load_state_dict(before.state_dict())
            shares.append(list(islice(after, 7)))
        for batch, *parts in zip(alone[5:], *shares, strict=True):
            assert sorted(batch.ids) == sorted(name for part in parts for name in part.ids)

    def test_what_was_only_read_ahead_does_not_count(self, cache: Cache) -> None:
        one = make(cache)
        stream = iter(one)
        next(stream)
        threading.Event().wait(0.2)  # the reader thread runs ahead
        assert one.state_dict() == {"epoch": 0, "position": 1}
        stream.close()

    def test_a_new_loader_starts_at_the_beginning(self, cache: Cache) -> None:
        assert make(cache).state_dict() == {"epoch": 0, "position": 0}


class TestRanks:
    @pytest.mark.parametrize("world", [2, 3, 5])
    def test_they_share_each_batchs_rows(self, cache: Cache, world: int) -> None:
        alone = list(islice(make(cache), 20))
        shares = [list(islice(make(cache, rank=rank, world=world), 20)) for rank in range(world)]
        assert any(batch.idle for share in shares for batch in share)  # some batch is one long utterance
        for batch, *parts in zip(alone, *shares, strict=True):
            rows = {row: name for part in parts for row, name in zip(part.rows, part.ids, strict=True)}
            assert [rows[row] for row in range(len(rows))] == list(batch.ids)
            assert all(part.all_ids == batch.ids and part.total_frames == batch.frames for part in parts)
            assert sum(part.frames for part in parts) == batch.frames
            assert all(part.position == batch.position for part in parts)

    def test_a_rank_without_a_row_gets_silence(self, cache: Cache) -> None:
        batch = next(b for b in islice(make(cache, rank=4, world=5), 20) if b.idle)
        assert batch.frames == 0 and batch.ids == () and batch.num_frames_B.tolist() == [1]
        assert batch.waveform_BS is not None and batch.waveform_BS.shape == (1, 400) and not batch.waveform_BS.any()
        assert batch.hidden_BLTD.shape == (1, 2, 1, 32) and not batch.hidden_BLTD.any()


class TestSelection:
    def test_each_batch_reads_what_is_chosen_for_it(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        """It depends on epoch and place alone: in another order or on another rank, it is the same."""
        monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
        read: list[int] = []
        original = Cache.hidden

        def counted(self: Cache, layer: int, *rest: Any) -> Any:
            read.append(layer)
            return original(self, layer, *rest)

        def choose(epoch: int, place: int) -> Selection:
            rng = np.random.default_rng([epoch, place])
            return Selection((int(rng.integers(4)),), waveforms=bool(rng.integers(2)))

        monkeypatch.setattr(Cache, "hidden", counted)
        batches = list(islice(make(cache, choose=choose), 12))
        assert len({batch.selection for batch in batches}) > 3
        for batch, layer in zip(batches, read, strict=False):
            assert batch.selection.layers == (layer,) and batch.hidden(layer).shape[0] == len(batch.ids)
            assert (batch.waveform_BS is not None) == batch.selection.waveforms
        resumed = make(cache, choose=choose, rank=1, world=2)
        resumed.load_state_dict({"epoch": 0, "position": 4})
        assert [b.selection for b in islice(resumed, 8)] == [b.selection for b in batches[4:]]


class TestContent:
    @pytest.mark.parametrize("resident", [True, False])
    def test_crops_are_slices_of_the_whole_and_padding_is_zero(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch, resident: bool
    ) -> None:
        if not resident:
            monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
        one = make(cache, crop_seconds=1.0)
        cropped = 0
        spans_of_epoch = one.epoch_batches(0)
        for batch, spans in zip(one, spans_of_epoch, strict=False):
            assert batch.waveform_BS is not None
            assert batch.hidden_BLTD.shape == (len(spans), 2, int(batch.num_frames_B.max()), 32)
            assert batch.audio_seconds == pytest.approx(sum(f for _, _, f in spans) / 50)
            for row, (entry, first, frames) in enumerate(spans):
                assert batch.num_frames_B[row] == frames <= 50
                cropped += frames < entry.num_frames
                for place, layer in enumerate(LAYERS):
                    whole = cache.hidden(layer, [(entry, 0, entry.num_frames)])[0]
                    assert torch.equal(batch.hidden_BLTD[row, place, :frames], whole[first : first + frames])
                    assert not batch.hidden_BLTD[row, place, frames:].any()
                samples = to_float(cache.waveform([(entry, 0, entry.num_frames)])[0])[first * cache.framing.hop :]
                length = int(batch.num_samples_B[row])
                assert torch.equal(batch.waveform_BS[row, :length], samples[:length])
                assert not batch.waveform_BS[row, length:].any()
                assert cache.framing.num_frames(length) == frames
        assert cropped > 5

    @pytest.mark.parametrize("crop", [40, 128, 200])
    def test_crops_start_where_chunks_do_and_miss_nothing(self, cache: Cache, crop: int) -> None:
        entry = max(cache.entries, key=lambda e: e.num_frames)
        rng = np.random.default_rng(0)
        seen: set[int] = set()
        for _ in range(300):
            (first,), (frames,) = (a.tolist() for a in crops(np.array([entry.num_frames]), rng, crop, 128))
            assert first % min(crop, 128) == 0 and 0 < frames <= crop and first + frames <= entry.num_frames
            assert frames == crop or first + frames == entry.num_frames
            seen |= set(range(first, first + frames))
        assert seen == set(range(entry.num_frames))

    def test_crops_move_from_epoch_to_epoch(self, cache: Cache) -> None:
        one = make(cache, crop_seconds=1.0)
        firsts = [{e.id: first for batch in one.epoch_batches(k) for e, first, _ in batch} for k in range(2)]
        assert firsts[0] != firsts[1]

    def test_without_audio(self, cache: Cache) -> None:
        (batch,) = islice(make(cache, choose=Selection((3,), waveforms=False)), 1)
        assert batch.waveform_BS is None
        assert [cache.framing.num_frames(int(n)) for n in batch.num_samples_B] == batch.num_frames_B.tolist()

    def test_once_is_everything_whole_and_longest_first(self, cache: Cache) -> None:
        batches = list(make(cache, crop_seconds=0.5).once(READ))
        ids = [name for batch in batches for name in batch.ids]
        assert sorted(ids) == sorted(entry.id for entry in cache.entries)
        lengths = [int(n) for batch in batches for n in batch.num_frames_B]
        assert lengths == sorted((entry.num_frames for entry in cache.entries), reverse=True)
        some = cache.entries[3:5]
        assert {name for batch in make(cache).once(READ, some) for name in batch.ids} == {entry.id for entry in some}


class TestTheReaderThread:
    def test_its_error_reaches_the_consumer(self, own_cache: Path) -> None:
        cache = Cache.open(str(own_cache))
        victim = cache.entries[-1]
        (own_cache / f"layers/03/c/{victim.pack}/0").write_bytes(b"torn")
        caught: list[BaseException] = []

        def consume() -> None:
            try:
                list(islice(Loader(cache, cache.entries, READ, 5.0), 100))
            except CacheDamagedError as error:
                caught.append(error)

        consumer = threading.Thread(target=consume, daemon=True)  # so that waiting forever fails, and does not wait
        consumer.start()
        consumer.join(30)
        (error,) = caught
        assert "cannot read layers/03" in str(error) and "utterance" in str(error)

    def test_it_ends_with_its_consumer(self, cache: Cache) -> None:
        before = threading.active_count()
        stream = iter(make(cache))
        next(stream)
        stream.close()
        assert threading.active_count() <= before

    def test_it_computes_without_helpers(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        """Or training would be slower: OpenMP's threads sleep at once where there are more of them than cores."""
        seen: list[int] = []
        read = Loader.read

        def noted(self: Loader, *arguments: Any) -> Batch:
            seen.append(torch.get_num_threads())
            return read(self, *arguments)

        monkeypatch.setattr(Loader, "read", noted)
        torch.set_num_threads(2)
        try:
            next(iter(make(cache)))
            assert set(seen) == {1} and torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(1)

    def test_what_stays_in_memory_is_read_once_by_all_of_them(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reader = InMemory(cache, resident=True, buffers=3)
        spans = [(entry, 0, entry.num_frames) for entry in cache.entries[:3]]
        lengths = [frames for _, _, frames in spans]
        calls, hidden = 0, Cache.hidden

        def slow(self: Cache, *arguments: Any) -> list[torch.Tensor]:
            nonlocal calls
            calls += 1
            time.sleep(0.1)
            return hidden(self, *arguments)

        monkeypatch.setattr(Cache, "hidden", slow)
        selection = Selection((1, 2), waveforms=False)
        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(reader.read, spans, selection, lengths, lengths) for _ in range(3)]
            states = [future.result().hidden_BLTD for future in futures]
        assert calls == 2 and torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])

    def test_nothing_to_read_does_not_wait_forever(self, cache: Cache) -> None:
        with pytest.raises(AssertionError):
            next(iter(Loader(cache, [], READ, 5.0)))


class TestBuffers:
    def test_memory_is_reused_once_it_is_free(self) -> None:
        buffers = Buffers(2)
        first = buffers.take((3, 4))
        address, view = first.data_ptr(), first[1:, 2]
        other = buffers.take((3, 4))
        assert other.data_ptr() != address
        del first
        assert buffers.take((2, 4)).data_ptr() != address, "a view of it is still held"
        weight = torch.ones(2, requires_grad=True)
        loss = (weight * view).sum()
        del view
        assert buffers.take((2, 4)).data_ptr() != address, "a gradient still needs it"
        del loss
        again = buffers.take((2, 5))
        assert again.shape == (2, 5) and again.data_ptr() == address

    def test_no_more_are_kept_than_the_limit_and_small_ones_are_replaced(self) -> None:
        buffers = Buffers(1)
        small = buffers.take((4,))
        assert buffers.take((4,)).data_ptr() != small.data_ptr()
        del small
        address = buffers.take((40,)).data_ptr()
        assert buffers.take((30,)).data_ptr() == address


class TestDamage:
    @staticmethod
    def damaged(folder: Path, position: int = -1) -> tuple[Cache, Entry]:
        """A cache in which one utterance's layer 3 is torn: a flipped byte in the middle of its chunk."""
        cache = Cache.open(str(folder))
        victim = cache.entries[position]
        shard = folder / f"layers/03/c/{victim.pack}/0"
        data = bytearray(shard.read_bytes())
        chunks = cache.identity["pack_frames"] // cache.identity["chunk_frames"]
        index = np.frombuffer(bytes(data[-4 - 16 * chunks : -4]), "<u8").reshape(-1, 2)
        within = victim.start_frame % cache.identity["pack_frames"] // cache.identity["chunk_frames"]
        data[int(index[within][0]) + 10] ^= 1
        shard.write_bytes(data)
        return cache, victim

    @pytest.mark.parametrize("resident", [True, False])
    def test_refused_with_the_repair_command(
        self, own_cache: Path, monkeypatch: pytest.MonkeyPatch, resident: bool
    ) -> None:
        monkeypatch.setattr(loader, "RESIDENT_BYTES", 2e9 * resident)
        cache, victim = self.damaged(own_cache)
        with pytest.raises(CacheDamagedError, match=victim.id) as caught:
            list(make(cache).once(READ))
        assert "layers/03" in caught.value.message
        assert caught.value.hint and f"gdist verify {cache.uri} --repair" in caught.value.hint

    def test_skipped_when_asked_and_never_zeros(self, own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cache, victim = self.damaged(own_cache)
        one = make(cache, skip_damaged=True)
        steps = len(one.epoch_batches(0))
        batches = [batch for batch in islice(one, steps) if batch.position[0] == 0]
        assert sorted(name for b in batches for name in b.ids) == sorted({e.id for e in cache.entries} - {victim.id})
        for batch in batches:
            for row, frames in enumerate(batch.num_frames_B.tolist()):
                assert batch.hidden_BLTD[row, :, :frames].abs().sum(-1).min() > 0
        said = capsys.readouterr().err
        assert list(one.damaged) == [victim.id] and said.count(f"{victim.id}:") == 1 and "data.skip_damaged" in said

    def test_a_message_when_nothing_is_left(self, own_cache: Path) -> None:
        cache, victim = self.damaged(own_cache)
        with pytest.raises(CacheDamagedError, match="every utterance to train on is damaged"):
            next(iter(Loader(cache, [victim], READ, 5.0, skip_damaged=True)))

    def test_all_ranks_count_its_frames_equally(self, own_cache: Path) -> None:
        """No rank knows what another rank found damaged: the mean is over the planned frames."""
        cache, victim = self.damaged(own_cache)
        planned = [[e.id for e, _, _ in spans] for spans in make(cache).epoch_batches(0)]
        place = next(i for i, ids in enumerate(planned) if victim.id in ids)
        parts = []
        for rank in range(2):
            share = make(cache, rank=rank, world=2, skip_damaged=True)
            parts.append(list(islice(share, place + 1))[-1])
        assert parts[0].total_frames == parts[1].total_frames
        assert sum(part.frames for part in parts) == parts[0].total_frames - victim.num_frames
        for part in parts:
            assert [part.all_ids[row] for row in part.rows] == list(part.ids)


class TestUsable:
    @pytest.mark.parametrize("harm", ["gone", "cut short"])
    def test_a_damaged_pack_is_refused_before_anything_is_read(self, own_cache: Path, harm: str) -> None:
        shard = own_cache / "layers/03/c/2/0"
        shard.unlink() if harm == "gone" else shard.write_bytes(shard.read_bytes()[:-1])
        cache = Cache.open(str(own_cache))
        with pytest.raises(
            CacheDamagedError, match=r"1 of 9 packs .* are damaged; pack 2: layers/03/c/2/0"
        ) as caught:
            usable_entries(cache)
        assert caught.value.hint and f"gdist verify {cache.uri} --repair" in caught.value.hint
        rest = usable_entries(cache, skip_missing=True)
        assert {e.id for e in cache.entries} - {e.id for e in rest} == {e.id for e in cache.entries if e.pack == 2}
        assert len(usable_entries(cache, layers=[0, 1])) == 30, "what is not read is no matter"

    def test_an_unfinished_cache_is_refused(self, own_cache: Path) -> None:
        (own_cache / "receipts/00003.json").unlink()
        cache = Cache.open(str(own_cache))
        with pytest.raises(CacheError, match="is unfinished: 1 of 9 packs are missing") as caught:
            usable_entries(cache)
        assert caught.value.hint and "data.skip_missing=true" in caught.value.hint
        rest = usable_entries(cache, skip_missing=True)
        assert {e.id for e in cache.entries} - {e.id for e in rest} == {e.id for e in cache.entries if e.pack == 3}
        assert {name for batch in Loader(cache, rest, READ, 5.0).once(READ) for name in batch.ids} == {
            e.id for e in rest
        }

    def test_the_quarantined_are_left_out(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        name = cache.entries[4].id
        monkeypatch.setattr(Standing, "quarantine", lambda self: {name: "why not"})
        assert name not in [entry.id for entry in usable_entries(cache)]
        assert len(usable_entries(cache)) == 29


class TestSplits:
    @staticmethod
    def entries(*splits: str | None) -> list[Entry]:
        return [Entry(f"u{i}", 0, 0, 1, 400, labels={"split": split}) for i, split in enumerate(splits)]

    @staticmethod
    def names(splits: Mapping[str, Sequence[Entry]]) -> dict[str, list[str]]:
        return {split: [entry.id for entry in entries] for split, entries in splits.items()}

    def test_patterns(self) -> None:
        entries = self.entries("train-clean-100", "dev-clean", "test", "train-other", "valid", "extra", None)
        assert self.names(choose_splits(entries, DataConfig())) == {
            "train": ["u0", "u3"], "valid": ["u1", "u4"], "test": ["u2"],
        }  # fmt: skip
        chosen = choose_splits(entries, DataConfig(train_split="train-other, extra", valid_split="train-clean*"))
        assert self.names(chosen) == {"train": ["u3", "u5"], "valid": ["u0"], "test": ["u2"]}

    def test_the_real_splits(self, cache: Cache) -> None:
        assert {k: len(v) for k, v in choose_splits(cache.entries, DataConfig()).items()} == {
            "train": 14, "valid": 8, "test": 8,
        }  # fmt: skip

    def test_no_labels_at_all(self) -> None:
        """Everything is for training, except a fixed share that a hash of the id chooses."""
        entries = self.entries(*[None] * 200)
        splits = choose_splits(entries, DataConfig(valid_fraction=0.05))
        assert (len(splits["train"]), len(splits["valid"]), len(splits["test"])) == (190, 10, 0)
        assert not {e.id for e in splits["train"]} & {e.id for e in splits["valid"]}
        again = choose_splits(entries[::-1], DataConfig(valid_fraction=0.05))
        assert {e.id for e in again["valid"]} == {e.id for e in splits["valid"]}
        # The choice hangs on the names alone: of the rest, whoever was held out is still first to go.
        fewer = choose_splits([e for e in entries if e not in splits["train"][:50]], DataConfig(valid_fraction=0.05))
        assert {e.id for e in fewer["valid"]} <= {e.id for e in splits["valid"]}

    def test_held_out_only_from_training(self) -> None:
        splits = choose_splits(self.entries(*["train"] * 10, *["test"] * 10), DataConfig())
        assert len(splits["valid"]) == 1 and len(splits["train"]) == 9 and len(splits["test"]) == 10
        assert splits["valid"][0].labels["split"] == "train"

    def test_a_single_utterance_serves_both(self, capsys: pytest.CaptureFixture[str]) -> None:
        splits = choose_splits(self.entries("train"), DataConfig())
        assert self.names(splits) == {"train": ["u0"], "valid": ["u0"], "test": []}
        assert splits.also_trained_on == {"valid": 1}
        splits.warn()
        assert "1 of the 1 utterances of the split valid are trained on, too" in capsys.readouterr().err

    def test_patterns_that_overlap_are_counted(self, capsys: pytest.CaptureFixture[str]) -> None:
        entries = self.entries("train-a", "train-b", "dev", "test")
        assert choose_splits(entries, DataConfig()).also_trained_on == {}
        splits = choose_splits(entries, DataConfig(valid_split="*-a,dev", test_split="*"))
        assert splits.also_trained_on == {"valid": 1, "test": 2}
        splits.warn(["test"])
        said = capsys.readouterr().err
        assert "2 of the 4 utterances of the split test" in said and "split valid" not in said

    def test_nothing_to_train_on(self) -> None:
        with pytest.raises(CacheError, match=r"in the training split 'train\*' \(splits: dev, test\)") as caught:
            choose_splits(self.entries("dev", "test"), DataConfig())
        assert caught.value.hint and "data.train_split" in caught.value.hint

    @pytest.mark.parametrize("fields", [{"crop_seconds": -1.0}, {"valid_fraction": 0.0}, {"valid_fraction": 1.0}])
    def test_out_of_range(self, fields: dict[str, float]) -> None:
        with pytest.raises(ConfigError):
            replace(DataConfig(), **fields)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 400), max_size=60), st.integers(1, 800))
def test_groups_stay_within_their_limit(lengths: list[int], batch_frames: int) -> None:
    groups = [lengths[start:stop] for start, stop in pairwise(group(lengths, batch_frames))]
    assert [n for batch in groups for n in batch] == lengths and all(groups)
    assert all(len(b) == 1 or len(b) * max(b) <= batch_frames for b in groups)
    assert all(max(*b, after[0]) * (len(b) + 1) > batch_frames for b, after in pairwise(groups)), "none too early"


def test_to_float_is_the_teachers_input(cache: Cache) -> None:
    (samples,) = cache.waveform([(cache.entries[0], 0, cache.entries[0].num_frames)])
    assert np.array_equal((to_float(samples) * 32_768).numpy(), samples)
