"""Batches made ready in a thread while the step before them computes."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from gdist.pipeline.loading.alone import beside


def one_ahead[A, B](stream: Iterator[A], prepare: Callable[[A], B], device: str) -> Generator[B]:
    """Yield ``prepare`` of each item in turn; it runs in a thread beside ``device``, and one item is taken ahead."""
    with ThreadPoolExecutor(1, "gdist-prepare", initializer=beside(device)) as pool:

        def begin() -> Future[B] | None:
            for item in stream:
                return pool.submit(prepare, item)
            return None

        following = begin()
        while following is not None:
            current, following = following, begin()
            yield current.result()
