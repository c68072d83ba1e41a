"""Commands of gdist in processes of their own, several at a time on this machine.

A server process imports what they need once and forks each of them, so that a point starts at once. A process whose
sweep is gone ends itself: nothing goes on unseen, and a run is free to be taken over.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import click

from gdist.pipeline.errors import EXIT_INTERRUPTED
from gdist.pipeline.printing import harmless
from gdist.stages.train.stopping import stop_on_signal

PRELOAD = ["gdist.stages.train.train", "gdist.stages.evaluate.evaluate"]
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        arguments: what comes after ``gdist``.
        log: where what it prints is appended.
    """

    name: str
    arguments: list[str]
    log: Path


def run_jobs(
    jobs: Iterable[Job],
    at_once: int,
    threads: int,
    gpus: list[int],
    ended: Callable[[Job, int], bool],
    watch: Callable[[list[Job]], None],
) -> bool:
    """Run jobs, ``at_once`` at a time, in their order.

    Args:
        threads: of each process.
        gpus: the numbers of the GPUs, of which each process gets one; none where there are none.
        ended: called with each job that has ended and its exit code; whether to begin another.
        watch: called now and then with the jobs that are running.

    Returns:
        whether it was interrupted. The processes were then asked to stop, and have.
    """
    context = server()
    waiting, running = iter(jobs), dict[ForkServerProcess, tuple[Job, int]]()
    places, more = list(range(at_once)), True
    with one_signal() as stopped:
        while True:
            while more and places and not stopped and (job := next(waiting, None)) is not None:
                place = places.pop(0)
                gpu = gpus[place % len(gpus)] if gpus else None
                running[start(context, job, threads, gpu)] = (job, place)
            if not running:
                return bool(stopped)
            if stopped and stopped[-1]:
                stopped[-1] = 0
                for process in running:
                    interrupt(process)
            for process in [process for process in running if not process.is_alive()]:
                job, place = running.pop(process)
                places.append(place)
                more = ended(job, process.exitcode or 0) and more
            watch([job for job, _ in running.values()])
            time.sleep(POLL_SECONDS)


def interrupt(process: ForkServerProcess) -> None:
    """Ask a process to stop. It may have ended in this moment, and the server that it comes from has seen that."""
    with suppress(ProcessLookupError):
        os.kill(process.pid or 0, signal.SIGINT)


def server() -> ForkServerContext:
    """What starts processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def begin(process: ForkServerProcess) -> None:
    """Start a process in which an interruption waits from its first moment on, until it lets interruptions through.

    It inherits that from the server, which is started with the first process.
    """
    resource_tracker.ensure_running()  # else the server's start would, and would let interruptions through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start(context: ForkServerContext, job: Job, threads: int, gpu: int | None) -> ForkServerProcess:
    """Start a process that does a job."""
    process = context.Process(target=_work, args=(job.arguments, str(job.log), threads, gpu), name=job.name)
    begin(process)
    return process


def _work(arguments: list[str], log: str, threads: int, gpu: int | None) -> None:
    """What a process does: the command, as if it were typed, with its output in the log."""
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    os.setsid()  # Ctrl-C reaches the sweep alone, which asks its processes to stop once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A link of this name would lead elsewhere, and a FIFO would be waited for.
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    try:
        command = _command(arguments[0], threads)  # within an import, an interruption would look like any error
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        command.main(arguments[1:], prog_name=f"gdist {arguments[0]}")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception:
        sys.stderr.write(harmless(traceback.format_exc()))
        sys.exit(1)


def _command(name: str, threads: int) -> click.Command:
    """Load a command."""
    import torch

    from gdist.stages.evaluate.command import eval_command
    from gdist.stages.sweep.together import together_command
    from gdist.stages.train.command import train_command

    torch.set_num_threads(threads)
    return {"train": train_command, "together": together_command, "eval": eval_command}[name]


def _end_with_the_sweep() -> None:
    """Wait until the sweep is gone, however it ended, and end this process at once.

    The kernel's signal for that (PR_SET_PDEATHSIG) is of no use: the parent is the server process, which lives for as
    long as one of its processes does.
    """
    sweep = multiprocessing.parent_process()
    assert sweep is not None
    sweep.join()
    os.kill(os.getpid(), signal.SIGKILL)


def one_signal() -> AbstractContextManager[list[int]]:
    """The list gets an item when the sweep is asked to stop; a second signal ends this process, and with it all
    others."""
    return stop_on_signal(lambda: os._exit(EXIT_INTERRUPTED))
