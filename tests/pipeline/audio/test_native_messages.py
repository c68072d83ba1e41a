"""What a decoder prints from C belongs to the file that it decodes, in the thread that decodes it."""

import ctypes
import sys
import threading
from pathlib import Path

import pytest
from recordings import RATE, mp3

from gdist.pipeline.audio import Segment, measure
from gdist.pipeline.audio.native_messages import messages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")


def shout(text: str) -> None:
    libc = ctypes.CDLL(None)
    libc.fputs(text.encode() + b"\n", ctypes.c_void_p.in_dll(libc, "stderr"))


def test_each_thread_gets_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    found: dict[str, list[str]] = {}
    meeting = threading.Barrier(3)

    def work(name: str) -> None:
        with messages() as said:
            meeting.wait(10)
            for number in range(50):
                shout(f"{name} {number % 2}")
            meeting.wait(10)
        found[name] = said

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    meeting.wait(10)
    shout("not a decoder's")
    print("Python's own", file=sys.stderr)  # noqa: T201
    meeting.wait(10)
    for thread in threads:
        thread.join()
    assert found == {"a": ["a 0", "a 1"], "b": ["b 0", "b 1"]}
    shout("after")
    printed = capfd.readouterr().err
    assert sorted(printed.splitlines()) == ["Python's own", "after", "not a decoder's"]


def test_a_warning_is_in_the_report_of_its_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = mp3(RATE) + mp3(4 * RATE)
    (tmp_path / "a.mp3").write_bytes(whole)
    (tmp_path / "b.mp3").write_bytes(mp3(4 * RATE))
    signal = measure(Segment(str(tmp_path / "a.mp3"), 0, 5 * RATE, RATE))
    assert "Xing stream size off" in signal.remarks["decoder"]
    assert not measure(Segment(str(tmp_path / "b.mp3"), 0, 4 * RATE, RATE)).messages
    assert capfd.readouterr().err == ""
