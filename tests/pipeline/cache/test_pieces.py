"""Which ranges of a shard are requested together."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gdist.pipeline.cache.pieces import join


def test_the_worked_example() -> None:
    assert join([(0, 100), (104, 200), (900, 1000)]) == [(0, 200), (900, 1000)]


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 9000)), min_size=1, max_size=40))
def test_all_is_covered_in_order_and_no_more_than_a_tenth_is_added(steps: list[tuple[int, int]]) -> None:
    ranges, end = [], 0
    for gap, size in steps:
        ranges.append((end + gap, end + gap + size))
        end += gap + size
    joined = join(ranges)
    assert all(any(first <= start and stop <= last for first, last in joined) for start, stop in ranges)
    assert all(one[1] < other[0] or one[1] == other[0] for one, other in pairwise(joined))
    needed = sum(stop - start for start, stop in ranges)
    assert needed <= sum(stop - start for start, stop in joined) <= 1.1 * needed


def test_neighbours_are_one_request() -> None:
    assert join([(0, 10), (10, 20), (20, 30)]) == [(0, 30)]
