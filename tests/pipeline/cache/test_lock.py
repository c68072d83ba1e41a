"""One extraction per cache at a time: the second refuses while the first is alive, and takes over when it is dead."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import contents, extracted

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.lock import Lock, owner, require_token
from gdist.pipeline.cache.planning import LOCK
from gdist.pipeline.errors import CacheLockedError
from gdist.pipeline.storage.objects import Storage, canonical
from gdist.stages.extract.repair import repair
from gdist.stages.extract.sources import Sources

BEAT = 0.05


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "c") if request.param == "folder" else f"memory://{uuid.uuid4()}", create=True)


def of_another_machine(storage: Storage, token: str = "theirs", beat: int = 0) -> None:
    storage.put(LOCK, canonical({"token": token, "beat": beat, "pid": 1, "started": "0", "host": "far", "boot": "b"}))


def test_it_is_held_and_released(storage: Storage) -> None:
    with Lock(storage, BEAT) as lock:
        assert owner(storage)["token"] == lock.token
        require_token(storage, lock.token)
        time.sleep(3 * BEAT)
        assert owner(storage)["beat"] >= 1
    assert owner(storage) == {} and LOCK not in storage.objects()


def test_it_is_released_after_a_failure(storage: Storage) -> None:
    with pytest.raises(ValueError, match="bad"), Lock(storage, BEAT):
        raise ValueError("bad")
    assert LOCK not in storage.objects()


def test_a_living_process_here_is_not_disturbed(storage: Storage) -> None:
    with Lock(storage), pytest.raises(CacheLockedError, match=f"another extraction .* \\(process {os.getpid()} on"):
        Lock(storage).__enter__()
    with Lock(storage):  # and afterwards it is free
        pass


def test_a_dead_process_here_is_detected_at_once(storage: Storage) -> None:
    """Even if its process id now belongs to another process."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with Lock(storage):
        document = owner(storage)
    for pid, started in ((child.pid, "1"), (os.getpid(), "1")):
        storage.put(LOCK, canonical(document | {"pid": pid, "started": started, "token": "dead"}))
        began = time.monotonic()
        with Lock(storage) as lock:
            assert owner(storage)["token"] == lock.token
        assert time.monotonic() - began < 1


def test_a_silent_owner_elsewhere_is_replaced(storage: Storage) -> None:
    of_another_machine(storage)
    began = time.monotonic()
    with Lock(storage, BEAT) as lock:
        assert time.monotonic() - began > 3 * BEAT
        assert owner(storage)["token"] == lock.token


def test_an_owner_elsewhere_that_is_alive_is_not_disturbed(storage: Storage) -> None:
    of_another_machine(storage)
    threading.Timer(2 * BEAT, of_another_machine, (storage,), {"beat": 1}).start()
    with pytest.raises(CacheLockedError, match="process 1 on far"):
        Lock(storage, BEAT).__enter__()
    assert owner(storage)["token"] == "theirs"


def test_an_owner_that_lost_it_neither_commits_nor_deletes_it(storage: Storage) -> None:
    with Lock(storage, BEAT) as lock:
        of_another_machine(storage)
        with pytest.raises(CacheLockedError, match="another extraction took over"):
            require_token(storage, lock.token)
        time.sleep(3 * BEAT)  # its beats do not bring it back
    assert owner(storage)["token"] == "theirs"


def test_a_torn_lock_does_not_count(storage: Storage) -> None:
    storage.put(LOCK, b"{")
    with Lock(storage, BEAT) as lock:
        assert owner(storage)["token"] == lock.token


class TestExtraction:
    def test_the_second_of_two_refuses_and_nothing_is_torn(
        self, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Started by mistake while the first is between two packs."""
        folder, once = tmp_path / "c", threading.Lock()
        refused: list[str | None] = []
        honest = Cache.commit
        seconds: list[Callable[[], object]] = [
            lambda: extracted(tiny_teacher, speech, folder),
            lambda: extracted(tiny_teacher, speech, folder, restart=True),
            lambda: repair(str(folder), Sources(), show_progress=False),
        ]

        def commit(self: Cache, *args: object) -> object:
            with once:
                if not refused:
                    for second in seconds:
                        with pytest.raises(CacheLockedError, match="another extraction is writing to") as caught:
                            second()
                        refused.append(caught.value.hint)
            return honest(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(Cache, "commit", commit)
        extracted(tiny_teacher, speech, folder)
        assert refused == ["wait until it is done, or stop it and run the same command again"] * 3
        assert contents(folder) == contents(tiny_cache)

    def test_one_that_was_overtaken_stops_before_its_next_commit(
        self, tiny_teacher: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "c"
        honest = Cache.commit

        def commit(self: Cache, *args: object) -> object:
            if len(self.todo()) <= 6:  # lanes commit side by side, so one number may never be seen
                of_another_machine(self.storage)
            return honest(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(Cache, "commit", commit)
        with pytest.raises(CacheLockedError, match="another extraction took over"):
            extracted(tiny_teacher, speech, folder)
        assert len(list((folder / "receipts").iterdir())) < 9
        assert json.loads((folder / LOCK).read_bytes())["token"] == "theirs"
