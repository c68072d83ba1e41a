"""The machine that a process runs on."""

import ctypes

import psutil
import pytest

from gdist.pipeline.machine import give_back_memory


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library cannot give memory back")
def test_gaps_are_given_back() -> None:
    this = psutil.Process()
    kept = [bytearray(b"x" * 100_000) for _ in range(3_000)]
    del kept[:-1]  # what is in use at the end keeps all before it
    before = this.memory_info().rss
    give_back_memory()
    assert before - this.memory_info().rss > 150e6
