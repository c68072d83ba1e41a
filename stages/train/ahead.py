"""Batches made ready in a thread while the step before them computes."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from gdist.pipeline.loading.alone import compute_alone


def one_ahead[A, B](stream: Iterator[A], prepare: Callable[[A], B]) -> Generator[B]:
    """Yield ``prepare`` of each item in turn; it runs in a thread, and one item is taken ahead."""
    with ThreadPoolExecutor(1, "gdist-prepare", initializer=compute_alone) as pool:

        def begin() -> Future[B] | None:
            for item in stream:
                return pool.submit(prepare, item)
            return None

        following = begin()
        while following is not None:
            current, following = following, begin()
            yield current.result()
