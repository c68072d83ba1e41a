"""Augmented batches, prepared in a thread while the step before them computes."""

import itertools
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from gdist.pipeline.loading.batch import Batch
from gdist.pipeline.loading.loader import Loader
from gdist.stages.train.learner import Learner


def augmented(learner: Learner, loader: Loader, stream: Iterator[Batch], step: int) -> Generator[Batch]:
    """Yield the batches of the steps after ``step``, with their audio augmented.

    What a batch is augmented with depends on the number of the step that uses it. The loader's own readers cannot
    know that number, because a batch whose rows are all damaged is left out. Here the batches come in order.

    Args:
        stream: the loader's batches, of which one is taken ahead. The loader's state remains that of the batch which
            was yielded last, so that a checkpoint does not skip the one in preparation.
    """
    count = learner.config.train.accumulate
    places = ((number // count, number % count) for number in itertools.count((step + 1) * count))
    with ThreadPoolExecutor(1, "gdist-augment") as pool:

        def begin() -> Future[Batch] | None:
            batch = next(stream, None)
            return None if batch is None else pool.submit(learner.augmented, *next(places), batch)

        following = begin()
        while following is not None:
            current, following = following, begin()
            batch = current.result()
            epoch, position = batch.position
            loader.load_state_dict({"epoch": epoch, "position": position})
            yield batch
