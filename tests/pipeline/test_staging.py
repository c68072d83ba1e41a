"""What a process leaves that is killed while it writes, and who removes it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import contents

from gdist.pipeline import staging
from gdist.pipeline.staging import EARLIER, NEW, put, replacing, workshop, write_atomically

WAITING = """
import sys, time
from pathlib import Path
from gdist.pipeline.staging import NEW, replacing, workshop
place = Path(sys.argv[2])
with (replacing if sys.argv[1] == "file" else workshop)(place) as made:
    if sys.argv[1] == "file":
        made.write(b"half"); made.flush()
    else:
        (made / NEW / "half").write_text("half")
        if place.exists():
            place.rename(made / "earlier")
    print("there", flush=True)
    time.sleep(60)
"""


def writer(kind: str, place: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing."""
    process = subprocess.Popen([sys.executable, "-c", WAITING, kind, place], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


class TestFiles:
    def test_the_next_writer_removes_what_a_killed_one_left(self, tmp_path: Path) -> None:
        process = writer("file", tmp_path / "page.html")
        (staged,) = tmp_path.iterdir()
        assert re.fullmatch(r"\.page\.html\.\d+\.tmp", staged.name)
        write_atomically(tmp_path / "page.html", "whole")
        assert staged.exists(), "it is still at work"
        end(process)
        write_atomically(tmp_path / "other.html", "another's")
        assert staged.exists(), "another file's is left alone"
        write_atomically(tmp_path / "page.html", "whole")
        assert contents(tmp_path).keys() == {"page.html", "other.html"}

    @pytest.mark.parametrize("kind", ["link", "folder", "FIFO"])
    def test_what_gdist_did_not_write_stays(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "mine").write_text("mine")
        planted = tmp_path / ".page.html.7.tmp"
        if kind == "link":
            planted.symlink_to(tmp_path / "mine")
        elif kind == "folder":
            planted.mkdir()
        else:
            os.mkfifo(planted)
        (tmp_path / ".page.html.old.tmp").write_text("mine")
        write_atomically(tmp_path / "page.html", "whole")
        assert os.path.lexists(planted) and (tmp_path / ".page.html.old.tmp").exists()
        assert (tmp_path / "mine").read_text() == "mine"

    def test_one_that_was_about_to_finish(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It renames what it wrote just when the next writer has found that."""
        other, lock = tmp_path / ".page.7.tmp", staging._lock
        other.write_text("other")

        def finish(*args: int) -> bool:
            if other.exists():
                other.rename(tmp_path / "page")
            return lock(*args)

        monkeypatch.setattr(staging, "_lock", finish)
        write_atomically(tmp_path / "page", "whole")
        assert contents(tmp_path) == {"page": b"whole"}

    def test_many_writers_of_one_file_at_once(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from gdist.pipeline.staging import write_atomically\n"
            "for n in range(200): write_atomically(Path(sys.argv[1]) / 'page', str(n))"
        )
        processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path]) for _ in range(4)]
        assert [process.wait() for process in processes] == [0] * 4
        assert contents(tmp_path) == {"page": b"199"}

    def test_a_failure_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no"), replacing(tmp_path / "page") as file:
            file.write(b"half")
            raise ValueError("no")
        assert contents(tmp_path) == {}


class TestFolders:
    def test_what_is_put_replaces_what_was_there(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a").write_text("old")
        with workshop(tmp_path / "out") as made:
            (made / NEW / "b").write_text("new")
            put(made, tmp_path / "out")
        assert contents(tmp_path) == {"out/b": b"new"}

    def test_the_next_one_removes_what_a_killed_one_left(self, tmp_path: Path) -> None:
        process = writer("folder", tmp_path / "out")
        (other,) = tmp_path.iterdir()
        with workshop(tmp_path / "out"):
            assert other.exists(), "it is still at work"
        end(process)
        with workshop(tmp_path / "out") as made:
            assert list(tmp_path.iterdir()) == [made]
        assert not list(tmp_path.iterdir())

    def test_what_a_killed_one_had_moved_aside_comes_back(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a").write_text("old")
        end(writer("folder", tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        with pytest.raises(ValueError, match="no"), workshop(tmp_path / "out"):
            raise ValueError("no")
        assert contents(tmp_path) == {"out/a": b"old"}

    def test_what_gdist_did_not_make_stays(self, tmp_path: Path) -> None:
        mine, linked, planted = (tmp_path / f".out.{name}.gdist" for name in ("abcdefgh", "linked_1", "planted1"))
        (mine / NEW).mkdir(parents=True)
        (mine / "thesis").write_text("mine")
        linked.symlink_to(mine)
        (planted / NEW).mkdir(parents=True)
        (planted / EARLIER).symlink_to(mine)
        before = contents(mine)
        with workshop(tmp_path / "out"):
            pass
        assert contents(mine) == before and linked.is_symlink() and not (tmp_path / "out").exists()


def test_nothing_is_waited_for_where_a_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(95, "no locks")

    monkeypatch.setattr("fcntl.flock", fails)
    (tmp_path / ".page.1.tmp").write_text("half")
    began = time.monotonic()
    write_atomically(tmp_path / "page", "whole")
    with workshop(tmp_path / "out") as made:
        put(made, tmp_path / "out")
    assert time.monotonic() - began < 5 and {path.name for path in tmp_path.iterdir()} == {
        ".page.1.tmp",
        "page",
        "out",
    }


def test_an_interruption_between_the_two_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == NEW:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), workshop(tmp_path / "out") as made:
        put(made, tmp_path / "out")
    assert contents(tmp_path) == {"out/a": b"old"}
