"""Tasks for workers: handed out a few at a time, retried where that may help, and reported when they have ended.

What a worker needs for every task (a model, an open cache) is a :class:`Job`. It is sent once, opened on the worker's
first task and kept there. A task's arguments are plain tuples, and it returns nothing, because its results are in the
store. So no result is lost when a worker or the scheduler is lost, and neither the scheduler nor this process ever
receives a tensor.
"""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from distributed import KilledWorker, Reschedule, Worker, WorkerPlugin, get_worker

from gdist.pipeline.cluster.workers import Cluster
from gdist.pipeline.errors import CacheError, ClusterError
from gdist.pipeline.logs import make_warnings_harmless

SPARE_TASKS = 1  # queued on each worker, so that a free lane can start its next task without waiting for this process
ATTEMPTS = 4  # at a task that fails for a reason that may be temporary
COUNT_SECONDS = 1.0  # how often the workers are counted
BUSY_SECONDS = 2.0  # after which a long task leaves a worker that is busy, for one that may be free


class Job(Protocol):
    """What a worker keeps between tasks. It is pickled before it is opened."""

    def open(self) -> None:
        """Prepare for the tasks. Called once on each worker, before its first task."""

    def run(self, task: Any) -> None:
        """Run one task. Up to one thread per lane calls this at a time. Running a task twice must do no harm."""

    def close(self) -> None:
        """End soon: the run is over, possibly in the middle of tasks. The job may never have been opened."""


@contextlib.contextmanager
def deploy(cluster: Cluster, job: Job, long: bool = False) -> Iterator["Crew"]:
    """Give ``job`` to every worker, including those that join later. However the block ends, the job is closed.

    Args:
        long: a task takes minutes to days. None is queued on a worker, none waits for a busy one while another is
            free, and a task that workers were lost with is not tried beyond what the scheduler allows.
    """
    cluster.retry(lambda: _remove_abandoned_jobs(cluster))
    name = f"gdist-{cluster.client.id}"
    cluster.retry(lambda: cluster.client.register_plugin(_JobPlugin(job, cluster.lanes, long), name=name))
    crew = Crew(cluster, name, long)
    try:
        yield crew
    finally:
        with contextlib.suppress(Exception):  # an error raised in the block says more
            if cluster.client.status == "running":
                cluster.client.cancel([future for future, _ in crew.running.values()], force=True)
                cluster.client.sync(cluster.client._unregister_worker_plugin, name=name, callback_timeout=10)


def _remove_abandoned_jobs(cluster: Cluster) -> None:
    """Remove the jobs that killed runs left on the workers: each keeps a model in a GPU's memory."""

    def abandoned(dask_scheduler: Any) -> list[str]:
        clients = {f"gdist-{client}" for client in dask_scheduler.clients}
        return [name for name in dask_scheduler.worker_plugins if name.startswith("gdist-") and name not in clients]

    for name in cluster.client.run_on_scheduler(abandoned):
        cluster.client.sync(cluster.client._unregister_worker_plugin, name=name)


class Crew:
    """Workers that have a job, and the tasks that they are running."""

    def __init__(self, cluster: Cluster, name: str, long: bool = False) -> None:
        self.cluster, self.name, self.long = cluster, name, long
        self.running: dict[Any, tuple[Any, tuple[Any, int]]] = {}  # key → future, (task, attempt)
        self.workers, self.last_seen = 0, time.monotonic()  # how many there are, and when there last was one

    def close(self) -> None:
        """Ask the job to end soon on every worker that there is now; tasks then end early."""
        with contextlib.suppress(OSError):  # the scheduler was lost, which `do` reports
            self.cluster.client.run(_close, self.name, on_error="ignore")

    def do[T](
        self, tasks: Iterable[T], watch: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[T, Exception | None]]:
        """Run the tasks in any order, a few per worker at a time, and yield each one when it has ended.

        Args:
            watch: called about once a second.

        Yields:
            the task, and None or the exception it failed with; ClusterError where every worker that was given it was
            lost. A failure that may be temporary (a lost worker, a store that did not answer) is retried first.

        Raises:
            ClusterError: the scheduler or all workers were lost.
        """
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def submit(entries: list[tuple[T, int]]) -> None:
            # In one message to the scheduler, which takes it as long for one task as for several.
            tasks = [task for task, _ in entries]
            futures = self.cluster.client.map(_run, [self.name] * len(tasks), tasks, pure=False)
            for future, entry in zip(futures, entries, strict=True):
                self.running[future.key] = future, entry
                future.add_done_callback(ended.put)

        waiting = iter(tasks)
        more, limit, counted = True, 0, float("-inf")
        again: list[tuple[T, int]] = []  # tasks to be retried, with the number of the attempt
        while more or again or self.running:
            if time.monotonic() - counted > COUNT_SECONDS:
                limit, counted = self._max_in_flight(), time.monotonic()
            free = max(0, limit - len(self.running) - len(again))
            fresh = [(task, 1) for task in itertools.islice(waiting, free if more else 0)]
            more = more and len(fresh) == free
            if again or fresh:
                submit(again + fresh)
                again = []
            if not self.running:
                return
            watch()
            for future in _all_of(ended):
                _, (task, attempt) = self.running.pop(future.key)
                if future.status == "cancelled":
                    raise self.cluster.lost()
                error = future.exception() if future.status == "error" else None
                if isinstance(error, (KilledWorker, OSError)) or type(error) is CacheError:
                    if attempt < (1 if self.long and isinstance(error, KilledWorker) else ATTEMPTS):
                        again.append((task, attempt + 1))
                        continue
                    if not isinstance(error, CacheError):
                        error = ClusterError(
                            f"every worker that was given one of the tasks was lost ({error})",
                            "see the workers' logs; usually they ran out of memory, so try fewer --batch-seconds",
                        )
                yield task, error

    def _max_in_flight(self) -> int:
        """How many tasks to have in flight now. Raises ClusterError when the scheduler or all workers were lost."""
        if self.cluster.client.status != "running":
            raise self.cluster.lost()
        self.workers = self.cluster.workers()
        if self.workers:
            self.last_seen = time.monotonic()
        elif time.monotonic() - self.last_seen > self.cluster.patience:
            raise ClusterError(
                f"all workers of {self.cluster.spec} were lost, and none came back",
                "run the same command again when there are workers: what was committed is kept",
            )
        return max(1, self.workers) * (self.cluster.lanes + (0 if self.long else SPARE_TASKS))


class _JobPlugin(WorkerPlugin):
    """A job on a worker."""

    def __init__(self, job: Job, lanes: int, long: bool = False) -> None:
        self.job, self.max_lanes, self.long = job, lanes, long

    def setup(self, worker: Worker) -> None:
        make_warnings_harmless()
        # The job is opened on the first task and not here, where it would block the worker's event loop, and an error
        # would end the worker instead of the task.
        self.opening, self.is_open = threading.Lock(), False
        # A worker may have been started with more threads, but its memory has room for only this many packs.
        self.lanes = threading.Semaphore(self.max_lanes)

    def teardown(self, worker: Worker) -> None:
        self.job.close()

    def run(self, task: Any) -> None:
        with self.opening:
            if not self.is_open:
                self.job.open()
                self.is_open = True
        if not self.lanes.acquire(timeout=BUSY_SECONDS if self.long else None):
            raise Reschedule  # the scheduler sends it to whom it thinks is least busy now
        try:
            self.job.run(task)
        finally:
            self.lanes.release()


def _all_of(ended: "queue.SimpleQueue[Any]") -> list[Any]:
    """What has ended by now; nothing after a second without any."""
    found: list[Any] = []
    with contextlib.suppress(queue.Empty):
        found.append(ended.get(timeout=1))
        while True:
            found.append(ended.get_nowait())
    return found


def _run(name: str, task: Any) -> None:
    plugin: Any = get_worker().plugins[name]
    plugin.run(task)


def _close(name: str, dask_worker: Any) -> None:
    if (plugin := dask_worker.plugins.get(name)) is not None:
        plugin.job.close()
