"""The processes of one training run: one, or as many as `torchrun` started (gloo on CPUs, NCCL on GPUs).

Every rank takes the same steps on its share of each batch's rows. Only the first writes files and messages.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gdist.pipeline import console
from gdist.pipeline.errors import GdistError, RunError
from gdist.stages.device import choose_device


@dataclass(frozen=True)
class Ranks:
    """This process's place among the processes of the run."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes files and messages."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Sums over all ranks, the same on every rank to the last bit."""
        if self.world == 1:
            return list(values)
        sums: list[float] = self.add(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()
        return sums

    def add(self, values: Tensor) -> Tensor:
        """``values``, which are on :attr:`device`, replaced by their sums over all ranks."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """If one rank fails in this context, all fail with its message; otherwise the others would wait forever."""
        try:
            yield
        except BaseException as error:
            if self.total(1.0)[0]:
                self._messages(error)
            raise
        if self.total(0.0)[0]:
            raise next(filter(None, self._messages(None)))

    def _messages(self, error: BaseException | None) -> list[RunError | None]:
        """Each rank's failure, if any, to be raised by the ranks that did not fail."""
        if self.world == 1:
            return []
        if isinstance(error, GdistError):
            mine: tuple[str | None, str | None] = error.message, error.hint
        else:
            mine = "another rank failed; its message says why" if error else None, None
        failures: list[Any] = [None] * self.world
        dist.all_gather_object(failures, mine)
        return [RunError(message, hint) if message else None for message, hint in failures]


@contextlib.contextmanager
def join(device: str, peer_timeout: float) -> Iterator[Ranks]:
    """Join the run's processes, and leave them at the end.

    Args:
        device: ``train.device``. If it does not say which GPU, each rank uses its own.
        peer_timeout: how many seconds to wait for the other ranks, here and in every exchange with them.

    Raises:
        RunError: another rank ended or did not answer in time, and this one cannot continue without it. On GPUs,
            NCCL's watchdog ends the process instead, because this thread may be waiting for the device.
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
    timeout = timedelta(seconds=peer_timeout)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timeout)
    group = dist.group.WORLD
    try:
        with console.silenced(rank > 0):
            yield Ranks(rank, world, place)
    # When a peer is gone, gloo and NCCL raise plain RuntimeErrors or DistErrors (which are RuntimeErrors).
    except RuntimeError as error:
        # "Application timeout caused pair closure" comes when another thread has just noticed the silence.
        if not any(word in str(error).lower() for word in ("gloo", "nccl", "connection", "peer", "pair closure")):
            raise
        hint = "see the other rank's message; the same command continues from the last checkpoint"
        raise RunError(f"rank {rank} lost another rank: {str(error).splitlines()[0]}", hint) from error
    finally:
        dist.destroy_process_group()
        # gloo's threads end with the last reference to the group. Each may still have to free a tensor, for which it
        # needs the interpreter's lock: once the interpreter ends, that would be an abort. And only this reference
        # gives up the lock while it waits for them. DDP's does not, so DDP must be gone before, from all frames.
        _clear_frames(sys.exception())
        del group


def _clear_frames(error: BaseException | None) -> None:
    """Drop the local variables of the frames that a failure has come through, and those of what caused it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
