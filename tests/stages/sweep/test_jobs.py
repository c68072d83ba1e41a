"""Processes of a sweep that are asked to stop, at any moment from their first on."""

import time
from pathlib import Path

from test_train import SHORT

from gdist.stages.sweep.jobs import Job, interrupt, server, start
from gdist.stages.sweep.training import stopped_by_hand


def test_one_that_is_asked_to_stop_while_it_begins_has_not_failed(tiny_cache: Path, tmp_path: Path) -> None:
    flags = [part for item in (SHORT | {"train.steps": 5000}).items() for part in ("--set", "=".join(map(str, item)))]
    codes = []
    for number in range(-2, 6):
        line = ["train", "--cache", str(tiny_cache), "--out", str(tmp_path / f"{number}"), *flags]
        process = start(server(), Job("one", line, tmp_path / f"{number}.log"), 1, None)
        until = time.monotonic() + 20
        while number >= 0 and not (tmp_path / f"{number}.log").exists() and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(abs(number) * 0.03)
        interrupt(process)
        process.join(30)
        assert not process.is_alive()
        codes.append(process.exitcode)
    assert all(code is not None and stopped_by_hand(code) for code in codes), codes
