"""One stream of batches for all students that a process trains: read, checked, decoded and transferred once.

Which batch is the n-th depends on ``data.seed`` alone, and what a student reads of it on the student alone. So a
batch is read with all that any of them needs, and each gets its part of it: the batch that it would have got alone.
Those that are further on, because they are resumed from a later checkpoint, wait until the stream has come to where
they are.
"""

import contextlib
import dataclasses
from collections.abc import Generator, Iterable, Sequence

from gdist.pipeline.config import signature
from gdist.pipeline.loading.batch import Batch, Selection
from gdist.pipeline.loading.loader import Loader
from gdist.stages.train.ahead import one_ahead
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.member import Member, going

Parts = list[tuple[Member, Batch]]


def stream_key(config: TrainConfig) -> str:
    """Students whose keys are equal can share a stream of batches from one cache.

    They have in common which utterances there are and in what order (``data``, with its seed), what a batch is, and
    the device. Where missing or damaged utterances are left out, a student's batches depend on the layers that it
    reads, so that these are part of the key, too.
    """
    optim = config.train
    common = {
        "data": dataclasses.asdict(config.data) | {"seed": config.order_seed},
        "batch_seconds": optim.batch_seconds,
        "device": [optim.device, optim.deterministic],
    }
    if config.data.skip_missing or config.data.skip_damaged:
        common["reads"] = [config.student, optim.seed, optim.layers_per_step, optim.thaw_step, optim.accumulate]
    return signature(common)


def union(selections: Iterable[Selection]) -> Selection:
    """What is read for all of them."""
    first, *others = selections
    if not others:
        return first
    layers = set(first.layers).union(*(other.layers for other in others))
    return Selection(tuple(sorted(layers)), any(each.waveforms for each in (first, *others)))


class Stream:
    """The batches of all members.

    Args:
        members: they are dropped from the stream once they no longer go on.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self._takers: list[Member] = []
        self._chosen = Selection(())

    @property
    def next_takers(self) -> list[Member]:
        """Those that take the next batch: the ones that are least far."""
        least = min((member.taken for member in going(self.members)), default=0)
        return [member for member in going(self.members) if member.taken == least]

    def choose(self, epoch: int, place: int) -> Selection:
        """What is read for a batch; for the loader."""
        if takers := going(self._takers):
            self._chosen = union(member.learner.objective.training_selection(epoch, place) for member in takers)
        return self._chosen

    def batches(self, loader: Loader) -> Generator[Parts]:
        """Yield each member's part of one batch after the other, until no member goes on.

        What is read ahead is for those who take batches now, as they are now. So a stretch ends where another member
        joins, or where a front-end thaws and needs audio from there on.
        """
        number = -1  # of batches that come before the next one
        while takers := self.next_takers:
            if takers[0].taken != number:
                number = takers[0].taken
                loader.load_state_dict(takers[0].position)
            self._takers = takers
            for member in takers:
                member.thaw_if_due()
            joining = [member.taken for member in going(self.members) if member not in takers]
            thawing = [place for member in takers if (place := member.thaws_at) is not None]
            end = min([max(member.stops_at for member in takers), *joining, *thawing])
            with contextlib.closing(self._stretch(loader, number, end)) as stretch:
                for parts in stretch:
                    yield parts
                    number += 1
                    if not going(takers):
                        break

    def _stretch(self, loader: Loader, number: int, end: int) -> Generator[Parts]:
        with contextlib.closing(loader.stream(end - number)) as stream:
            numbered = enumerate(stream, number)
            if any(member.learner.objective.augments for member in self._takers):
                yield from one_ahead(numbered, self._parts, loader.device)
            else:
                yield from map(self._parts, numbered)

    def _parts(self, numbered: tuple[int, Batch]) -> Parts:
        number, batch = numbered
        epoch, position = batch.position
        known: dict[Selection, Batch] = {}
        parts: Parts = []
        for member in going(self._takers):
            if number < member.stops_at:
                with member.attempt(None):
                    selection = member.learner.objective.training_selection(epoch, position - 1)
                    tensors = Selection(selection.layers, selection.waveforms)
                    if tensors not in known:
                        known[tensors] = batch.part(tensors)
                    parts.append((member, member.augmented(number, known[tensors].part(selection))))
        return parts
