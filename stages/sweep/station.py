"""Where a worker of a cluster has the processes of its jobs started, one at a time.

A Dask worker may not fork, and a new interpreter for each job would import everything again. So it starts one process
that starts those of the jobs, as a sweep on this machine does: the station. The worker sends jobs, gets exit codes.
When it closes that connection, or is gone, the job stops after its step, with a checkpoint, and the station ends.
"""

import contextlib
import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gdist.pipeline.errors import EXIT_INTERRUPTED
from gdist.stages.sweep.jobs import POLL_SECONDS, Job, interrupt, server, start
from gdist.stages.train.stopping import ASKED

SERVE = "from gdist.stages.sweep.station import serve; serve()"
STOP_SECONDS = 600.0  # that a job may take to stop, before it is killed


class Station:
    """A station, as its worker sees it.

    Args:
        here: the folder that jobs start in, if there is one of this name.
    """

    def __init__(self, here: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=here if here.is_dir() else None,
            text=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._jobs, self._codes = self._process.stdin, self._process.stdout

    def is_open(self) -> bool:
        return not self._jobs.closed and self._process.poll() is None

    def run(self, job: Job, threads: int, is_over: Callable[[], bool]) -> int:
        """Run a job to its end, which it is asked for when ``is_over``; the station is then closed.

        Returns:
            its exit code; that of a kill where the station was lost, with which the job ends.
        """
        try:
            print(json.dumps([job.name, job.arguments, str(job.log), threads]), file=self._jobs, flush=True)
        except ValueError:  # it was just closed
            return EXIT_INTERRUPTED
        while not select.select([self._codes], [], [], POLL_SECONDS)[0]:
            if is_over():
                self.close()
        code = int(self._codes.readline() or -signal.SIGKILL)
        if self._jobs.closed:
            self._process.wait()
        return code

    def close(self) -> None:
        """Ask the job to stop, if there is one, and the station to end after it."""
        self._jobs.close()


def serve() -> None:
    """What the process of a station does."""
    for number in ASKED:  # a terminal and Slurm send them to every process
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked in local workers, and inherited by jobs
    context = server()
    while line := sys.stdin.readline():
        name, arguments, log, threads = json.loads(line)
        process = start(context, Job(name, arguments, Path(log)), threads, None)
        killed_at = None
        while process.is_alive():
            if killed_at is None and select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
                interrupt(process)
                killed_at = time.monotonic() + STOP_SECONDS
            elif killed_at is not None:
                process.join(POLL_SECONDS)
                if time.monotonic() > killed_at:
                    process.kill()
        with contextlib.suppress(OSError):  # the worker is gone
            sys.stdout.write(f"{process.exitcode or 0}\n")
            sys.stdout.flush()
