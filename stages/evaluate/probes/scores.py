"""Scores: error rates, and their intervals over resampled test items.

Axes: N test items, P trials.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
RESAMPLES = 1000


def interval(items: int, statistic: Callable[[Array], float], seed: int = 0) -> tuple[float, float]:
    """The interval of 95 % of the values that resampled test items give (percentile bootstrap).

    Args:
        items: N.
        statistic: the value when item n counts ``count_N[n]`` times; NaN if it is undefined.
    """
    rng = np.random.default_rng(seed)
    draws = (statistic(rng.multinomial(items, np.full(items, 1 / items)).astype(float)) for _ in range(RESAMPLES))
    values = [value for value in draws if not np.isnan(value)]
    low, high = np.percentile(values, (2.5, 97.5)) if values else (np.nan, np.nan)
    return float(low), float(high)


def mean_interval(values_N: Array, weights_N: Array | None = None) -> tuple[float, float, float]:
    """The mean of N items' values and its interval.

    With ``weights_N`` it is the ratio of the sums instead, such as errors over symbols.
    """
    bottom_N = np.ones(len(values_N)) if weights_N is None else weights_N
    top_N = np.asarray(values_N, dtype=float)

    def ratio(count_N: Array) -> float:
        return float(count_N @ top_N / max(count_N @ bottom_N, 1e-12))

    return (ratio(np.ones(len(top_N))), *interval(len(top_N), ratio))


def equal_error_rate(scores_P: Array, same_P: npt.NDArray[np.bool_], counts_P: Array | None = None) -> float:
    """The error rate where false acceptances and false rejections are equally frequent, by linear interpolation.

    >>> equal_error_rate(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]))
    0.5
    """
    order = np.argsort(-scores_P, kind="stable")
    counts = np.ones(len(scores_P)) if counts_P is None else counts_P
    own, others = (counts * same_P)[order], (counts * ~same_P)[order]
    if not own.sum() or not others.sum():
        return float("nan")
    # Trials with equal scores are accepted together.
    ends = np.append(np.flatnonzero(np.diff(scores_P[order])), len(order) - 1)
    missed = np.concatenate([[1.0], 1 - np.cumsum(own)[ends] / own.sum()])
    admitted = np.concatenate([[0.0], np.cumsum(others)[ends] / others.sum()])
    after = int(np.argmax(admitted >= missed))
    before = max(after - 1, 0)
    gap, next_gap = missed[before] - admitted[before], missed[after] - admitted[after]
    share = 0.0 if gap == next_gap else gap / (gap - next_gap)
    return float(admitted[before] + share * (admitted[after] - admitted[before]))
