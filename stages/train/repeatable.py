"""A mode in which a GPU gives the same bits each time, and what holds without it.

On a CPU, a run that is repeated, or killed and resumed, ends in the same bits with the same number of threads and the
same versions; this mode changes nothing there. On a GPU with this mode it does so with the same model of card, number
of ranks and versions, as far as torch's own promise goes. On a GPU without it, cuDNN's convolutions and the backward
pass of attention add up in any order: data, draws and schedule are the same, but the last bits are not.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

UNTYPED: Any = torch  # some of its settings have no types
CUBLAS_WORKSPACE = ":4096:8"  # one of the two sizes with which cuBLAS promises the same bits


@contextlib.contextmanager
def repeatable(wanted: bool, device: torch.device) -> Iterator[None]:
    """While the block runs, a GPU gives the same bits each time if ``wanted``.

    It must begin before this process first multiplies matrices on a GPU, when cuBLAS takes its workspace. An operator
    that has no deterministic form raises a RuntimeError which names it.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    cudnn, attention, memory = torch.backends.cudnn, UNTYPED.backends.cuda, UNTYPED.utils.deterministic
    algorithms, fill = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    convolutions, benchmark, by_cudnn = cudnn.deterministic, cudnn.benchmark, attention.cudnn_sdp_enabled()
    try:
        # This also makes the backward passes of flash and memory-efficient attention deterministic.
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # no uninitialized value is ever read here, and filling takes time
        cudnn.deterministic, cudnn.benchmark = True, False
        attention.enable_cudnn_sdp(False)
        yield
    finally:
        attention.enable_cudnn_sdp(by_cudnn)
        cudnn.deterministic, cudnn.benchmark = convolutions, benchmark
        memory.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(algorithms)
