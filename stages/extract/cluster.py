"""Stage one on a cluster: the same :class:`Extractor`, one per worker, and the same tasks as in ``extract.py``."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gdist.pipeline import console
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.cache.lock import require_token
from gdist.pipeline.cache.plan import Task
from gdist.pipeline.cluster import crew
from gdist.pipeline.cluster.workers import Cluster, connect, require_same_versions, shared, versions
from gdist.pipeline.errors import CacheError, ClusterError, ConfigError, GdistError, TeacherError
from gdist.pipeline.extensions import Extension, enter
from gdist.pipeline.manifest.table import Utterance
from gdist.pipeline.storage.locations import folder_of, scheme_of
from gdist.pipeline.storage.paths import is_uri
from gdist.stages.device import choose_device, visible_gpus
from gdist.stages.extract.extractor import LANES, Extractor
from gdist.stages.extract.gpus import listed, model_of
from gdist.stages.extract.plan import PACKAGES, ExtractConfig, extensions_of, packages_of
from gdist.stages.extract.remarks import lines
from gdist.stages.teachers import FAMILIES, Teacher, load_teacher

TaskMessage = tuple[str, list[Utterance], bool]
"""A task's receipt, its utterances without their labels, and whether files that a worker cannot see are known to be
missing everywhere."""


class AudioNotVisibleError(GdistError):
    """A worker cannot see audio files that may be visible elsewhere."""

    def __init__(self, message: str, paths: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.paths = list(paths)


@dataclass
class Extraction(crew.Job):
    """What a worker needs to run the tasks of one extraction; see :class:`gdist.pipeline.cluster.crew.Job`.

    Attributes:
        checksum: the checksum of the cache's root document.
        token: the token of the lock, which the main process holds. A worker that outlives that process commits
            nothing more once another run has taken over.
        fingerprint: the teacher's fingerprint.
        extensions: the user's own files, which are sent with the job.
        packages: the packages that announce what the cache is made with, and their versions.
    """

    cache: str
    checksum: str
    token: str
    teacher: str
    fingerprint: str
    precision: str
    final_norm: bool
    window: str | None
    device: str
    extensions: list[Extension] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    extractor: Extractor | None = field(default=None, init=False)
    tasks: dict[str, Task] = field(default_factory=dict, init=False)
    stop: threading.Event | None = field(default=None, init=False)
    computing: ThreadPoolExecutor | None = field(default=None, init=False)

    def open(self) -> None:
        self.computing = self.computing or ThreadPoolExecutor(1)
        here = f"the worker on {socket.gethostname()}"
        require_same_versions({socket.gethostname(): versions(self.packages)}, self.packages)
        enter(self.extensions, ENCODINGS, FAMILIES)
        try:
            cache = Cache.open(self.cache, self.checksum)
            cache.guard = lambda: require_token(cache.storage, self.token)
            cache.guard()
        except CacheError as error:
            advice = "a cache for many machines is a bucket, or a folder that all of them mount at the same path"
            hint = advice if scheme_of(self.cache) == "file" else error.hint
            raise type(error)(f"{here} cannot use the cache: {error.message}", hint) from error
        try:
            teacher = self.computing.submit(self._load).result()
        except (TeacherError, ConfigError) as error:
            raise type(error)(f"{here}: {error.message}", error.hint) from error
        if teacher.fingerprint != self.fingerprint:
            raise TeacherError(
                f"{here} has a different teacher at {self.teacher}", "put the same weights on every machine"
            )
        self.stop = threading.Event()
        self.extractor = Extractor(cache, teacher, stop=self.stop)
        self.tasks = {task.receipt: task for task in cache.tasks}

    def _load(self) -> Teacher:
        device = choose_device(self.device, "--device ")
        return load_teacher(
            self.teacher, precision=self.precision, device=device, final_norm=self.final_norm, window=self.window
        )

    def run(self, task: TaskMessage) -> None:
        assert self.extractor is not None and self.computing is not None, "opened first"
        receipt, utterances, known_missing = task
        if self.extractor.cache.receipt(self.tasks[receipt]) is not None:
            return  # a worker that was taken for lost has committed it
        if not known_missing:
            missing = [u.path for u in utterances if not is_here(u.path)]
            if missing:
                raise AudioNotVisibleError(f"the worker on {socket.gethostname()} cannot see {missing[0]}", missing)
        planned = self.tasks[receipt]
        audio = self.extractor.read(planned, utterances if planned.waveform else None)
        computed = self.computing.submit(self.extractor.compute, planned, audio).result()
        self.extractor.commit(planned, computed)

    def close(self) -> None:
        if self.stop is not None:
            self.stop.set()
        if self.computing is not None:
            self.computing.shutdown(wait=False, cancel_futures=True)
        if self.extractor is not None:  # in this worker's own log
            for line in lines(self.extractor.remarks.to_dict()):
                console.say(line, style="yellow")


@contextlib.contextmanager
def workers_of(config: ExtractConfig) -> Iterator["Workers"]:
    """Connect to the workers that ``--cluster`` names."""
    assert config.cluster is not None
    local = config.cluster.startswith("local:")
    if scheme_of(config.cache) == "memory":
        raise ConfigError(f"--cache {config.cache}: no other process can see this memory", "use a folder or a bucket")
    device = choose_device(config.device, "--device ") if local else config.device
    with connect(config.cluster, LANES, visible_gpus() if device == "cuda" else ()) as connected:
        if not local:
            device = worker_device(connected, config.device)
        yield Workers(config, connected, device, _models(connected) if device == "cuda" else "")


def _models(connected: Cluster, known: str = "") -> str:
    """The models of the workers' GPUs and those already ``known``; a message names them where they become several."""
    models = listed(connected.ask(model_of, "cuda").values(), known)
    if ", " in models and models != known:
        console.say(
            f"the workers of {connected.spec} have GPUs of several models ({models}): which of them computes a pack "
            "decides its last bits, so another run would not write the same bytes",
            style="yellow",
        )
    return models


def worker_device(connected: Cluster, device: str) -> str:
    """The device that ``--device`` selects on the workers, which must have the same versions as this process.

    Raises:
        ClusterError: a worker has other versions, or only some of the workers have a GPU.
    """
    answers = connected.ask(_versions_and_device, device)
    require_same_versions({address: answer["versions"] for address, answer in answers.items()})
    devices = {answer["device"] for answer in answers.values()}
    if len(devices) > 1:
        raise ClusterError(
            f"some workers of {connected.spec} have a GPU and some have none: they would not write the same bytes",
            "remove the workers without a GPU, or use --device cpu",
        )
    for gpu in shared({address: answer["gpu"] for address, answer in answers.items()}):
        console.say(f"several workers share the GPU {gpu}; `dask cuda worker` starts one per GPU", style="yellow")
    return str(devices.pop())


def _versions_and_device(device: str) -> dict[str, Any]:
    chosen = choose_device(device, "--device ")
    gpu = f"{torch.cuda.get_device_properties(0).uuid} of {socket.gethostname()}" if chosen == "cuda" else ""
    return {"versions": versions(PACKAGES), "device": chosen, "gpu": gpu}


@dataclass(frozen=True)
class Workers:
    """A cluster to extract on.

    Attributes:
        device: the device that each worker computes on.
        gpus: the models of the workers' GPUs, when the extraction began.
    """

    config: ExtractConfig
    cluster: Cluster
    device: str
    gpus: str = ""

    def run(
        self,
        cache: Cache,
        token: str,
        todo: Iterable[tuple[Task, Sequence[Utterance] | None, float]],
        advance: Callable[[float, str], None],
    ) -> None:
        """Run the tasks, and report the seconds of each one when it is committed.

        Args:
            todo: for each task, the task, its utterances (None when its audio is in the cache), and its seconds.
            advance: called with the seconds of audio of a committed task, and a note on the speed.
        """
        config, teacher = self.config, self.config.teacher
        made_with = cache.identity["teacher"]["family"], cache.identity["encoding"]
        job = Extraction(
            cache=str(folder_of(config.cache)) if scheme_of(config.cache) == "file" else config.cache,
            checksum=cache.gdist["checksum"],
            token=token,
            teacher=str(Path(teacher).absolute()) if Path(teacher).is_dir() else teacher,
            fingerprint=cache.identity["teacher"]["fingerprint"],
            precision=config.precision,
            final_norm=config.final_norm,
            window=config.window,
            device=self.device,
            extensions=extensions_of(*made_with),
            packages=versions(packages_of(*made_with)),
        )
        seconds: dict[str, float] = {}
        not_visible: list[TaskMessage] = []
        began, done = time.monotonic(), 0.0
        counted, models = self.cluster.workers(), self.gpus

        def messages() -> Iterator[TaskMessage]:
            for task, utterances, length in todo:
                seconds[task.receipt] = length
                rows = [replace(u, labels={}) for u in utterances or ()]
                yield task.receipt, rows, False

        with crew.deploy(self.cluster, job) as workers:
            for batch in (messages(), not_visible):
                for message, error in workers.do(batch):
                    if isinstance(error, AudioNotVisibleError):
                        not_visible.append(_known_missing(message, error))
                        continue
                    if error is not None:
                        raise error
                    length = seconds.pop(message[0])
                    done += length
                    if models and workers.workers > counted:  # some have joined, perhaps with another model of GPU
                        models = _models(self.cluster, models)
                    counted = workers.workers
                    speed = done / (time.monotonic() - began)
                    advance(
                        length, f"{speed:.0f}× real time on {workers.workers} worker{'s' * (workers.workers != 1)}"
                    )


def _known_missing(message: TaskMessage, error: AudioNotVisibleError) -> TaskMessage:
    """The same task, to be done without the files that no machine sees.

    Raises:
        ClusterError: this machine sees one of the files.
    """
    receipt, rows, _ = message
    if any(is_here(path) for path in error.paths):
        raise ClusterError(
            f"{error.message}, but this machine can",
            "put audio for many machines in a bucket, or in a folder that all of them mount at the same path",
        )
    return receipt, rows, True


def is_here(path: str) -> bool:
    """Whether this machine sees a file. Files in buckets count as visible, since all machines see the same ones."""
    return is_uri(path) or Path(path.removeprefix("file://")).exists()
