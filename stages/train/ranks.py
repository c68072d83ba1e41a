"""The processes of one training run: one, or as many as `torchrun` started (gloo on CPUs, NCCL on GPUs).

Every rank takes the same steps on its share of each batch's rows. Only the first writes and speaks.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from gdist.pipeline import console
from gdist.pipeline.errors import GdistError, RunError
from gdist.stages.device import choose_device

# DDP's destructor holds the interpreter's lock while it waits for gloo's threads, and these wait for the lock: the
# last reference to a process group must not be DDP's.
_groups: list[dist.ProcessGroup | None] = []


@dataclass(frozen=True)
class Ranks:
    """This process among all of the run's."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Sums over all ranks, the same in each to the last bit."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What one rank does in here and fails at, all fail at, with its message: else they would wait forever."""
        try:
            yield
        except BaseException as error:
            if self.total(1.0)[0]:
                self._messages(error)
            raise
        if self.total(0.0)[0]:
            raise next(filter(None, self._messages(None)))

    def _messages(self, error: BaseException | None) -> list[RunError | None]:
        """What each rank failed at, to be raised by those that did not."""
        if self.world == 1:
            return []
        if isinstance(error, GdistError):
            mine: tuple[str | None, str | None] = error.message, error.hint
        else:
            mine = "another rank could not go on; its message says why" if error else None, None
        told: list[Any] = [None] * self.world
        dist.all_gather_object(told, mine)
        return [RunError(message, hint) if message else None for message, hint in told]


@contextlib.contextmanager
def join(device: str) -> Iterator[Ranks]:
    """This process's place in the run, for as long as it lasts.

    Args:
        device: ``train.device``. Where it is not said which GPU, each rank takes its own.

    Raises:
        RunError: another rank ended, and this one cannot go on without it.
    """
    chosen = choose_device(device, "train.device = ")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(device=torch.device(chosen))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device(f"cuda:{local}" if chosen == "cuda" else chosen)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    _groups.append(dist.group.WORLD)
    try:
        with console.silenced(rank > 0):
            yield Ranks(rank, world, place)
    # Gloo and NCCL say with plain RuntimeErrors and DistErrors (which are RuntimeErrors) that a peer is gone.
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in ("gloo", "nccl", "connection", "peer")):
            raise
        hint = "see the other rank's message; the same command goes on from the last checkpoint"
        raise RunError(f"rank {rank} lost another rank: {str(error).splitlines()[0]}", hint) from error
    finally:
        dist.destroy_process_group()
