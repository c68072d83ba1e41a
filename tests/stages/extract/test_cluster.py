"""Extraction by many workers writes the bytes that one process writes, whichever of them is killed.

The Dask processes are real: a scheduler and two workers.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import test_extract
from click.testing import Result
from conftest import contents, extracted
from test_extract import Nursery, command

from gdist.data_manifests import demo_folder
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cluster import crew
from gdist.pipeline.cluster import workers as cluster
from gdist.pipeline.errors import CacheError, CacheLockedError, ClusterError, ConfigError
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.extract import cluster as extract_cluster
from gdist.stages.extract.extractor import LANES
from gdist.stages.extract.gpus import warn_of_other_models
from gdist.stages.extract.plan import PACKAGES, ExtractConfig, make_plan, measure
from gdist.stages.teachers import load_teacher

Gdist = Callable[..., Result]
nursery = test_extract.nursery
SMALL = 384  # frames per pack, for more packs than two workers have in flight at once


@dataclass
class Running:
    """A scheduler and its two workers, each in its own process."""

    scheduler: subprocess.Popen[bytes]
    workers: subprocess.Popen[bytes]
    file: Path

    def address(self) -> str:
        """The address of the scheduler, once it has started."""
        deadline = time.monotonic() + 60
        while not self.file.exists():
            assert time.monotonic() < deadline and self.scheduler.poll() is None, "the scheduler does not start"
            time.sleep(0.05)
        return str(json.loads(self.file.read_text())["address"])

    def processes(self) -> list[psutil.Process]:
        """The worker processes. When one ends, its nanny starts another."""
        return worker_processes(self.workers.pid)

    def end(self) -> None:
        for process in (self.workers, self.scheduler):  # worker processes end with the nanny that started them
            process.kill()
            process.wait()


def start_dask(folder: Path) -> Running:
    """Start a scheduler and two workers, with their logs in ``folder``."""
    file = folder / "scheduler.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(program: str, *options: str) -> subprocess.Popen[bytes]:
        with (folder / f"{program}.log").open("wb") as log:
            words = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--scheduler-file", str(file), *options]
            return subprocess.Popen([*words, "--no-dashboard"], stdout=log, stderr=log, cwd=folder, env=environment)

    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0")
    workers = start("worker", "--nworkers", "2", "--nthreads", str(LANES), "--memory-limit", "0")
    return Running(scheduler, workers, file)


def worker_processes(pid: int) -> list[psutil.Process]:
    """The worker processes that ``pid`` has started."""
    return [child for child in psutil.Process(pid).children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture(scope="module", autouse=True)  # they start while the first tests run
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_dask(tmp_path_factory.mktemp("dask"))
    yield running
    running.end()


@pytest.fixture
def address(running: Running) -> str:
    return running.address()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, speech: Path) -> dict[str, bytes]:
    """Every file of the cache that one process writes."""
    folder = tmp_path_factory.mktemp("expected")
    assert extracted(tiny_teacher, speech, folder, pack_frames=SMALL)["packs"] >= 12
    return contents(folder)


@pytest.fixture(autouse=True)
def one_thread_per_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in this process, see conftest


class at_receipt(threading.Thread):  # noqa: N801 — reads as a statement
    """Calls ``act`` once ``folder`` has ``number`` receipts. At its end, the block asserts that this was in time."""

    def __init__(self, folder: Path, number: int, act: Callable[[], None], total: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.number, self.act, self.total = folder, number, act, total
        self.seen = -1
        self.over = threading.Event()

    def run(self) -> None:
        while receipts(self.folder) < self.number:
            if self.over.wait(0.001):
                return
        self.act()
        self.seen = receipts(self.folder)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()
        assert self.number <= self.seen < self.total, "it came too late to be in the middle of the run"


def receipts(folder: Path) -> int:
    return len([path for path in folder.glob("receipts/*") if "#" not in path.name])


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["local", "local:0", "local:-1", "local:two", "tcp://host", "http://a:1", "", "x.json"]
)
def test_invalid_clusters(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"--cluster {spec}: "), cluster.connect(spec, LANES):
        pass


def test_options_that_do_not_go_with_a_cluster(speech: Path, tiny_teacher: Path) -> None:
    with pytest.raises(ConfigError, match="each worker of a cluster has its own GPU"):
        ExtractConfig("t", "m", "c", device="cuda:1", cluster="local:2")
    with pytest.raises(ConfigError, match="no other process can see this memory"):
        extracted(tiny_teacher, speech, "memory://x", cluster="local:2")
    one_gpu = "each worker needs a GPU, and this machine has 1"
    with pytest.raises(ConfigError, match=one_gpu), cluster.connect("local:2", LANES, ["0"]):
        pass


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [cluster.threads_of(n) for n in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert cluster.threads_of(4) == 5


@pytest.mark.parametrize("silent", [True, False])
def test_no_scheduler_answers(
    silent: bool, monkeypatch: pytest.MonkeyPatch, gdist: Gdist, tiny_teacher: Path, speech: Path
) -> None:
    """Either the port refuses connections, or something listens there and sends nothing."""
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not silent:
            server.close()
        result = gdist(*command(tiny_teacher, speech, "none"), "--cluster", f"tcp://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert f"error: no Dask scheduler answers at tcp://127.0.0.1:{port}" in result.stderr
    assert "dask scheduler" in result.stderr and not Path("none").exists()


def test_workers_with_other_versions_are_refused() -> None:
    ours = cluster.versions(PACKAGES)
    cluster.require_same_versions({"tcp://a": ours})
    with pytest.raises(ClusterError, match=r"worker tcp://b has other versions: gdist 0\.0\.1 \(here "):
        cluster.require_same_versions({"tcp://a": ours, "tcp://b": ours | {"gdist": "0.0.1"}})


PRETENDED_GPU = """
import os, types, torch
gpu = types.SimpleNamespace(name=os.environ["PRETENDED_GPU"], uuid=os.getpid())
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
torch.cuda.get_device_properties = lambda device: gpu
"""


@contextlib.contextmanager
def dask_with(folder: Path, *gpus: str | None) -> Iterator[str]:
    """A scheduler, and a worker process for each of ``gpus``: one that says it has this model, or none."""
    (folder / "pretended_gpu.py").write_text(PRETENDED_GPU)
    file = folder / "scheduler.json"
    common = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(program: str, gpu: str | None, *options: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--scheduler-file", str(file), *options]
        preload = ["--preload", str(folder / "pretended_gpu.py")] if gpu else []
        with (folder / "log").open("ab") as log:
            env = common | ({"PRETENDED_GPU": gpu} if gpu else {})
            return subprocess.Popen([*words, *preload, "--no-dashboard"], stdout=log, stderr=log, env=env)

    processes = [start("scheduler", None, "--host", "127.0.0.1", "--port", "0")]
    processes += [start("worker", gpu, "--nthreads", "2", "--memory-limit", "0", "--no-nanny") for gpu in gpus]
    try:
        address = Running(processes[0], processes[0], file).address()
        with cluster.connect(address, LANES) as connected:
            connected.client.wait_for_workers(len(gpus), timeout=120)
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.thorough
def test_models_of_gpus_are_named_and_recorded(
    tiny_teacher: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Real worker processes, two of which say that they have GPUs: no pack is computed on these."""
    config = ExtractConfig(str(tiny_teacher), str(speech), str(tmp_path / "cache"))
    with (
        dask_with(tmp_path, "NVIDIA H100", "NVIDIA A100") as address,
        extract_cluster.workers_of(dataclasses.replace(config, cluster=address)) as workers,
    ):
        assert (workers.device, workers.gpus) == ("cuda", "NVIDIA A100, NVIDIA H100")
    assert "GPUs of several models (NVIDIA A100, NVIDIA H100)" in capfd.readouterr().err

    teacher, manifest = load_teacher(str(tiny_teacher)), Manifest.read(str(speech))
    plan = make_plan(config, teacher, manifest, measure(manifest)[1], "cuda", gpus=workers.gpus)
    assert plan.about["gpus"] == "NVIDIA A100, NVIDIA H100"
    cache = Cache.create(config.cache, plan)
    warn_of_other_models(cache, "NVIDIA A100, NVIDIA H100")
    assert not capfd.readouterr().err
    warn_of_other_models(cache, "NVIDIA L4")
    message = "was begun on NVIDIA A100, NVIDIA H100 and continues on NVIDIA L4"
    assert message in " ".join(capfd.readouterr().err.split())


@pytest.mark.thorough
def test_workers_with_and_without_a_gpu_are_refused(tmp_path: Path) -> None:
    with dask_with(tmp_path, "NVIDIA H100", None) as address:
        config = ExtractConfig("teacher", "manifest", str(tmp_path / "cache"), cluster=address)
        with (
            pytest.raises(ClusterError, match="some have none: they would not write the same bytes"),
            extract_cluster.workers_of(config),
        ):
            pass
        with extract_cluster.workers_of(dataclasses.replace(config, device="cpu")) as workers:
            assert (workers.device, workers.gpus) == ("cpu", "")


# --- processes of this machine --------------------------------------------------------------------------------------


def test_local_processes_write_the_same_bytes_though_one_is_killed(
    tiny_teacher: Path, speech: Path, tmp_path: Path, expected: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    threads = set[str]()

    def kill() -> None:
        threads.update(thread.name for thread in threading.enumerate())
        worker_processes(os.getpid())[0].kill()

    with at_receipt(tmp_path, 1, kill, total=receipts_of(expected)):
        result = extracted(tiny_teacher, speech, tmp_path, pack_frames=SMALL, cluster="local:2")
    assert "Profile" not in threads, "Dask's profiler looks into other threads' stacks"
    assert result["quarantined"] == 0
    assert contents(tmp_path) == expected
    assert capfd.readouterr().err == "", "what Dask logs is of no interest to users"


@pytest.mark.thorough
def test_ctrl_c_in_a_terminal(tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
    """The signal reaches every process of the command, but only one of them prints anything."""
    line = [*command(tiny_teacher, speech, tmp_path), "--pack-frames", SMALL, "--cluster", "local:1"]
    program = [sys.executable, "-c", "from gdist.stages.cli import main; main()", *map(str, line)]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, start_new_session=True, text=True)
    wait_for_receipts(tmp_path, 1)
    os.killpg(process.pid, signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    *progress, last = stderr.strip().splitlines()
    assert last == "interrupted; run the same command again to continue from here"
    assert all(line.startswith("extract: ") or not line for line in progress), stderr
    assert not (tmp_path / "extracting.json").exists(), "the lock is released"


def receipts_of(files: dict[str, bytes]) -> int:
    return len([name for name in files if name.startswith("receipts/")])


# --- a scheduler that is already running ----------------------------------------------------------------------------


def test_a_worker_is_killed(
    running: Running, address: str, tiny_teacher: Path, speech: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    with at_receipt(tmp_path, 3, lambda: running.processes()[0].kill(), total=receipts_of(expected)):
        extracted(tiny_teacher, speech, tmp_path, pack_frames=SMALL, cluster=address)
    assert contents(tmp_path) == expected


@pytest.mark.thorough
def test_the_command_is_stopped_killed_and_resumed(
    nursery: Nursery, running: Running, address: str, tiny_teacher: Path, speech: Path, tmp_path: Path,
    expected: dict[str, bytes], gdist: Gdist,
) -> None:  # fmt: skip
    line = [*command(tiny_teacher, speech, tmp_path), "--pack-frames", SMALL, "--cluster", running.file]
    nursery.start(*line)
    wait_for_receipts(tmp_path, 1)
    nursery.send(signal.SIGINT)
    assert nursery.exit_code() == 130
    (tmp_path / "receipts/00000.json").unlink(missing_ok=True)  # so that the next run has something to do
    done = receipts(tmp_path)
    nursery.start(*line)
    wait_for_receipts(tmp_path, done + 1)
    nursery.send(signal.SIGSTOP)
    try:
        with pytest.raises(CacheLockedError, match="another extraction is writing"):
            extracted(tiny_teacher, speech, tmp_path, pack_frames=SMALL, cluster=address)
    finally:
        nursery.send(signal.SIGKILL)
    assert nursery.exit_code() == -signal.SIGKILL
    extracted(tiny_teacher, speech, tmp_path, pack_frames=SMALL, cluster=address)
    assert contents(tmp_path) == expected
    assert gdist("verify", tmp_path).exit_code == 0


def wait_for_receipts(folder: Path, number: int) -> None:
    deadline = time.monotonic() + 60
    while receipts(folder) < number:
        assert time.monotonic() < deadline, "nothing is committed"
        time.sleep(0.001)


def test_bad_audio_is_quarantined_and_harms_no_worker(
    running: Running, address: str, tiny_teacher: Path, speech: Path, tmp_path: Path, gdist: Gdist
) -> None:
    rows = Manifest.read(speech).table.to_pylist()
    root = Path(Manifest.read(speech).root)
    for row in rows:
        row["path"] = str(root / row["path"])
    (tmp_path / "torn.flac").write_bytes(Path(rows[3]["path"]).read_bytes()[:3000])
    rows[3]["path"], rows[7]["path"] = str(tmp_path / "torn.flac"), str(tmp_path / "gone.flac")
    Manifest(pa.Table.from_pylist(rows), str(tmp_path)).write(tmp_path / "bad.parquet")
    before = {process.pid for process in running.processes()}
    result = gdist(
        *command(tiny_teacher, tmp_path / "bad.parquet", tmp_path / "many"), "--cluster", address, "--json"
    )
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout)["quarantine"].keys() == {rows[3]["id"], rows[7]["id"]}
    extracted(tiny_teacher, tmp_path / "bad.parquet", tmp_path / "one")
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert {process.pid for process in running.processes()} == before


def test_audio_that_only_this_machine_sees(
    address: str, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus must not be quarantined because a disk is not mounted on a worker."""
    demo = Manifest.read(demo_folder() / "demo.parquet")
    rows = [row | {"path": str(tmp_path / f"{row['id']}.wav")} for row in demo.table.slice(0, 5).to_pylist()]
    Manifest(pa.Table.from_pylist(rows), str(tmp_path)).write(tmp_path / "m.parquet")
    monkeypatch.setattr(extract_cluster, "is_here", lambda path: True)
    with pytest.raises(ClusterError, match=r"the worker on .* cannot see .*\.wav, but this machine can"):
        extracted(tiny_teacher, tmp_path / "m.parquet", tmp_path / "c", cluster=address)
    assert Cache.open(str(tmp_path / "c")).todo()


def test_workers_report_what_they_cannot_open(address: str, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
    extracted(tiny_teacher, speech, tmp_path / "c")
    cache = Cache.open(str(tmp_path / "c"))
    settings: dict[str, Any] = {
        "cache": str(tmp_path / "c"), "checksum": cache.gdist["checksum"], "token": "of another run",
        "teacher": str(tiny_teacher), "fingerprint": "0", "precision": "fp32", "final_norm": False,
        "window": None, "device": "cpu", "extensions": [],
    }  # fmt: skip
    message: extract_cluster.TaskMessage = (cache.tasks[0].receipt, [], True)
    with cluster.connect(address, LANES) as connected:
        for changed, expected in (
            ({"cache": str(tmp_path / "no")}, "the worker on .* cannot use the cache: .*there is no such folder"),
            ({"checksum": "0"}, "the worker on .* cannot use the cache: .* is not the requested one"),
            ({}, "the worker on .* cannot use the cache: this process may no longer write"),
        ):
            with crew.deploy(connected, extract_cluster.Extraction(**settings | changed)) as workers:
                ((_, error),) = workers.do([message])
            with pytest.raises(CacheError, match=expected):
                assert error is not None
                raise error


# --- tasks and workers, without a teacher ---------------------------------------------------------------------------


@dataclass
class Failing:
    """Records each call, and fails as its task says. A task is (name, kind of error, how often)."""

    folder: Path

    def open(self) -> None:
        with (self.folder / "opened").open("a") as file:
            file.write(f"{os.getpid()}\n")

    def run(self, task: tuple[str, str, int]) -> None:
        name, kind, times = task
        with (self.folder / name).open("a") as file:
            file.write("x")
        if len((self.folder / name).read_text()) <= times:
            if kind == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"store": CacheError("the store did not answer"), "lock": CacheLockedError("x", "y")}.get(
                kind, OSError()
            )

    def close(self) -> None:
        (self.folder / "closed").touch()


def test_temporary_failures_are_retried(address: str, tmp_path: Path) -> None:
    tasks = [(f"task{n}", "", 0) for n in range(30)]
    tasks += [
        ("slow", "store", 2),
        ("net", "comm", 2),
        ("bad", "store", 99),
        ("locked", "lock", 99),
    ]
    with cluster.connect(address, LANES) as connected, crew.deploy(connected, Failing(tmp_path)) as workers:
        ended = {name: error for (name, _, _), error in workers.do(tasks)}
        assert [error for _, error in workers.do([("fatal", "die", 2)])] == [None]
    assert ended.keys() == {name for name, _, _ in tasks}
    assert {name for name, error in ended.items() if error} == {"bad", "locked"}
    assert isinstance(ended["locked"], CacheLockedError) and ended["locked"].hint == "y"
    calls = {name: len((tmp_path / name).read_text()) for name in ("slow", "net", "bad", "locked", "fatal")}
    assert calls == {"slow": 3, "net": 3, "bad": crew.ATTEMPTS, "locked": 1, "fatal": 3}
    opened = (tmp_path / "opened").read_text().split()
    assert len(opened) == len(set(opened)) <= 4, "once per worker, and once more for each one that was killed"
    assert (tmp_path / "closed").exists()


def die_once(marker: Path) -> int:
    """Kill the first worker that runs this, and no other."""
    with contextlib.suppress(FileExistsError):
        marker.touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_a_worker_is_lost_during_a_request(address: str, tmp_path: Path) -> None:
    with cluster.connect(address, LANES) as connected:
        assert connected.ask(die_once, tmp_path / "marker")
        assert (tmp_path / "marker").exists()


def test_jobs_that_a_killed_run_left_on_the_workers_are_removed(address: str, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with cluster.connect(address, LANES) as connected:
        left = crew._JobPlugin(Failing(tmp_path / "old"), LANES)
        connected.client.register_plugin(left, name="gdist-Client-that-died")
        with crew.deploy(connected, Failing(tmp_path / "new")) as workers:
            assert [error for _, error in workers.do([("a", "", 0)])] == [None]
            assert (tmp_path / "old/closed").exists() and not (tmp_path / "new/closed").exists()


def test_a_connection_that_is_gone_is_a_lost_scheduler(address: str) -> None:
    """Asked in that moment, Dask's client knows nothing about the scheduler, and raises nothing."""
    with cluster.connect(address, LANES) as connected, pytest.MonkeyPatch.context() as patch:
        assert connected.workers() > 0
        patch.setattr(connected.client, "_scheduler_identity", {})
        patch.setattr(connected.client, "status", "closing")
        with pytest.raises(ClusterError, match=f"the scheduler at {address} was lost"):
            connected.workers()


@pytest.mark.thorough
def test_the_scheduler_is_killed(
    running: Running, address: str, tiny_teacher: Path, speech: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """A running extraction and one about to start both report it. This is the last test: no scheduler is left."""
    with cluster.connect(address, LANES) as other:
        with (
            pytest.raises(ClusterError, match=f"the scheduler at {address} was lost") as raised,
            at_receipt(tmp_path, 2, running.scheduler.kill, total=receipts_of(expected)),
        ):
            extracted(tiny_teacher, speech, tmp_path, pack_frames=SMALL, cluster=address)
        with pytest.raises(ClusterError, match="was lost"), crew.deploy(other, Failing(tmp_path)):
            pass
    assert raised.value.exit_code == 1 and "run the same command again" in str(raised.value)
    assert not (tmp_path / "extracting.json").exists(), "the lock is released"
    done = receipts(tmp_path)
    assert extracted(tiny_teacher, speech, tmp_path, pack_frames=SMALL)["packs_resumed"] >= done
    assert contents(tmp_path) == expected
