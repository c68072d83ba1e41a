"""Where workers are: Dask processes on this machine, or a scheduler somewhere.

    local:N      N worker processes here, one a GPU where there are any; they end with us
    tcp://H:P    a scheduler that runs already, with workers that came to it (tls:// too, or its scheduler file)

What they do is told by :mod:`gdist.pipeline.cluster.crew`; no other module knows Dask.
"""

import contextlib
import json
import logging
import os
import re
import signal
import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster

from gdist.pipeline import console
from gdist.pipeline.errors import ClusterError, ConfigError

DEATHS = 10  # workers that a task may lose before Dask gives it up; three by default, and a spot fleet loses more
CONNECT_SECONDS = 10.0
TRIES, PAUSE_SECONDS = 5, 1.0  # of a request to all workers, some of which may be lost meanwhile
PATIENCE_SECONDS = 300.0  # for the first worker to come, and for one to come back when all are lost
SPECS = "local:N, tcp://HOST:PORT, tls://HOST:PORT or a scheduler file (….json)"


def check_spec(spec: str) -> None:
    """Raise ConfigError unless ``--cluster`` can mean something."""
    local = re.fullmatch(r"local:([1-9]\d{0,3})", spec)
    if not local and not re.fullmatch(r"(tcp|tls)://[^/\s]+:\d+", spec) and not spec.endswith(".json"):
        raise ConfigError(f"--cluster {spec}: it is none of {SPECS}", "for example --cluster local:2")


def threads_of(workers: int) -> int:
    """Threads that each of ``workers`` processes on this machine computes with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    budget = os.environ.get("OMP_NUM_THREADS", "")  # what the user said of one process holds for each
    return int(budget) if budget.isdecimal() and int(budget) else max(1, cores // workers)


@contextlib.contextmanager
def connect(
    spec: str, lanes: int, gpus: Sequence[str] = (), patience: float = PATIENCE_SECONDS
) -> Iterator["Cluster"]:
    """Workers to give tasks to, for the length of a ``with``.

    Args:
        lanes: tasks at a time on a worker, each in a thread: one may read while another computes and a third writes.
        gpus: what CUDA_VISIBLE_DEVICES calls each GPU of this machine; local workers get one each.
        patience: seconds to wait for workers where there are none.

    Raises:
        ConfigError: no such cluster can be.
        ClusterError: nothing answers there, or no worker comes.
    """
    check_spec(spec)
    # Dask tells the log of every worker that comes and goes. What matters to people is raised or said here.
    for name in ("distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        if spec.startswith("local:"):
            address: Any = stack.enter_context(_local(int(spec.removeprefix("local:")), lanes, gpus))
        else:
            address = _address(spec)
        try:
            if str(address).startswith("tcp://"):
                _hear_scheduler(address)
            client = stack.enter_context(Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"no Dask scheduler answers at {spec}: {str(error).splitlines()[0]}",
                "start one with `dask scheduler`, and workers with `dask worker tcp://HOST:8786 --nthreads 3`",
            ) from error
        cluster = Cluster(client, spec, lanes, patience)
        cluster.wait_for_workers()
        if dashboard := _dashboard(client):
            console.say(f"dashboard: {dashboard}")
        yield cluster


def _address(spec: str) -> str:
    """Of the scheduler, which may have left it in a file."""
    if not spec.endswith(".json"):
        return spec
    try:
        return str(json.loads(Path(spec).read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--cluster {spec}: it is not a scheduler file", f"one of {SPECS}") from error


def _hear_scheduler(address: str) -> None:
    """Raise OSError unless somebody at ``address`` speaks first, as schedulers do.

    Dask's client waits for ever where something else listens: a web server, a port that leads nowhere.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as connection:
                if not connection.recv(1):
                    raise OSError("what listens there hangs up")
                return
        except TimeoutError as error:
            raise OSError(f"nothing was heard for {CONNECT_SECONDS:.0f} s") from error
        except OSError:
            if time.monotonic() > deadline:  # it may be about to start
                raise
            time.sleep(0.2)


@contextlib.contextmanager
def _local(workers: int, lanes: int, gpus: Sequence[str]) -> Iterator[SpecCluster]:
    """Worker processes here, spawned and not forked: a fork of a process with threads may hang."""
    if gpus and workers > len(gpus):
        raise ConfigError(
            f"--cluster local:{workers}: there are {len(gpus)} GPUs here, and each worker needs one",
            f"--cluster local:{len(gpus)}",
        )
    libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    settings = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(libraries, str(threads_of(workers))),
    }
    scheduler = {
        "host": "127.0.0.1",
        "allowed_failures": DEATHS,
        "dashboard": util.find_spec("bokeh") is not None,
        "dashboard_address": "127.0.0.1:8787",
    }
    worker = {
        "host": "127.0.0.1",
        "nthreads": lanes,
        "memory_limit": 0,  # Dask holds none of our data, so it has nothing to spill where memory is short
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
    }
    with dask.config.set(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Port .* is already in use")  # another dashboard's: any will do
        # Ctrl-C in a terminal goes to every process, and ours ends the others in order. A thread that is made here
        # hands on what it blocks to the processes it starts, now and in the place of one that was killed.
        resource_tracker.ensure_running()  # by whichever thread does it first, who would then listen again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            made = SpecCluster(
                scheduler={"cls": Scheduler, "options": scheduler},
                workers={
                    number: {
                        "cls": Nanny,
                        "options": worker | {"env": {"CUDA_VISIBLE_DEVICES": gpus[number]} if gpus else {}},
                    }
                    for number in range(workers)
                },
                silence_logs=logging.CRITICAL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with made:
            yield made


def _dashboard(client: Client) -> str | None:
    """Where the dashboard is, if it is: without bokeh the scheduler answers with a note on how to install that."""
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        address: str = client.dashboard_link
        with urlopen(address, timeout=2) as page:
            return address if b"needs bokeh" not in page.read() else None
    return None


@dataclass
class Cluster:
    """A connection to a scheduler. Made by :func:`connect`."""

    client: Client
    spec: str
    lanes: int
    patience: float = PATIENCE_SECONDS

    def workers(self) -> int:
        """How many there are just now."""
        try:
            return int(self.client.scheduler_info(n_workers=0)["n_workers"])
        except OSError as error:
            raise self.lost() from error

    def lost(self) -> ClusterError:
        """What to raise when the scheduler answers no more."""
        return ClusterError(
            f"the scheduler at {self.spec} was lost",
            "start it and its workers, and run the same command again: what was committed is kept",
        )

    def wait_for_workers(self) -> None:
        """Raise ClusterError when none comes."""
        if not self.workers():
            console.say(f"no worker has come to {self.spec} yet; waiting up to {console.duration(self.patience)}")
        try:
            self.client.wait_for_workers(1, timeout=self.patience)
        except TimeoutError as error:
            raise ClusterError(
                f"no worker came to {self.spec}", f"dask worker {self.spec} --nthreads {self.lanes}"
            ) from error

    def ask(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """What ``function(*args)`` returns on each worker, by address. It must be importable there."""

        def request() -> dict[str, Any]:
            answers: dict[str, Any] = self.client.run(function, *args, on_error="return")
            for answer in answers.values():
                if isinstance(answer, Exception) and not isinstance(answer, OSError):
                    raise answer
            heard = {address: answer for address, answer in answers.items() if not isinstance(answer, OSError)}
            if not heard:  # they were lost while they were asked; others come
                self.wait_for_workers()
                raise OSError("every worker was lost while it was asked what it is")
            return heard

        try:
            return self.insist(request)
        except ImportError as error:
            raise ClusterError(
                f"the workers at {self.spec} cannot import gdist ({error})",
                f"install gdist {metadata.version('gdist')} where they run, and start them again",
            ) from error

    def insist[T](self, request: Callable[[], T]) -> T:
        """The result of a request that all workers have a part in: again where one of them was lost in its middle.

        Raises:
            ClusterError: the scheduler was lost, or workers are lost faster than they can be asked.
        """
        for left in reversed(range(TRIES)):
            try:
                return request()
            except OSError as error:
                if self.client.status != "running":
                    raise self.lost() from error
                if not left:
                    raise ClusterError(
                        f"the workers at {self.spec} cannot be spoken to: {error}",
                        "see their logs; then run the same command again: what was committed is kept",
                    ) from error
                time.sleep(PAUSE_SECONDS)
        raise AssertionError("the last try returns or raises")


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of installed packages, without the build: 2.11.0 is 2.11.0+cu130's equal."""
    return {name: metadata.version(name).partition("+")[0] for name in names}


def require_same_versions(answers: Mapping[str, Mapping[str, str]]) -> None:
    """Raise ClusterError unless each worker (by address) runs what this process runs."""
    for address, theirs in answers.items():
        ours = versions(theirs)
        different = [f"{name} {theirs[name]} (here {ours[name]})" for name in ours if ours[name] != theirs[name]]
        if different:
            raise ClusterError(
                f"the worker {address} runs other software: {', '.join(different)}",
                "install the same versions everywhere: other software may write other bytes",
            )


def shared(names: Mapping[str, str]) -> list[str]:
    """The names that more than one key has, sorted; empty ones do not count."""
    return sorted(name for name, count in Counter(names.values()).items() if name and count > 1)
