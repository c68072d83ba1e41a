"""Batches from the cache: an order that can be computed, kept, shared out and taken up again."""

import threading
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gdist.pipeline import framing, loader
from gdist.pipeline.audio import to_float
from gdist.pipeline.cache import Cache
from gdist.pipeline.errors import CacheDamagedError, CacheError, ConfigError
from gdist.pipeline.layout import Entry
from gdist.pipeline.loader import Batch, DataConfig, Loader, choose_splits, group, usable_entries

LAYERS = [3, 0]


@pytest.fixture(scope="module")
def cache(tiny_cache: Path) -> Cache:
    return Cache.open(str(tiny_cache))


def make(cache: Cache, **options: Any) -> Loader:
    settings: dict[str, Any] = {"layers": LAYERS, "batch_seconds": 5.0, "seed": 3}
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

    def test_each_utterance_once_an_epoch(self, cache: Cache) -> None:
        one = make(cache)
        for epoch in range(3):
            ids = [entry.id for batch in one.epoch_batches(epoch) for entry, _, _ in batch]
            assert Counter(ids) == Counter(entry.id for entry in cache.entries)

    def test_batches_are_within_their_seconds_and_of_like_lengths(self, cache: Cache) -> None:
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
        """At any step, also on an epoch's edge, and from the state of rank 0 for every rank."""
        per_epoch = -(-len(make(cache).epoch_batches(0)) // world)
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

    def test_what_was_only_read_ahead_does_not_count(self, cache: Cache) -> None:
        one = make(cache)
        stream = iter(one)
        next(stream)
        threading.Event().wait(0.2)  # the reader thread runs ahead
        assert one.state_dict() == {"epoch": 0, "position": 1}
        stream.close()  # type: ignore[attr-defined]

    def test_a_fresh_loader_begins_at_the_beginning(self, cache: Cache) -> None:
        assert make(cache).state_dict() == {"epoch": 0, "position": 0}


class TestRanks:
    @pytest.mark.parametrize("world", [2, 3, 5])
    def test_they_share_the_batches_out(self, cache: Cache, world: int) -> None:
        whole = make(cache).epoch_batches(0)
        steps = -(-len(whole) // world)
        seen: list[tuple[str, ...]] = []
        for rank in range(world):
            batches = list(islice(make(cache, rank=rank, world=world), steps))
            assert all(batch.position[0] == 0 for batch in batches)  # every rank takes as many steps an epoch
            seen += [batch.ids for batch in batches]
        expected = [tuple(e.id for e, _, _ in batch) for batch in whole]
        repeated = Counter(seen) - Counter(expected)
        assert Counter(seen) - repeated == Counter(expected)
        assert list(repeated) == expected[: steps * world - len(expected)]  # only to fill up the last round

    def test_more_ranks_than_batches(self, cache: Cache) -> None:
        whole = make(cache, batch_seconds=1000.0).epoch_batches(0)
        assert len(whole) == 2
        for rank in range(5):
            (batch,) = islice(make(cache, batch_seconds=1000.0, rank=rank, world=5), 1)
            assert batch.ids == tuple(entry.id for entry, _, _ in whole[rank % 2])


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
                samples = to_float(cache.waveform([(entry, 0, entry.num_frames)])[0])[first * framing.HOP :]
                length = int(batch.num_samples_B[row])
                assert torch.equal(batch.waveform_BS[row, :length], samples[:length])
                assert not batch.waveform_BS[row, length:].any()
                assert framing.num_frames(length) == frames
        assert cropped > 5

    def test_crops_move_from_epoch_to_epoch(self, cache: Cache) -> None:
        one = make(cache, crop_seconds=1.0)
        firsts = [{e.id: first for batch in one.epoch_batches(k) for e, first, _ in batch} for k in range(2)]
        assert firsts[0] != firsts[1]

    def test_without_audio(self, cache: Cache) -> None:
        (batch,) = islice(make(cache, waveforms=False), 1)
        assert batch.waveform_BS is None
        assert [framing.num_frames(int(n)) for n in batch.num_samples_B] == batch.num_frames_B.tolist()

    def test_once_is_everything_whole_and_longest_first(self, cache: Cache) -> None:
        batches = list(make(cache, crop_seconds=0.5).once())
        ids = [name for batch in batches for name in batch.ids]
        assert sorted(ids) == sorted(entry.id for entry in cache.entries)
        lengths = [int(n) for batch in batches for n in batch.num_frames_B]
        assert lengths == sorted((entry.num_frames for entry in cache.entries), reverse=True)
        some = cache.entries[3:5]
        assert {name for batch in make(cache).once(some) for name in batch.ids} == {entry.id for entry in some}


class TestTheReaderThread:
    def test_its_error_reaches_the_consumer(self, own_cache: Path) -> None:
        cache = Cache.open(str(own_cache))
        victim = cache.entries[-1]
        (own_cache / f"layers/03/c/{victim.pack}/0").write_bytes(b"torn")
        caught: list[BaseException] = []

        def consume() -> None:
            try:
                list(islice(make(cache), 100))
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
        stream.close()  # type: ignore[attr-defined]
        assert threading.active_count() <= before

    def test_nothing_to_read_is_no_endless_wait(self, cache: Cache) -> None:
        with pytest.raises(AssertionError):
            next(iter(Loader(cache, [], LAYERS, 5.0)))


class TestUsable:
    def test_an_unfinished_cache_is_refused(self, own_cache: Path) -> None:
        (own_cache / "receipts/00003.json").unlink()
        cache = Cache.open(str(own_cache))
        with pytest.raises(CacheError, match="is unfinished: 1 of 9 packs are missing") as caught:
            usable_entries(cache)
        assert caught.value.hint and "data.skip_missing=true" in caught.value.hint
        rest = usable_entries(cache, skip_missing=True)
        assert {e.id for e in cache.entries} - {e.id for e in rest} == {e.id for e in cache.entries if e.pack == 3}
        assert len(list(make_of(cache, rest).once())) > 0

    def test_the_quarantined_are_left_out(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        name = cache.entries[4].id
        monkeypatch.setattr(cache, "receipts", lambda: [{"quarantine": {name: "why not"}}])
        assert name not in [entry.id for entry in usable_entries(cache)]
        assert len(usable_entries(cache)) == 29


def make_of(cache: Cache, entries: list[Entry]) -> Loader:
    return Loader(cache, entries, LAYERS, 5.0)


class TestSplits:
    @staticmethod
    def entries(*splits: str | None) -> list[Entry]:
        return [Entry(f"u{i}", 0, 0, 1, 400, labels={"split": split}) for i, split in enumerate(splits)]

    @staticmethod
    def names(splits: dict[str, list[Entry]]) -> dict[str, list[str]]:
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
        """Everything trains, but a fixed share that a hash of the name chooses."""
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

    def test_a_single_utterance_serves_both(self) -> None:
        splits = choose_splits(self.entries("train"), DataConfig())
        assert self.names(splits) == {"train": ["u0"], "valid": ["u0"], "test": []}

    def test_nothing_to_train_on(self) -> None:
        with pytest.raises(CacheError, match=r"in the training split 'train\*' \(splits: dev, test\)") as caught:
            choose_splits(self.entries("dev", "test"), DataConfig())
        assert caught.value.hint and "data.train_split" in caught.value.hint

    @pytest.mark.parametrize("fields", [{"crop_seconds": -1.0}, {"valid_fraction": 0.0}, {"valid_fraction": 1.0}])
    def test_out_of_range(self, fields: dict[str, float]) -> None:
        with pytest.raises(ConfigError):
            replace(DataConfig(), **fields)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 400), max_size=60), st.integers(1, 800))
def test_groups_hold_what_they_may(lengths: list[int], batch_frames: int) -> None:
    entry = Entry("u", 0, 0, 400, 400)
    groups = group([(entry, 0, n) for n in lengths], batch_frames)
    assert [n for batch in groups for _, _, n in batch] == lengths
    assert all(len(b) == 1 or len(b) * max(n for _, _, n in b) <= batch_frames for b in groups)


def test_to_float_is_what_the_teacher_heard(cache: Cache) -> None:
    (samples,) = cache.waveform([(cache.entries[0], 0, cache.entries[0].num_frames)])
    assert np.array_equal((to_float(samples) * 32_768).numpy(), samples)
