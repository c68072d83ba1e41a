"""Where workers are: Dask processes on this machine, or a scheduler somewhere.

    local:N      N worker processes here, one per GPU if there are any; they end with this process
    tcp://H:P    a scheduler that is already running, and its workers (tls:// or its scheduler file work too)

:mod:`gdist.pipeline.cluster.crew` gives them their work. No other module knows Dask.
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

from gdist.pipeline import console, machine
from gdist.pipeline.errors import ClusterError, ConfigError

MAX_WORKER_DEATHS = 10  # during one task before Dask gives it up; Dask's default is 3, but a spot fleet loses more
CONNECT_SECONDS = 10.0
TRIES, PAUSE_SECONDS = 5, 1.0  # of a request to all workers, some of which may be lost meanwhile
PATIENCE_SECONDS = 300.0  # to wait for the first worker, and for another one when all are lost
SPECS = "local:N, tcp://HOST:PORT, tls://HOST:PORT or a scheduler file (….json)"


def check_spec(spec: str) -> None:
    """Raise ConfigError unless ``spec`` is a valid ``--cluster``."""
    local = re.fullmatch(r"local:([1-9]\d{0,3})", spec)
    if not local and not re.fullmatch(r"(tcp|tls)://[^/\s]+:\d+", spec) and not spec.endswith(".json"):
        raise ConfigError(f"--cluster {spec}: it must be one of {SPECS}", "for example --cluster local:2")


def threads_of(workers: int) -> int:
    """The number of threads that each of ``workers`` processes on this machine computes with."""
    budget = os.environ.get("OMP_NUM_THREADS", "")  # if the user has set it, it applies to each process
    return int(budget) if budget.isdecimal() and int(budget) else max(1, machine.cores() // workers)


@contextlib.contextmanager
def connect(
    spec: str, lanes: int, gpus: Sequence[str] = (), patience: float = PATIENCE_SECONDS
) -> Iterator["Cluster"]:
    """Connect to workers for the length of a ``with`` block, starting them if they are local.

    Args:
        lanes: tasks at a time per worker, each in a thread: one may read while another computes and a third writes.
        gpus: the name of each GPU of this machine in CUDA_VISIBLE_DEVICES; each local worker gets one.
        patience: seconds to wait for workers when there are none.

    Raises:
        ConfigError: the spec is invalid.
        ClusterError: the scheduler does not answer, or no worker joins it.
    """
    check_spec(spec)
    # Dask logs every worker that joins or leaves. What matters to people is raised or printed here.
    for name in ("distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        if spec.startswith("local:"):
            address: Any = stack.enter_context(_local(int(spec.removeprefix("local:")), lanes, gpus))
        else:
            address = _address(spec)
        try:
            if str(address).startswith("tcp://"):
                _check_scheduler(address)
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
    """The address of the scheduler, which may be in a scheduler file."""
    if not spec.endswith(".json"):
        return spec
    try:
        return str(json.loads(Path(spec).read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--cluster {spec}: it is not a scheduler file", f"one of {SPECS}") from error


def _check_scheduler(address: str) -> None:
    """Raise OSError unless something at ``address`` sends the first byte, as schedulers do.

    Otherwise Dask's client would wait forever when something else listens there, such as a web server.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as connection:
                if not connection.recv(1):
                    raise OSError("the connection was closed at once")
                return
        except TimeoutError as error:
            raise OSError(f"no reply within {CONNECT_SECONDS:.0f} s") from error
        except OSError:
            if time.monotonic() > deadline:  # until then the scheduler may be about to start
                raise
            time.sleep(0.2)


@contextlib.contextmanager
def _local(workers: int, lanes: int, gpus: Sequence[str]) -> Iterator[SpecCluster]:
    """Start worker processes here. They are spawned, because a fork of a process with threads may hang."""
    if gpus and workers > len(gpus):
        raise ConfigError(
            f"--cluster local:{workers}: each worker needs a GPU, and this machine has {len(gpus)}",
            f"--cluster local:{len(gpus)}",
        )
    libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    settings = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(libraries, str(threads_of(workers))),
        # It looks into other threads' stacks a hundred times a second, which can crash CPython. Nobody reads it here.
        "distributed.worker.profile.enabled": False,
    }
    scheduler = {
        "host": "127.0.0.1",
        "allowed_failures": MAX_WORKER_DEATHS,
        "dashboard": util.find_spec("bokeh") is not None,
        "dashboard_address": "127.0.0.1:8787",
    }
    worker = {
        "host": "127.0.0.1",
        "nthreads": lanes,
        "memory_limit": 0,  # Dask stores none of our data, so it has nothing to spill when memory is short
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
    }
    with dask.config.set(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Port .* is already in use")  # by another dashboard; any will do
        # Ctrl-C in a terminal goes to every process, but this one must end the others in order. So block it while the
        # cluster's threads are made: the processes they start, now or to replace a killed one, inherit the block.
        resource_tracker.ensure_running()  # the thread that first starts it unblocks the signal afterwards
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            cluster = SpecCluster(
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
        with cluster:
            yield cluster


def _dashboard(client: Client) -> str | None:
    """The dashboard's URL, or None: without bokeh the scheduler only answers with a note on how to install it."""
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
        """The number of workers at this moment."""
        try:
            return int(self.client.scheduler_info(n_workers=0)["n_workers"])
        except (OSError, KeyError) as error:  # an empty answer: the connection is gone
            raise self.lost() from error

    def lost(self) -> ClusterError:
        """The error to raise when the scheduler no longer answers."""
        return ClusterError(
            f"the scheduler at {self.spec} was lost",
            "start it and its workers, and run the same command again: what was committed is kept",
        )

    def wait_for_workers(self) -> None:
        """Wait for the first worker. Raises ClusterError when none joins in time."""
        if not self.workers():
            console.say(f"no worker has joined {self.spec} yet; waiting up to {console.duration(self.patience)}")
        try:
            self.client.wait_for_workers(1, timeout=self.patience)
        except TimeoutError as error:
            raise ClusterError(
                f"no worker joined {self.spec}", f"dask worker {self.spec} --nthreads {self.lanes}"
            ) from error

    def ask(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """Call ``function(*args)`` on each worker, where it must be importable. Returns the results by address."""

        def request() -> dict[str, Any]:
            answers: dict[str, Any] = self.client.run(function, *args, on_error="return")
            for answer in answers.values():
                if isinstance(answer, Exception) and not isinstance(answer, OSError):
                    raise answer
            received = {address: answer for address, answer in answers.items() if not isinstance(answer, OSError)}
            if not received:  # these workers were lost during the request; others may join
                self.wait_for_workers()
                raise OSError("every worker was lost during a request to all of them")
            return received

        try:
            return self.retry(request)
        except ImportError as error:
            raise ClusterError(
                f"the workers at {self.spec} cannot import gdist ({error})",
                f"install gdist {metadata.version('gdist')} where they run, and start them again",
            ) from error

    def retry[T](self, request: Callable[[], T]) -> T:
        """Make a request to all workers, and repeat it if one of them was lost before it was complete.

        Raises:
            ClusterError: the scheduler was lost, or each of the tries failed.
        """
        for left in reversed(range(TRIES)):
            try:
                return request()
            except OSError as error:
                if self.client.status != "running":
                    raise self.lost() from error
                if not left:
                    raise ClusterError(
                        f"the workers at {self.spec} cannot be reached: {error}",
                        "see their logs; then run the same command again: what was committed is kept",
                    ) from error
                time.sleep(PAUSE_SECONDS)
        raise AssertionError("the last try returns or raises")


def versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of packages, "none" where one is not installed. Builds do not count: 2.11.0 is 2.11.0+cu130."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def require_same_versions(answers: Mapping[str, Mapping[str, str]], wanted: Mapping[str, str] | None = None) -> None:
    """Raise ClusterError unless each worker (by address) has the wanted versions; or those of this process."""
    for address, theirs in answers.items():
        ours = versions(theirs) if wanted is None else wanted
        different = [f"{name} {theirs[name]} (here {ours[name]})" for name in ours if ours[name] != theirs[name]]
        if different:
            raise ClusterError(
                f"the worker {address} has other versions: {', '.join(different)}",
                "install the same versions everywhere: different software may write different bytes",
            )


def shared(names: Mapping[str, str]) -> list[str]:
    """The names that more than one key has, sorted. Empty names do not count."""
    return sorted(name for name, count in Counter(names.values()).items() if name and count > 1)
