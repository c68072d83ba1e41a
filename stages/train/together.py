"""Several students in one process, from one stream of batches."""

from collections.abc import Callable, Sequence
from typing import Any

from gdist.pipeline.errors import GdistError, UsageError
from gdist.pipeline.local.folder import LocalFolder
from gdist.pipeline.run import Run
from gdist.stages.train.caches import bound_to, newest
from gdist.stages.train.member import Member, Request
from gdist.stages.train.ranks import join
from gdist.stages.train.stream import stream_key
from gdist.stages.train.train import train_members


def train_together(
    uri: str | Sequence[str],
    requests: Sequence[Request],
    show_progress: bool = True,
    local: LocalFolder | None = None,
    failed: Callable[[Request, Exception], None] = lambda request, error: None,
) -> list[dict[str, Any] | Exception]:
    """Train several students in this process, each to the same weights as ``train`` would alone.

    Those that can share a stream of batches (:func:`stream_key`) learn from one; such groups follow one another. A
    student that fails leaves the others alone.

    Args:
        failed: called with each student that fails, at once.

    Returns:
        for each request, what ``train`` would return or raise.

    Raises:
        UsageError: this is one of several ranks.
        KeyboardInterrupt: it was asked to stop; all have checkpoints.
    """
    now = newest(uri, local).checksum
    groups: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        state = bound_to(Run(request.out)) or now  # of a cache that has grown, a run reads what it began with
        groups.setdefault((stream_key(request.config), state), []).append(request)
    outcomes: dict[int, dict[str, Any] | Exception] = {}
    for group in groups.values():
        optim = group[0].config.train
        with join(optim.device, optim.peer_timeout) as ranks:
            if ranks.world > 1:
                raise UsageError("students that train together are in one process", "leave out torchrun")
            members = [Member(request, ranks, failed) for request in group]
            try:
                train_members(uri, members, show_progress, local)
            except GdistError as error:  # about what they share
                for member in members:
                    if member.result is None and member.failure is None:
                        member.fail(error)
            for member in members:
                outcome = member.failure or member.result
                assert outcome is not None, "neither failed nor done"
                outcomes[id(member.request)] = outcome
    return [outcomes[id(request)] for request in requests]
