"""Batches contain every utterance once, respect the limit, and have the least padding that any cuts can give."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gdist.pipeline.cache.entries import Entry
from gdist.stages.extract.batching import batches


def entries_of(lengths: list[int]) -> list[Entry]:
    return [Entry(f"u{i}", 0, 128 * i, 1, length) for i, length in enumerate(lengths)]


def lengths_of(found: list[list[Entry]]) -> list[list[int]]:
    return [[entry.num_samples for entry in batch] for batch in found]


def cost(found: list[list[int]], overhead: int) -> int:
    return sum(max(batch) * len(batch) + overhead for batch in found)


def test_the_worked_example() -> None:
    assert lengths_of(list(batches(entries_of([4, 10, 4, 9]), 100, overhead=3))) == [[10, 9], [4, 4]]
    assert lengths_of(list(batches(entries_of([4, 10, 4, 9]), 100, overhead=30))) == [[10, 9, 4, 4]]
    assert lengths_of(list(batches(entries_of([4, 10, 4, 9]), 10, overhead=3))) == [[10], [9], [4, 4]]
    assert list(batches([], 100)) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 120), st.integers(0, 40))
def test_no_other_cuts_are_better(lengths: list[int], limit: int, overhead: int) -> None:
    """Compared with every way of cutting the sorted list."""
    ordered = sorted(lengths, reverse=True)
    found = lengths_of(list(batches(entries_of(lengths), limit, overhead)))
    assert list(itertools.chain(*found)) == ordered
    assert all(len(batch) == 1 or max(batch) * len(batch) <= limit for batch in found)
    best = None
    for cuts in itertools.product([False, True], repeat=len(ordered) - 1):
        parts: list[list[int]] = [[ordered[0]]]
        for length, cut in zip(ordered[1:], cuts, strict=True):
            parts.append([length]) if cut else parts[-1].append(length)
        if all(len(part) == 1 or max(part) * len(part) <= limit for part in parts):
            total = cost(parts, overhead)
            best = total if best is None else min(best, total)
    assert cost(found, overhead) == best


@given(st.lists(st.integers(1, 50), max_size=12), st.integers(0, 60), st.integers(1, 120), st.integers(0, 40))
def test_short_utterances_count_as_a_window(lengths: list[int], window: int, limit: int, overhead: int) -> None:
    """The batches are those of utterances that fill it."""
    found = lengths_of(list(batches(entries_of(lengths), limit, overhead, window)))
    filled = lengths_of(list(batches(entries_of([max(n, window) for n in lengths]), limit, overhead)))
    assert [[max(n, window) for n in batch] for batch in found] == filled
    assert sorted(itertools.chain(*found)) == sorted(lengths)


@given(st.lists(st.integers(1, 50), max_size=12), st.randoms())
def test_the_order_of_the_utterances_does_not_matter(lengths: list[int], random: object) -> None:
    entries = entries_of(lengths)
    shuffled = entries.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert list(batches(entries, 100, 5)) == list(batches(shuffled, 100, 5))
