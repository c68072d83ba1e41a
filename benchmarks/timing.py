"""Wall-clock time of work on a device: a GPU computes behind the caller's back, so it is waited for at both ends."""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from gdist.stages.device import choose_device


def add_device(parser: argparse.ArgumentParser, default: str = "cpu") -> None:
    """Add ``--device`` to a benchmark. Most of the published figures are the CPU's, so that is the default."""
    parser.add_argument(
        "--device",
        default=default,
        type=lambda name: choose_device(name, "--device "),
        help=f"cpu, cuda or auto [default: {default}]",
    )


def synchronize(device: str | torch.device) -> None:
    """Return once the device has nothing left to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def timed(way: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Seconds that ``way()`` takes, including all that it left to the device."""
    return timed_both(way, device)[0]


def timed_both(way: Callable[[], object], device: str | torch.device = "cpu") -> tuple[float, float]:
    """Seconds that ``way()`` takes: by the clock, and of this process on all cores.

    The second hardly depends on what else runs on the machine, but includes the threads' waiting for each other.
    """
    synchronize(device)
    began, cpu_began = time.perf_counter(), time.process_time()
    way()
    synchronize(device)
    return time.perf_counter() - began, time.process_time() - cpu_began


class Laps:
    """Adds up the seconds of the parts of some work, by name: on a CPU its own, so that other load matters little."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()
        self.clock = time.process_time if device.type == "cpu" else time.perf_counter

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        synchronize(self.device)
        began = self.clock()
        yield
        synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - began
