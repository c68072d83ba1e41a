"""A sweep's jobs on the workers of a Dask cluster: one at a time on each, in a process of its own.

Only names travel through Dask. The runs are in the sweep's folder, which every worker must see; what this process
learns of a job while it runs is read there, as for jobs on this machine. A worker watches whether the sweep that sent
it a job is alive, by the file that keeps a second sweep out of the folder, and stops the job when it is not.
"""

import contextlib
import dataclasses
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from gdist.pipeline.cluster import crew
from gdist.pipeline.cluster.workers import Cluster, connect, threads_of
from gdist.pipeline.errors import EXIT_FAILURE, EXIT_INTERRUPTED, ClusterError, GdistError, RunError
from gdist.pipeline.heartbeat import BEAT_SECONDS, PATIENCE_BEATS, Pulse
from gdist.pipeline.owner import REFUSED, read_owner
from gdist.stages.device import visible_gpus
from gdist.stages.extract.cluster import worker_device
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.jobs import Job, one_signal
from gdist.stages.sweep.options import SweepConfig
from gdist.stages.sweep.station import STOP_SECONDS, Station

LANES = 1  # jobs at a time on each worker, which has one GPU, or some cores
CLOSE_SECONDS = 5.0  # how often workers are asked to stop, as more of them may have joined
STOPPED = (EXIT_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM)
AGAIN_SECONDS = 2.0  # between attempts at a run that is in use: by the process of a lost worker, which will stop

Task = tuple[str, list[str], str]
"""A job: its name, its arguments and its log."""


class EndedError(GdistError):
    """A job has ended with an exit code other than 0."""

    def __init__(self, message: str, code: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class OneAtATime(crew.Job):
    """What a worker needs to run the jobs of one sweep; see :class:`gdist.pipeline.cluster.crew.Job`.

    Attributes:
        folder: the sweep's.
        token: of the folder's owner, the main process.
        here: the folder where the command was typed; jobs start there if the worker has it.
        station: where its processes are started; kept from job to job.
    """

    folder: Path
    token: str
    here: Path
    stopping: bool = False
    station: Station | None = None

    def open(self) -> None:
        require_seen({socket.gethostname(): sees(self.folder, self.token)}, self.folder)

    def run(self, task: Task) -> None:
        name, arguments, log = task
        job, until = Job(name, arguments, Path(log)), time.monotonic() + STOP_SECONDS + PATIENCE_BEATS * BEAT_SECONDS
        while True:
            length = job.log.stat().st_size if job.log.exists() else 0
            code = self._run(job)
            if code != EXIT_FAILURE or self.stopping or time.monotonic() > until or not _refused(job.log, length):
                break
            time.sleep(AGAIN_SECONDS)
        if code in STOPPED and not self.stopping:  # by whoever is about to end the worker too
            raise OSError(f"{name} was told to stop on {socket.gethostname()}")
        if code:
            raise EndedError(f"{name} ended with exit code {code} on {socket.gethostname()}", code)

    def _run(self, job: Job) -> int:
        sweep = Pulse(lambda: read_owner(self.folder), self.token)

        def is_over() -> bool:
            self.stopping = self.stopping or sweep.is_gone()
            return self.stopping

        if is_over():
            return EXIT_INTERRUPTED
        if self.station is None or not self.station.is_open():
            self.station = Station(self.here)
        return self.station.run(job, threads_of(1), is_over)

    def close(self) -> None:
        self.stopping = True
        if self.station is not None:
            self.station.close()


def _refused(log: Path, since: int) -> bool:
    """Whether a run was in use by another process, by what was printed since then."""
    with log.open("rb") as file:
        file.seek(since)
        return REFUSED.encode() in file.read()


def sees(folder: Path, token: str) -> bool:
    """Whether this machine sees the folder, and not another one at the same path."""
    return bool(read_owner(folder).get("token") == token)


def require_seen(answers: dict[str, bool], folder: Path) -> None:
    """Raise RunError unless each worker (by address) sees the sweep's folder."""
    blind = [address for address, seen in answers.items() if not seen]
    if blind:
        more = f" and {len(blind) - 1} more" if blind[1:] else ""
        raise RunError(
            f"the worker {blind[0]}{more} does not see the sweep's folder {folder}",
            "choose an --out in a folder that this machine and all workers mount at the same path",
        )


@contextlib.contextmanager
def workers_of(config: SweepConfig, folder: SweepFolder) -> Iterator[SweepConfig]:
    """The config with what runs its jobs: the workers that ``--cluster`` names, which are connected to.

    Raises:
        ClusterError: no scheduler answers, or its workers have other versions.
        RunError: a worker does not see the folder.
    """
    assert config.cluster is not None and folder.owner is not None
    gpus = visible_gpus() if torch.cuda.is_available() else ()
    with connect(config.cluster, LANES, gpus) as cluster:
        worker_device(cluster, "auto")
        job = OneAtATime(folder.folder, folder.owner.token, Path.cwd())
        require_seen(cluster.ask(sees, job.folder, job.token), job.folder)
        yield dataclasses.replace(config, jobs=max(cluster.workers(), 1), run=Workers(cluster, job).run)


@dataclass(frozen=True)
class Workers:
    """A cluster that runs the jobs of a sweep."""

    cluster: Cluster
    job: OneAtATime

    def run(
        self,
        jobs: Iterable[Job],
        at_once: int,
        threads: int,
        gpus: list[int],
        ended: Callable[[Job, int], bool],
        watch: Callable[[list[Job]], None],
    ) -> bool:
        """As :func:`gdist.stages.sweep.jobs.run_jobs`, with as many at once as there are workers.

        ``threads`` and ``gpus`` are of this machine; each worker has its own.

        Raises:
            ClusterError: the scheduler or all workers were lost.
            RunError: a worker that has joined does not see the folder.
        """
        running, more, closed = dict[str, Job](), True, float("-inf")

        def tasks() -> Iterator[Task]:
            for job in jobs:
                if stopped or not more:
                    return
                running[job.name] = job
                yield job.name, job.arguments, str(job.log)

        def look() -> None:
            nonlocal closed
            if stopped and time.monotonic() - closed > CLOSE_SECONDS:
                closed = time.monotonic()
                workers.close()
            watch(list(running.values()))

        with one_signal() as stopped, crew.deploy(self.cluster, self.job, long=True) as workers:
            for (name, _, _), error in workers.do(tasks(), look):
                job = running.pop(name)
                more = ended(job, _code(job, error)) and more
        return bool(stopped)


def _code(job: Job, error: Exception | None) -> int:
    """The exit code of a job; raises what says that a worker cannot be used."""
    if error is None or isinstance(error, EndedError):
        return 0 if error is None else error.code
    if not isinstance(error, ClusterError):
        raise error
    with job.log.open("a", encoding="utf-8") as log:
        log.write(f"error: {error.message}\n")
    return EXIT_FAILURE
