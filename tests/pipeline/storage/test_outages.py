"""A server that is killed or frozen under real commands: they end when docs/buckets.md says so, and say it once."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import PACK_FRAMES, contents
from servers import Flaky, Proxy, chosen, reachable, running
from test_train import COMMAND, SHORT, wait_for_step

from gdist.pipeline.errors import CacheError
from gdist.pipeline.storage.objects import Storage

SILENCE = 1.0  # GDIST_STORE_TIMEOUT: everything is given up after five times as long
SLACK = 5.0  # for the try that is under way, on a machine that is busy


@pytest.fixture(scope="module", params=chosen())
def flaky(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flaky]:
    with running(request.param, tmp_path_factory.mktemp("server")) as server:
        proxy = Flaky(server, "lost-speech")
        try:
            with reachable(server, proxy.port, GDIST_STORE_TIMEOUT=f"{SILENCE:g}"):
                yield proxy
        finally:
            proxy.kill()


@pytest.fixture
def way(flaky: Flaky) -> Iterator[Proxy]:
    """Another way to the same server, which the test may cut."""
    proxy = Proxy(flaky.server)
    try:
        yield proxy
    finally:
        proxy.kill()


@pytest.fixture(scope="module")
def cache_uri(flaky: Flaky, tiny_cache: Path) -> str:
    storage = Storage(f"{flaky.uri}/shared")
    for key, data in contents(tiny_cache).items():
        storage.put(key, data)
    return storage.uri


def start(way: Proxy, flaky: Flaky, *arguments: object) -> "subprocess.Popen[str]":
    environment = os.environ | flaky.server.environment(way.port) | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=environment)


def end(process: "subprocess.Popen[str]", since: float) -> str:
    """Wait for the end of a command that lost its server; returns what it said."""
    _, said = process.communicate(timeout=60)
    took = time.monotonic() - since
    assert process.returncode == 1, said
    assert took < 5 * SILENCE + SLACK + 5, f"{took:.1f} s: {said}"
    assert len(re.findall("^error: cannot (read|write|list|create) ", said, re.MULTILINE)) == 1
    assert "Traceback" not in said and "Exception" not in said
    tries = re.search(r"\((\d+) tries in (\d+\.\d) s\)", said)
    assert tries and 5 * SILENCE <= float(tries[2]) <= 5 * SILENCE + SLACK, said
    waiting = [line for line in said.splitlines() if "gives up after 5.0 s" in line]
    assert 1 <= len(waiting) <= 2, said
    return said


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(Proxy.kill, id="killed"),
        pytest.param(Proxy.freeze, id="frozen", marks=pytest.mark.thorough),
    ],
)
class TestCommands:
    def test_training(
        self, flaky: Flaky, way: Proxy, cache_uri: str, tmp_path: Path, cut: Callable[[Proxy], None]
    ) -> None:
        """In its first pass, when it still reads: a cache as small as this one is kept in memory afterwards."""
        settings = SHORT | {"train.steps": 1000, "train.batch_seconds": 2.0, "train.log_every": 1}
        options = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
        way.does({"delay": 0.4, "path": "/c/"})
        process = start(way, flaky, "train", "--cache", cache_uri, "--out", tmp_path / "run", *options)
        wait_for_step(tmp_path / "run", 1, process)
        cut(way)
        said = end(process, time.monotonic())
        assert "then run the same command again: its checkpoints are kept" in said and "packs" not in said

    @pytest.mark.thorough
    def test_extraction(
        self, flaky: Flaky, way: Proxy, tiny_teacher: Path, speech: Path, tiny_cache: Path,
        cut: Callable[[Proxy], None],
    ) -> None:  # fmt: skip
        """Its lock cannot be removed then; the same command takes it over, and the bytes are the same."""
        uri = f"{flaky.uri}/extracted-{cut.__name__}"
        command = ["extract", "--teacher", tiny_teacher, "--manifest", speech, "--cache", uri]
        command += ["--pack-frames", PACK_FRAMES, "--device", "cpu"]
        way.does({"delay": 0.3, "method": "PUT"})
        process = start(way, flaky, *command)
        here = Storage(uri)
        deadline = time.monotonic() + 60
        while not here.objects("receipts"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        cut(way)
        said = end(process, time.monotonic())
        assert "then run the same command again: finished packs are kept" in said
        again = Proxy(flaky.server)
        try:
            process = start(again, flaky, *command)
            assert process.wait(60) == 0, process.stderr and process.stderr.read()
        finally:
            again.kill()
        with ThreadPoolExecutor(8) as pool:
            keys = list(here.objects())
            assert dict(zip(keys, pool.map(here.get, keys), strict=True)) == contents(tiny_cache)


class TestRequests:
    @pytest.fixture
    def storage(self, flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
        monkeypatch.setattr("gdist.pipeline.console._waited_at", -60.0)  # no other test's lines count
        flaky.does()
        storage = Storage(f"{flaky.uri}/requests")
        storage.put("k", bytes(range(100)))
        yield storage
        flaky.does()

    @pytest.mark.parametrize("fault", ["status", "reset", pytest.param("silence", marks=pytest.mark.thorough)])
    def test_what_reads_a_part_asks_nothing_more(
        self, flaky: Flaky, storage: Storage, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        for read in (
            lambda lost: lost.get_part("k", 0, 3),
            lambda lost: lost.get_tail("k", 3),
            lambda lost: list(lost.get_ranges("k", [(0, 3)])),
        ):
            lost = Storage(storage.uri)
            lost.size("k")
            flaky.does({"fault": fault})
            with pytest.raises(CacheError, match=r"\(3 tries in"):
                read(lost)
            assert len(flaky.saw()) == 3
            flaky.does()

    def test_many_readers_give_up_once(
        self, flaky: Flaky, storage: Storage, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Four times as many as there are threads, in one patience; and what comes later is tried no more."""
        flaky.does({"fault": "silence"})
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            reads = [pool.submit(storage.get_part, "k", i, 1) for i in range(32)]
            errors = {str(read.exception()) for read in reads}
        assert 5 * SILENCE <= time.monotonic() - began < 5 * SILENCE + SLACK
        assert len(errors) == 1 and "no answer in time" in errors.pop()
        assert capfd.readouterr().err.count("\n") == 1
        began = time.monotonic()
        with pytest.raises(CacheError, match="no answer in time"):
            storage.get("k")
        assert time.monotonic() - began < 0.5

    @pytest.mark.thorough
    def test_a_server_that_returns(self, flaky: Flaky, storage: Storage, capfd: pytest.CaptureFixture[str]) -> None:
        with ThreadPoolExecutor(8) as pool:
            flaky.does({"fault": "silence"})
            reads = [pool.submit(storage.get_part, "k", i, 1) for i in range(8)]
            time.sleep(3.5)
            flaky.does()
            assert [bytes(read.result()[0]) for read in reads] == [bytes([i]) for i in range(8)]
            assert "answers again, after" in capfd.readouterr().err
            # The same after it was given up: the next request finds out.
            flaky.does({"fault": "silence"})
            assert isinstance(pool.submit(storage.get, "k").exception(), CacheError)
            flaky.does()
            assert storage.get("k") == bytes(range(100))

    def test_one_object_that_never_comes(self, flaky: Flaky, storage: Storage) -> None:
        """Others are read meanwhile, and afterwards."""
        storage.put("other", b"x")
        flaky.does({"fault": "silence", "path": "requests/k"})
        with ThreadPoolExecutor(1) as pool:
            never = pool.submit(storage.get, "k")
            while not never.done():
                assert storage.get("other") == b"x"
            with pytest.raises(CacheError, match="no answer in time"):
                never.result()
        assert storage.get("other") == b"x"

    def test_only_what_was_asked_for_is_read(self, flaky: Flaky, storage: Storage) -> None:
        flaky.does()
        parts = storage.get_ranges("k", [(0, 10), (10, 12), (50, 60), (99, 120)])
        assert b"".join(map(bytes, parts)) == bytes([*range(12), *range(50, 60), 99])
        assert sum(record["down"] for record in flaky.saw()) == 23 and len(flaky.saw()) == 3

    def test_parts_of_an_object(self, flaky: Flaky, storage: Storage) -> None:
        """One request for each, from many threads, and no copy."""
        data, size = os.urandom(3_000_001), 1 << 18
        storage.put("large", data)
        flaky.does()
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(lambda at: storage.get_part("large", at, size), range(0, len(data), size)))
        assert b"".join(part for part, _ in parts) == data and {whole for _, whole in parts} == {len(data)}
        assert all(isinstance(part, memoryview) for part, _ in parts)
        assert [record["method"] for record in flaky.saw()] == ["GET"] * 12
        assert storage.size("large") == len(data)


ON_A_TERMINAL = """
from gdist.pipeline import console
for number in range(3):
    console.wait_for(f"waiting, try {number} " + "x" * 200)
console.settle("it answers again")
with console.progress("train", 10, "steps") as advance:
    advance(1)
    for number in range(3):
        console.wait_for(f"below, try {number} " + "x" * 200)
    console.settle()
    advance(1)
print("end")
"""


def test_on_a_terminal_one_line_is_replaced() -> None:
    """What stays on the screen at the end, as a terminal of 60 columns has it."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "60", "LINES": "20", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    sent = b""
    try:
        while data := os.read(ours, 4096):
            sent += data
    except OSError:  # the process has ended
        pass
    process.wait()
    assert sent.count(b"try 2") >= 2, "each was shown"
    screen = _screen(sent.decode())
    assert [line.split()[0] for line in screen if line.strip()] == ["it", "train", "end"], screen


def _screen(sent: str) -> list[str]:
    """The lines of a terminal after it was sent a text with cursor movements; it wraps no line."""
    lines, row, column = [""], 0, 0
    for found in re.finditer(r"\x1b\[(\??[\d;]*)([A-Za-z])|(.)", sent, re.DOTALL):
        count, command, character = found.groups()
        if command == "A":
            row -= int(count or 1)
        elif command == "K":
            lines[row] = "" if count == "2" else lines[row][:column]
        elif command:
            continue
        elif character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
            assert column <= 60, "a line that wraps cannot be replaced"
    return lines
