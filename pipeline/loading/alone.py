"""Threads that compute beside the one that trains, each of them without helpers."""

from collections.abc import Callable

import torch
from threadpoolctl import ThreadpoolController


def compute_alone() -> None:
    """Let this thread compute without other threads of OpenMP from now on; it calls this when it starts.

    While a process has more OpenMP threads than cores, GNU's OpenMP lets those that wait fall asleep at once, instead
    of a little later. A second team, even an idle one, made steps take 1.2 to 1.4 times as long on two cores.
    """
    torch.get_num_threads()  # torch gives each thread its number when it is first asked for, and not again
    ThreadpoolController().limit(limits=1, user_api="openmp")


def beside(device: str) -> Callable[[], None] | None:
    """What a thread calls when it starts that computes beside a training on this device; a GPU's leaves all cores."""
    return compute_alone if torch.device(device).type == "cpu" else None
