"""Which utterances an evaluation reads: always the same, of every voice, and no others."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from gdist.pipeline.cache.entries import Entry
from gdist.stages.evaluate.chosen import of_each_voice, within, without_test

UTTERANCES = st.lists(
    st.tuples(st.sampled_from(["anna", "ben", None]), st.integers(1, 400)), min_size=1, max_size=30
)  # speaker and frames


def entries(utterances: list[tuple[str | None, int]]) -> list[Entry]:
    return [
        Entry(f"u{i}", 0, 0, frames, frames * 320, labels={"speaker": speaker})
        for i, (speaker, frames) in enumerate(utterances)
    ]


@given(UTTERANCES, st.integers(1, 2000), st.integers(1, 2000))
def test_at_most_so_much_of_each_voice(utterances: list[tuple[str | None, int]], one: int, other: int) -> None:
    everything = entries(utterances)
    small, large = (of_each_voice(everything, most) for most in sorted((one, other)))
    assert [e.id for e in everything if e in large] == [e.id for e in large]  # in their order
    for speaker in {e.labels["speaker"] for e in everything}:
        takes = [e for e in small if e.labels["speaker"] == speaker]
        assert len(takes) == 1 or sum(e.num_frames for e in takes) <= min(one, other)
        assert takes
    assert of_each_voice(list(reversed(everything)), one) == list(reversed(of_each_voice(everything, one)))


@given(st.dictionaries(st.text(), st.integers(0, 100), max_size=20), st.floats(0, 2000), st.floats(0, 2000))
def test_a_larger_amount_has_all_of_a_smaller_one(frames: dict[str, int], one: float, other: float) -> None:
    small, large = (within(frames.items(), most) for most in sorted((one, other)))
    assert small <= large
    assert sum(frames[name] for name in small) <= min(one, other)


def test_the_choice_does_not_follow_a_split_by_hash() -> None:
    """A corpus may be split by the same hash: a small amount still has utterances of every part of it."""
    everything = entries([("anna", 100)] * 400)
    ranked = sorted(everything, key=lambda entry: hashlib.sha256(entry.id.encode()).digest())
    tenth = {entry.id for entry in ranked[:40]}
    kept = {entry.id for entry in of_each_voice(everything, 4_000)}
    assert len(kept) == 40 and 1 <= len(kept & tenth) <= 12


def test_the_validation_split_in_place_of_the_test_split() -> None:
    """A task with splits of its own loses what they call "test", and is tested on what both call "valid"."""

    def entry(name: str, own: str | None) -> Entry:
        return Entry(name, 0, 0, 10, 3200, labels={"split_known_voices": own, "digit": 3})

    splits = {
        "train": [entry("a", "train"), entry("b", "test"), entry("c", None)],
        "valid": [entry("d", "valid"), entry("e", "train"), entry("f", "test")],
        "test": [entry("g", "train"), entry("h", "test")],
    }
    found = without_test(splits)
    own = {split: [(e.id, e.labels["split_known_voices"]) for e in es] for split, es in found.items()}
    assert own == {
        "train": [("a", "train"), ("b", None), ("c", None)],
        "valid": [("d", "valid"), ("e", "train"), ("f", None)],
        "test": [("d", "test"), ("e", None), ("f", None)],
    }
    assert all(e.labels["digit"] == 3 for es in found.values() for e in es)
    assert splits["valid"][0].labels["split_known_voices"] == "valid"  # the cache's own entries stay as they are


def test_without_such_columns_the_utterances_are_as_they_were() -> None:
    train, valid, test = entries([("anna", 5), ("ben", 7), (None, 9)])
    found = without_test({"train": [train], "valid": [valid], "test": [test]})
    assert found == {"train": [train], "valid": [valid], "test": [valid]}
    assert found["test"][0] is valid
