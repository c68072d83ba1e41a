"""An epoch's order, against a plain version of the algorithm that every earlier student was trained with."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.entries import Entries, Entry
from gdist.pipeline.cache.index import from_table, to_table
from gdist.pipeline.cache.layout import place
from gdist.pipeline.loading.order import Batches, crops, longest_first, shuffled
from gdist.pipeline.loading.splits import DataConfig, choose_splits

WINDOW = 8


def reference(
    entries: Sequence[Entry], seed: int, epoch: int, batch_frames: int, crop_frames: int, chunk_frames: int
) -> list[list[Span]]:
    """The order as it was computed with one Python object per utterance. It may never change: a student can be
    trained again only with the same batches."""
    rng = np.random.default_rng([seed, epoch])

    def crop(entry: Entry) -> Span:
        if not crop_frames or entry.num_frames <= crop_frames:
            return entry, 0, entry.num_frames
        grid = min(chunk_frames, crop_frames)
        last = -(-(entry.num_frames - crop_frames) // grid)
        first = grid * int(rng.integers(last + 1))
        return entry, first, min(crop_frames, entry.num_frames - first)

    packs = rng.permutation(sorted({e.pack for e in entries}))
    window_of = {int(pack): place // WINDOW for place, pack in enumerate(packs)}
    windows: dict[int, list[Entry]] = {}
    for entry in entries:
        windows.setdefault(window_of[entry.pack], []).append(entry)
    batches: list[list[Span]] = []
    for _, members in sorted(windows.items()):
        spans = [crop(members[i]) for i in rng.permutation(len(members))]
        noisy = np.array([frames for _, _, frames in spans]) * rng.uniform(0.9, 1.1, len(spans))
        grouped = reference_group([spans[i] for i in np.argsort(noisy, kind="stable")], batch_frames)
        batches += [grouped[i] for i in rng.permutation(len(grouped))]
    return batches


def reference_group(spans: Sequence[Span], batch_frames: int) -> list[list[Span]]:
    batches: list[list[Span]] = []
    longest = 0
    for span in spans:
        longest = max(longest, span[2])
        if batches and longest * (len(batches[-1]) + 1) <= batch_frames:
            batches[-1].append(span)
        else:
            batches.append([span])
            longest = span[2]
    return batches


def computed(entries: Sequence[Entry], seed: int, epoch: int, batch_frames: int, crop: int, chunk: int) -> Batches:
    return shuffled(entries, np.random.default_rng([seed, epoch]), batch_frames, crop, chunk, WINDOW)


def corpus(samples: Sequence[int], labels: dict[str, Any] | None = None) -> Entries:
    """The index of utterances of these lengths, as a cache reads it; packs of 2,048 rows."""
    placed = place([(f"u{i}", n, None) for i, n in enumerate(samples)], 10**9, 128, 2048)
    entries = from_table(to_table(placed, pa.table(labels) if labels else None))
    return entries.take(np.flatnonzero(entries.numbers("num_frames")))


lengths = st.lists(st.integers(400, 600_000) | st.sampled_from([400, 64_000, 64_000 + 320]), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(0, 3), st.integers(1, 2000), st.sampled_from([0, 1, 100, 128, 200, 750]))
def test_every_order_is_what_it_was(samples: list[int], epoch: int, batch_frames: int, crop: int) -> None:
    entries = corpus(samples)
    expected = reference(entries, 3, epoch, batch_frames, crop, 128)
    assert list(computed(entries, 3, epoch, batch_frames, crop, 128)) == expected
    assert list(computed(list(entries), 3, epoch, batch_frames, crop, 128)) == expected, "of objects as of columns"


@pytest.mark.parametrize("crop", [0, 750])
def test_a_large_order_is_what_it_was(crop: int) -> None:
    """Many windows, so that every kind of draw follows every other; and packs that are not in order."""
    rng = np.random.default_rng(5)
    entries = corpus(rng.integers(400, 640_000, 6000).tolist())
    assert entries.numbers("pack")[-1] > 40 * WINDOW
    for part in (entries, entries.take(rng.permutation(len(entries))), entries[::3]):
        assert list(computed(part, 7, 2, 12_000, crop, 128)) == reference(part, 7, 2, 12_000, crop, 128)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=30), st.integers(1, 300), st.integers(1, 300))
def test_no_crop_is_a_tail_that_is_too_short(frames: list[int], crop: int, grid: int) -> None:
    """Whisper's shortest utterances have more samples than a last frame may have left."""
    firsts, lengths = crops(np.array(frames), np.random.default_rng(0), crop, grid, tail=2)
    for total, first, length in zip(frames, firsts.tolist(), lengths.tolist(), strict=True):
        assert length == min(total, crop) or first + length == total
        assert first == 0 or total - first >= 2


def test_a_batch_is_made_when_it_is_asked_for() -> None:
    entries = corpus([16_000 * (1 + i % 9) for i in range(300)])
    batches = computed(entries, 0, 0, 1000, 100, 128)
    assert batches[-1] == list(batches)[-1] and batches[2:4] == list(batches)[2:4]
    with pytest.raises(IndexError):
        batches[len(batches)]
    assert batches == computed(entries, 0, 0, 1000, 100, 128) != computed(entries, 0, 1, 1000, 100, 128)


@given(lengths, st.integers(1, 2000))
def test_longest_first(samples: list[int], batch_frames: int) -> None:
    entries = corpus(samples)
    spans: list[Span] = [(e, 0, e.num_frames) for e in entries]
    expected = reference_group(sorted(spans, key=lambda span: -span[2]), batch_frames)
    assert list(longest_first(entries, batch_frames)) == expected
    assert list(longest_first(entries[:0], batch_frames)) == []


splits_of = st.lists(st.sampled_from(["train-a", "train-b", "dev", "test", None]), min_size=1, max_size=60)


@given(splits_of, st.sampled_from(["train*", "train-a, test", "*"]), st.sampled_from([0.02, 0.3, 0.9]))
def test_splits_are_what_they_were(names: list[str | None], pattern: str, fraction: float) -> None:
    """Held out are the utterances whose ids have the smallest SHA-256; of columns as of objects."""
    entries = corpus([16_000] * len(names), {"split": pa.array(names, pa.string())})
    config = DataConfig(train_split=pattern, valid_split="valid*", valid_fraction=fraction)
    labelled = any(names)
    wanted = {"train*": ("train-a", "train-b"), "train-a, test": ("train-a", "test"), "*": (*names,)}[pattern]
    train = [e for e in entries if not labelled or e.labels["split"] in wanted]
    if not train:
        return
    ranked = sorted(train, key=lambda e: hashlib.sha256(e.id.encode()).digest())
    held = {e.id for e in ranked[: max(round(len(ranked) * fraction), 1)]}
    for given_entries in (entries, list(entries)):
        chosen = choose_splits(given_entries, config)
        assert chosen["valid"] == [e for e in train if e.id in held]
        assert chosen["train"] == ([e for e in train if e.id not in held] or train)
        assert chosen["test"] == [e for e in entries if e.labels["split"] == "test"]
