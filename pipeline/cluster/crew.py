"""Tasks for workers: handed out a few at a time, tried again where that may help, reported when they have ended.

What a worker needs for every task (a model, an open cache) is a :class:`Job`: sent once, opened on the worker's first
task and kept there. A task's arguments are plain tuples, and it returns nothing: what it did lies in the store. So
nothing is lost with a worker or the scheduler, and neither the scheduler nor this process ever holds a tensor.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from distributed import KilledWorker, Worker, WorkerPlugin, get_worker

from gdist.pipeline.cluster.workers import Cluster
from gdist.pipeline.errors import CacheError, ClusterError

SPARE = 1  # a task that waits at a worker's door, so that a lane which falls free need not wait for us
ATTEMPTS = 4  # for a task that fails for a reason that may pass
COUNT_SECONDS = 1.0  # how often the workers are counted


class Job(Protocol):
    """What a worker keeps between tasks. It is pickled before it is opened."""

    def open(self) -> None:
        """Called on a worker, once, before its first task."""

    def run(self, task: Any) -> None:
        """Do one task; called by as many threads at a time as there are lanes. Doing it twice must do no harm."""

    def close(self) -> None:
        """The run is over, perhaps in the middle of tasks: end them soon. It may never have been opened."""


@contextlib.contextmanager
def employed(cluster: Cluster, job: Job) -> Iterator["Crew"]:
    """Every worker, also one that comes later, with ``job`` at hand; closed at the end, whatever ends it."""
    cluster.insist(lambda: _forget_the_dead(cluster))
    name = f"gdist-{cluster.client.id}"
    cluster.insist(lambda: cluster.client.register_plugin(_Resident(job, cluster.lanes), name=name))
    crew = Crew(cluster, name)
    try:
        yield crew
    finally:
        with contextlib.suppress(Exception):  # what went wrong above says more
            if cluster.client.status == "running":
                cluster.client.cancel([future for future, _ in crew.running.values()], force=True)
                cluster.client.sync(cluster.client._unregister_worker_plugin, name=name, callback_timeout=10)


def _forget_the_dead(cluster: Cluster) -> None:
    """Free the workers of what runs left there that were killed: a model fills a GPU."""

    def abandoned(dask_scheduler: Any) -> list[str]:
        clients = {f"gdist-{client}" for client in dask_scheduler.clients}
        return [name for name in dask_scheduler.worker_plugins if name.startswith("gdist-") and name not in clients]

    for name in cluster.client.run_on_scheduler(abandoned):
        cluster.client.sync(cluster.client._unregister_worker_plugin, name=name)


class Crew:
    """Workers with a job at hand."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.running: dict[Any, tuple[Any, tuple[Any, int]]] = {}  # key → future, (task, attempt)
        self.workers, self.seen = 0, time.monotonic()  # when there was one

    def do[T](self, tasks: Iterable[T]) -> Iterator[tuple[T, Exception | None]]:
        """Do the tasks, in any order, a few a worker at a time, and yield each when it has ended.

        Yields:
            the task, and None or what it failed with. What may pass (a lost worker, a store that did not answer) has
            been tried again before.

        Raises:
            ClusterError: the scheduler was lost, or all workers; or a task loses every worker it is given to.
        """
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def submit(task: T, attempt: int) -> None:
            future = self.cluster.client.submit(_run, self.name, task, pure=False)
            self.running[future.key] = future, (task, attempt)
            future.add_done_callback(ended.put)

        waiting = iter(tasks)
        more, most, counted = True, 0, float("-inf")
        while more or self.running:
            if time.monotonic() - counted > COUNT_SECONDS:
                most, counted = self._most(), time.monotonic()
            while more and len(self.running) < most:
                try:
                    submit(next(waiting), 1)
                except StopIteration:
                    more = False
            if not self.running:
                return
            try:
                future = ended.get(timeout=1)
            except queue.Empty:
                continue
            _, (task, attempt) = self.running.pop(future.key)
            if future.status == "cancelled":
                raise self.cluster.lost()
            error = future.exception() if future.status == "error" else None
            if isinstance(error, (KilledWorker, OSError)) or type(error) is CacheError:
                if attempt < ATTEMPTS:
                    submit(task, attempt + 1)
                    continue
                if not isinstance(error, CacheError):
                    raise ClusterError(
                        f"a task lost every worker that it was given to ({error})",
                        "see the workers' logs; most often their memory was full: give fewer --batch-seconds",
                    ) from error
            yield task, error

    def _most(self) -> int:
        """Tasks to have in flight now. Raises ClusterError where that has no end: nobody is there to do them."""
        if self.cluster.client.status != "running":
            raise self.cluster.lost()
        self.workers = self.cluster.workers()
        if self.workers:
            self.seen = time.monotonic()
        elif time.monotonic() - self.seen > self.cluster.patience:
            raise ClusterError(
                f"all workers of {self.cluster.spec} were lost, and none came back",
                "run the same command again when there are workers: what was committed is kept",
            )
        return max(1, self.workers) * (self.cluster.lanes + SPARE)


class _Resident(WorkerPlugin):
    """A job, on a worker."""

    def __init__(self, job: Job, lanes: int) -> None:
        self.job, self.most = job, lanes

    def setup(self, worker: Worker) -> None:
        # Opened on the first task and not here: here it would hold up the worker's event loop, and what goes wrong
        # would end the worker instead of the task.
        self.opening, self.is_open = threading.Lock(), False
        self.lanes = threading.Semaphore(
            self.most
        )  # where a worker was given more threads, memory still holds so many

    def teardown(self, worker: Worker) -> None:
        self.job.close()

    def run(self, task: Any) -> None:
        with self.opening:
            if not self.is_open:
                self.job.open()
                self.is_open = True
        with self.lanes:
            self.job.run(task)


def _run(name: str, task: Any) -> None:
    resident: Any = get_worker().plugins[name]
    resident.run(task)
