"""Stage one on a cluster: the same :class:`Extractor`, one a worker, and the same tasks as in ``extract.py``."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
from gdist.stages.extract.plan import PACKAGES, ExtractConfig, extensions_of
from gdist.stages.teachers import FAMILIES, Teacher, load_teacher

UtteranceFields = tuple[str, str, int, int | None, int | None]
"""An utterance without its labels: id, path, start, samples, rate"""

Parcel = tuple[str, list[UtteranceFields], bool]
"""A task's receipt, whose audio it is, and whether files that are missing here are missing everywhere"""


class UnseenError(GdistError):
    """A worker cannot see audio that may be visible elsewhere."""

    def __init__(self, message: str, paths: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.paths = list(paths)


@dataclass
class Extraction(crew.Job):
    """What a worker needs to do tasks of one run; see :class:`gdist.pipeline.cluster.crew.Job`.

    Attributes:
        checksum: of the cache's root document.
        token: of the lock, which the run's own process holds: a worker that outlives it commits nothing more once
            another run has taken over.
        fingerprint: the teacher's.
        extensions: files of the user's own, which travel with the job.
    """

    cache: str
    checksum: str
    token: str
    teacher: str
    fingerprint: str
    precision: str
    final_norm: bool
    device: str
    extensions: list[Extension]
    extractor: Extractor | None = field(default=None, init=False)
    tasks: dict[str, Task] = field(default_factory=dict, init=False)
    stop: threading.Event | None = field(default=None, init=False)
    computing: ThreadPoolExecutor | None = field(default=None, init=False)

    def open(self) -> None:
        self.computing = self.computing or ThreadPoolExecutor(1)
        here = f"the worker on {socket.gethostname()}"
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
            raise TeacherError(f"{here} has another teacher at {self.teacher}", "put the same weights everywhere")
        self.stop = threading.Event()
        self.extractor = Extractor(cache, teacher, stop=self.stop)
        self.tasks = {task.receipt: task for task in cache.tasks}

    def _load(self) -> Teacher:
        device = choose_device(self.device, "--device ")
        return load_teacher(self.teacher, precision=self.precision, device=device, final_norm=self.final_norm)

    def run(self, task: Parcel) -> None:
        assert self.extractor is not None and self.computing is not None, "opened first"
        receipt, rows, known_missing = task
        if self.extractor.cache.receipt(self.tasks[receipt]) is not None:
            return  # by a worker that was given up for lost
        if not known_missing:
            missing = [path for _, path, _, _, _ in rows if not is_here(path)]
            if missing:
                raise UnseenError(f"the worker on {socket.gethostname()} cannot see {missing[0]}", missing)
        mine = self.tasks[receipt]
        heard = self.extractor.read(mine, [Utterance(*row, labels={}) for row in rows] if mine.waveform else None)
        computed = self.computing.submit(self.extractor.compute, mine, heard).result()
        self.extractor.commit(mine, computed)

    def close(self) -> None:
        if self.stop is not None:
            self.stop.set()
        if self.computing is not None:
            self.computing.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def workers_of(config: ExtractConfig) -> Iterator["Workers"]:
    """The workers that ``--cluster`` asks for."""
    assert config.cluster is not None
    local = config.cluster.startswith("local:")
    if scheme_of(config.cache) == "memory":
        raise ConfigError(f"--cache {config.cache}: no other process sees this memory", "a folder or a bucket")
    device = choose_device(config.device, "--device ") if local else config.device
    with connect(config.cluster, LANES, visible_gpus() if device == "cuda" else ()) as connected:
        yield Workers(config, connected, device if local else _their_device(connected, config.device))


def _their_device(connected: Cluster, device: str) -> str:
    """What ``--device`` comes to on the workers, once they are known to run what runs here."""
    answers = connected.ask(_about_here, device)
    require_same_versions({address: answer["versions"] for address, answer in answers.items()})
    devices = {answer["device"] for answer in answers.values()}
    if len(devices) > 1:
        raise ClusterError(
            f"some workers of {connected.spec} have a GPU and some have none: they would not write the same bytes",
            "take the others away, or --device cpu",
        )
    for gpu in shared({address: answer["gpu"] for address, answer in answers.items()}):
        console.say(f"several workers share the GPU {gpu}; `dask cuda worker` starts one a GPU", style="yellow")
    return str(devices.pop())


def _about_here(device: str) -> dict[str, Any]:
    chosen = choose_device(device, "--device ")
    gpu = f"{torch.cuda.get_device_properties(0).uuid} of {socket.gethostname()}" if chosen == "cuda" else ""
    return {"versions": versions(PACKAGES), "device": chosen, "gpu": gpu}


@dataclass(frozen=True)
class Workers:
    """A cluster to extract on.

    Attributes:
        device: where each worker computes.
    """

    config: ExtractConfig
    cluster: Cluster
    device: str

    def run(
        self,
        cache: Cache,
        token: str,
        todo: Iterable[tuple[Task, Sequence[Utterance] | None, float]],
        advance: Callable[[float, str], None],
    ) -> None:
        """Do the tasks, and report the seconds of each when it is committed.

        Args:
            todo: task, where its audio lies (None: in the cache), and its seconds.
        """
        config, teacher = self.config, self.config.teacher
        job = Extraction(
            cache=str(folder_of(config.cache)) if scheme_of(config.cache) == "file" else config.cache,
            checksum=cache.gdist["checksum"],
            token=token,
            teacher=str(Path(teacher).absolute()) if Path(teacher).is_dir() else teacher,
            fingerprint=cache.identity["teacher"]["fingerprint"],
            precision=config.precision,
            final_norm=config.final_norm,
            device=self.device,
            extensions=extensions_of(cache.identity["teacher"]["family"], cache.identity["encoding"]),
        )
        seconds: dict[str, float] = {}
        unseen: list[Parcel] = []
        began, heard = time.monotonic(), 0.0

        def parcels() -> Iterator[Parcel]:
            for task, utterances, length in todo:
                seconds[task.receipt] = length
                rows = [(u.id, u.path, u.start, u.num_samples, u.sample_rate) for u in utterances or ()]
                yield task.receipt, rows, False

        with crew.employed(self.cluster, job) as workers:
            for batch in (parcels(), unseen):
                for parcel, error in workers.do(batch):
                    if isinstance(error, UnseenError):
                        unseen.append(_missing_everywhere(parcel, error))
                        continue
                    if error is not None:
                        raise error
                    length = seconds.pop(parcel[0])
                    heard += length
                    speed = heard / (time.monotonic() - began)
                    advance(
                        length, f"{speed:.0f}× real time on {workers.workers} worker{'s' * (workers.workers != 1)}"
                    )


def _missing_everywhere(parcel: Parcel, error: UnseenError) -> Parcel:
    """The same work, to be done without the files that nobody sees; ClusterError when this machine sees one."""
    receipt, rows, _ = parcel
    if any(is_here(path) for path in error.paths):
        raise ClusterError(
            f"{error.message}, and this machine can",
            "audio for many machines lies in a bucket, or in a folder that all of them mount at the same path",
        )
    return receipt, rows, True


def is_here(path: str) -> bool:
    """Whether this machine sees a file; of what lies in buckets all machines see the same."""
    return is_uri(path) or Path(path.removeprefix("file://")).exists()
