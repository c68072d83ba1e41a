"""A sweep on a Dask cluster trains the students of a sweep on this machine, whichever process is killed.

The Dask processes are real: workers that the sweep starts, and a scheduler with workers of its own.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sweeping import LEAST, Gdist, counts, run, weights
from test_cluster import Running, start_dask, worker_processes

from gdist.pipeline import heartbeat
from gdist.pipeline.cluster import workers as cluster
from gdist.pipeline.heartbeat import Pulse
from gdist.pipeline.owner import OWNER, REFUSED, Owner
from gdist.stages.sweep.cluster import EndedError, OneAtATime

# Three points of a few seconds each, for two workers.
LONGER = (
    LEAST.replace("seeds = [0, 1]", "seeds = [0, 1, 2]").replace('["student", "teacher"]', '["student"]')
    .replace('"train.steps" = 4', '"train.steps" = 150').replace('checkpoint_every" = 2', 'checkpoint_every" = 10')
    .replace('validate_every" = 4', 'validate_every" = 150')
)  # fmt: skip
TRAIN = ["train.warmup_steps=1", "train.batch_seconds=2", "train.validate_seconds=2", "train.checkpoint_every=2"]
Students = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module", autouse=True)  # they start while the first tests run
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_dask(tmp_path_factory.mktemp("dask"))
    yield running
    running.end()


@pytest.fixture(autouse=True)
def one_thread_per_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(LONGER)
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path) -> Students:
    """The students of the same sweep in processes of this machine."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "small.toml").write_text(LONGER)
    line = ["sweep", folder / "small.toml", "--cache", tiny_cache, "--out", folder / "out", "--jobs", 2, "--json"]
    done = subprocess.run(words(*line), env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    return weights(json.loads(done.stdout))


def words(*line: object) -> list[str]:
    return [sys.executable, "-c", "from gdist.stages.cli import main; main()", *map(str, line)]


def assert_same(found: dict[str, Any], expected: Students) -> None:
    assert counts(found)[:2] == (3, 3) and counts(found)[3:] == (0, 0)
    students = weights(found)
    assert students.keys() == expected.keys()
    for identity, tensors in expected.items():
        assert all(torch.equal(tensor, students[identity][name]) for name, tensor in tensors.items())


def checkpoints(out: Path) -> int:
    return len(list(out.glob("runs/*/checkpoints/step-*")))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 600  # only a hang takes that long
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def jobs_at_work(out: Path) -> list[Path]:
    """The runs that a process is training now."""
    return list(out.glob(f"runs/*/{OWNER}"))


class at_work(threading.Thread):  # noqa: N801 — reads as a statement
    """Calls ``act`` once points are being trained in ``out``. At its end, the block asserts that it did."""

    def __init__(self, out: Path, act: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.out, self.act, self.acted = out, act, False

    def run(self) -> None:
        wait_for(lambda: checkpoints(self.out) > 0, "nothing is trained")
        finished = list(self.out.glob("runs/*/student/model.safetensors"))
        self.act()
        self.acted = len(finished) < 3

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.join(5)
        assert self.acted, "it came too late"


# --- whole sweeps ---------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_local_workers_one_of_which_is_killed(
    file: Path, tiny_cache: Path, tmp_path: Path, expected: Students, gdist: Gdist
) -> None:
    out = tmp_path / "out"
    with at_work(out, lambda: worker_processes(os.getpid())[0].kill()):
        found = run(gdist, file, tiny_cache, out, "--cluster", "local:2")
    assert_same(found, expected)
    assert found["ran"] == 3 and not jobs_at_work(out)
    assert counts(run(gdist, file, tiny_cache, out, "--cluster", "local:2")) == (3, 3, 0, 0, 0)


@pytest.mark.thorough
def test_a_scheduler_and_its_workers_one_of_which_is_killed(
    running: Running, file: Path, tiny_cache: Path, tmp_path: Path, expected: Students, gdist: Gdist
) -> None:
    """The scheduler's workers have threads for three packs of an extraction, and train one point at a time."""
    out, most = tmp_path / "out", 0

    def kill() -> None:
        nonlocal most
        most = max(most, len(jobs_at_work(out)))
        running.processes()[0].kill()

    with at_work(out, kill):
        found = run(gdist, file, tiny_cache, out, "--cluster", running.address())
    assert_same(found, expected)
    assert 1 <= most <= 2 and not jobs_at_work(out)


@pytest.mark.thorough
def test_the_command_is_stopped_and_killed(
    running: Running, file: Path, tiny_cache: Path, tmp_path: Path, expected: Students, gdist: Gdist
) -> None:
    """Interrupted, it ends when its points have stopped; killed, they stop when another sweep takes the workers."""
    out = tmp_path / "out"
    line = words("sweep", file, "--cache", tiny_cache, "--out", out, "--cluster", running.file)
    for number in (signal.SIGINT, signal.SIGKILL):
        before = checkpoints(out)
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True)
        wait_for(lambda before=before: checkpoints(out) > before, "nothing is trained")  # type: ignore[misc]
        os.killpg(process.pid, number)
        stderr = process.communicate(timeout=300)[1]
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        if number == signal.SIGINT:
            assert "run the same command again" in stderr and not list(out.glob("failed/*"))
            assert not jobs_at_work(out)
    assert_same(run(gdist, file, tiny_cache, out, "--cluster", running.file), expected)


@pytest.mark.thorough
def test_ctrl_c_in_a_terminal_with_local_workers(file: Path, tiny_cache: Path, tmp_path: Path) -> None:
    """The signal reaches every process of the command, and each point stops once, with a checkpoint."""
    out = tmp_path / "out"
    file.write_text(LONGER.replace("= 150", "= 100000"))
    line = ["sweep", file, "--cache", tiny_cache, "--out", out, "--cluster", "local:1"]
    process = subprocess.Popen(words(*line), stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: checkpoints(out) > 0, "nothing is trained")
    os.killpg(process.pid, signal.SIGINT)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 130, stderr
    assert not jobs_at_work(out) and not list(out.glob("failed/*"))
    (log,) = out.glob("logs/*.log")
    assert "stopping after this step" in log.read_text()


def test_a_point_that_fails_leaves_the_others_alone(
    running: Running, file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    file.write_text(LEAST.replace("[grid]", '"train.clip_norm" = 1e30\n[grid]\n"train.lr" = [1e-3, 1e30]'))
    line = ["sweep", file, "--cache", tiny_cache, "--out", tmp_path / "out", "--only", "=student", "--json"]
    running.address()  # the file is there once the scheduler has started
    result = gdist(*line, "--cluster", running.file)
    found = json.loads(result.stdout)
    assert result.exit_code == 1 and counts(found) == (4, 2, 2, 2, 0)
    failed = [row for row in found["table"] if row["state"] == "failed"]
    assert all(any("is nan" in line or "is inf" in line for line in row["log"]) for row in failed)


# --- one worker -----------------------------------------------------------------------------------------------------


def training(cache: Path, out: Path, steps: int) -> tuple[str, list[str], str]:
    """A job's task."""
    sets = [part for setting in [*TRAIN, f"train.steps={steps}"] for part in ("--set", setting)]
    line = ["train", "--cache", str(cache), "--out", str(out / "runs/a"), *sets]
    return "a", line, str(out / "a.log")


@pytest.mark.thorough
def test_a_run_that_another_process_has_not_left_yet(tiny_cache: Path, tmp_path: Path) -> None:
    """A lost worker may still be writing a checkpoint of the point that this one is given."""
    (tmp_path / "runs/a").mkdir(parents=True)
    log, task = tmp_path / "a.log", training(tiny_cache, tmp_path, 2)
    with Owner(tmp_path) as sweep:
        job = OneAtATime(tmp_path, sweep.token, tmp_path / "not there")
        this = threading.Thread(target=job.run, args=(task,))
        with Owner(tmp_path / "runs/a"):
            this.start()
            wait_for(lambda: log.exists() and REFUSED in log.read_text(), "it is not refused")
        this.join()
        job.close()
    assert (tmp_path / "runs/a/student/model.safetensors").exists()


def test_a_job_that_is_told_to_stop(tiny_cache: Path, tmp_path: Path) -> None:
    """By Slurm, which will end its worker too: another one goes on with it. Or because the sweep is gone."""
    task, owner = training(tiny_cache, tmp_path, 100_000), tmp_path / "runs/a" / OWNER

    def trains() -> bool:
        return owner.exists() and any((tmp_path / "runs/a/checkpoints").glob("step-*"))

    def tell() -> None:
        wait_for(trains, "nothing is trained")
        os.kill(json.loads(owner.read_text())["pid"], signal.SIGTERM)

    def take_over() -> None:
        wait_for(trains, "nothing is trained")
        (tmp_path / OWNER).write_text(json.dumps({"token": "another", "beat": 0}))

    with Owner(tmp_path) as sweep:
        job = OneAtATime(tmp_path, sweep.token, tmp_path)
        for act, error in ((tell, OSError), (take_over, EndedError)):
            other = threading.Thread(target=act)
            other.start()
            with pytest.raises(error) as ended:
                job.run(task)
            other.join()
    assert isinstance(ended.value, EndedError) and ended.value.code == 130
    assert not owner.exists()


def test_a_pulse() -> None:
    seen = {"token": "a", "beat": 0}
    pulse = Pulse(lambda: dict(seen), "a", seconds=0.1)
    for _ in range(8):
        time.sleep(0.1)
        seen["beat"] += 1  # type: ignore[operator]
        assert not pulse.is_gone()
    seen.clear()  # being written
    assert not pulse.is_gone()
    time.sleep(0.1 * heartbeat.PATIENCE_BEATS + 0.1)
    assert pulse.is_gone()


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster", "local:0"], "--cluster local:0: it must be one of"),
        (["--cluster", "local:2", "--jobs", "2"], "--jobs 2 does not go with --cluster"),
        (["--cluster", "local:2", "--cache", "memory://x"], "no other process can see this memory"),
    ],
)
def test_options_that_do_not_go_with_a_cluster(
    options: list[str], message: str, file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    cache = [] if "--cache" in options else ["--cache", tiny_cache]
    result = gdist("sweep", file, "--out", tmp_path / "out", *cache, *options)
    assert result.exit_code == 2 and message in result.stderr
    assert not (tmp_path / "out").exists()


def test_no_scheduler_answers(
    file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    line = ["sweep", file, "--cache", tiny_cache, "--out", tmp_path / "out", "--cluster", "tcp://127.0.0.1:9"]
    result = gdist(*line)
    assert result.exit_code == 1 and "no Dask scheduler answers at tcp://127.0.0.1:9" in result.stderr
    assert gdist(*line, "--dry-run").exit_code == 0, "a dry run needs no workers"


@pytest.mark.thorough
def test_a_worker_that_sees_another_folder(
    running: Running, file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    """A worker with file systems of its own, in which the sweep's folder is an empty one."""
    out = tmp_path / "out"
    out.mkdir()
    address = running.address()
    dask = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard"]
    mounting = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(out), *dask]
    if subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", out], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    apart = subprocess.Popen(mounting, env=env, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        with cluster.connect(address, 1) as connected:
            connected.client.wait_for_workers(3, timeout=600)
        result = gdist("sweep", file, "--cache", tiny_cache, "--out", out, "--cluster", address)
    finally:
        apart.terminate()
        apart.wait()
    assert result.exit_code == 1 and f"does not see the sweep's folder {out}" in result.stderr
    assert "mount at the same path" in result.stderr and not (out / "sweep.json").exists()
