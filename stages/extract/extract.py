"""Stage one, read top to bottom: plan → map (audio → teacher → encoded rows, one pack at a time) → commit.

By default this process does all the work: while one pack is in the teacher, the next one is decoded and the previous
ones are written. With a cluster, the same tasks go to Dask workers, which do the same.
"""

import contextlib
import dataclasses
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from gdist.pipeline import console, framing
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import encoding
from gdist.pipeline.cache.entries import named
from gdist.pipeline.cache.lock import Lock, require_token
from gdist.pipeline.cache.plan import Plan, Task
from gdist.pipeline.cache.planning import remove, require_place
from gdist.pipeline.manifest.table import Manifest, Utterance
from gdist.pipeline.storage.hub import require_writable
from gdist.pipeline.storage.objects import Storage
from gdist.stages.device import choose_device
from gdist.stages.extract import layer_statistics
from gdist.stages.extract.calibrate import learn_tables
from gdist.stages.extract.extractor import MAX_WRITES, Extractor
from gdist.stages.extract.gpus import model_of, warn_of_other_models
from gdist.stages.extract.pack_audio import PackAudio
from gdist.stages.extract.plan import ExtractConfig, describe, make_plan, measure
from gdist.stages.extract.remarks import lines
from gdist.stages.teachers import Teacher, load_teacher

if TYPE_CHECKING:
    from gdist.stages.extract.cluster import Workers


def extract(config: ExtractConfig, show_progress: bool = True) -> dict[str, Any]:
    """Run the teacher over the manifest into a new cache, complete an unfinished cache, or add to a finished one.

    Returns:
        the fields of ``gdist extract --json`` (see docs/reference/json.md).
    """
    if config.cluster is None:
        return _extract(config, show_progress)
    from gdist.stages.extract.cluster import workers_of  # Dask takes a second to import

    with workers_of(config) as workers:
        return _extract(config, show_progress, workers)


def _extract(config: ExtractConfig, show_progress: bool, workers: "Workers | None" = None) -> dict[str, Any]:
    began = time.monotonic()
    if not config.dry_run:
        require_writable(config.cache)
    manifest = Manifest.read(config.manifest)
    device = workers.device if workers else choose_device(config.device, "--device ")
    here = "cpu" if workers else device  # with a cluster this process only plans, and leaves the GPUs alone
    precision = "fp32" if workers and config.precision == "tf32" else config.precision  # only the workers use tf32
    teacher = load_teacher(
        config.teacher, precision=precision, device=here, final_norm=config.final_norm, window=config.window
    )
    utterances, lengths = measure(manifest)
    existing = None if config.restart else Cache.find(config.cache)
    gpus = workers.gpus if workers else model_of(device)
    plan = make_plan(config, teacher, manifest, lengths, device, existing, gpus)
    if config.dry_run:
        return describe(plan, done=len(existing.done()) if existing else 0)
    storage = Storage(config.cache, create=True)
    require_place(storage)
    with Lock(storage) as lock:
        if config.restart:
            remove(storage)
        cache = Cache.create(config.cache, with_tables(plan, teacher, utterances))
        warn_of_other_models(cache, gpus)
        cache.guard = lambda: require_token(storage, lock.token)
        todo = cache.todo()
        resumed = cache.packs - len({task.pack for task in todo})
        if resumed and todo:
            console.say(f"{resumed} of {cache.packs} packs are already done")
        cache.withdraw_summaries(task.addition for task in todo)  # receipts may have been deleted by hand
        total = audio_seconds(cache, todo)
        with console.progress("extract", total, "s of audio", enabled=show_progress) as advance:
            remarks: dict[str, Any] = {}
            if workers:
                parts = ((task, audio_of(cache, task, utterances), seconds_of(cache, task)) for task in todo)
                workers.run(cache, lock.token, parts, advance)
            else:
                remarks = run_here(cache, teacher, todo, utterances, advance)
        cache.summarize()
    seconds = time.monotonic() - began
    return summarize(cache, resumed=resumed, new_seconds=total, seconds=seconds) | {"remarks": remarks}


def with_tables(plan: Plan, teacher: Teacher, utterances: Mapping[str, Utterance]) -> Plan:
    """The plan, completed with the tables that its encoding learns for new layers."""
    if not encoding(plan.identity["encoding"]).calibrated or not plan.new_layers:
        return plan
    name = f"tables-{plan.generation}.safetensors"
    return dataclasses.replace(
        plan, teacher_files=plan.teacher_files | {name: learn_tables(plan, teacher, utterances)}
    )


# --- map ------------------------------------------------------------------------------------------------------------


def run_here(
    cache: Cache,
    teacher: Teacher,
    todo: Sequence[Task],
    utterances: Mapping[str, Utterance],
    advance: Callable[[float, str], None],
) -> dict[str, Any]:
    """Run the tasks in this process, computing in this thread. Returns the remarks on their audio, see
    :meth:`Remarks.to_dict`."""
    began, done = time.monotonic(), 0.0

    def report(seconds: float) -> None:
        nonlocal done
        done += seconds
        advance(seconds, f"{done / (time.monotonic() - began):.0f}× real time")

    stop = threading.Event()
    extractor = Extractor(cache, teacher, report, stop)
    # A teacher on a CPU uses every core, and its threads wait for the slowest one, so writing alongside it costs more
    # than writing between two packs. A GPU leaves the cores free, and a writer to a bucket mostly waits.
    write_alongside = teacher.device.type != "cpu" or cache.storage.folder is None
    written: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(MAX_WRITES) as writers, stopping(stop):
        ahead: Future[PackAudio] | None = None
        for task, following in itertools.pairwise([*todo, None]):
            assert task is not None, "None only follows the last task"
            audio = (ahead or reader.submit(extractor.read, task, audio_of(cache, task, utterances))).result()
            if following is not None:
                ahead = reader.submit(extractor.read, following, audio_of(cache, following, utterances))
            computed = extractor.compute(task, audio)
            if not write_alongside:
                extractor.commit(task, computed)
                continue
            if len(written) == MAX_WRITES:
                written.popleft().result()
            written.append(writers.submit(extractor.commit, task, computed))
            del computed  # so that its memory is freed as soon as the writer is done with it
        for commit in written:
            commit.result()
    return extractor.remarks.to_dict()


@contextlib.contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` when an exception ends the block, so that nothing more is computed or committed."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


def audio_of(cache: Cache, task: Task, utterances: Mapping[str, Utterance]) -> list[Utterance] | None:
    """The utterances of a task, or None for layers added to a pack whose audio is in the cache."""
    return [utterances[entry.id] for entry in cache.pack_entries(task.pack)] if task.waveform else None


def seconds_of(cache: Cache, task: Task) -> float:
    """Seconds of usable audio in one task."""
    samples = sum(entry.num_samples for entry in cache.pack_entries(task.pack) if entry.num_frames)
    return samples / framing.SAMPLE_RATE


# --- results --------------------------------------------------------------------------------------------------------


def audio_seconds(cache: Cache, tasks: Iterable[Task]) -> float:
    """Seconds of usable audio in the tasks."""
    entries = cache.entries
    packs = np.bincount([task.pack for task in tasks], minlength=cache.packs)  # a pack may have several tasks
    samples = np.where(entries.numbers("num_frames") > 0, entries.numbers("num_samples"), 0)
    return int((packs[entries.numbers("pack")] * samples).sum()) / framing.SAMPLE_RATE


def summarize(cache: Cache, resumed: int, new_seconds: float, seconds: float) -> dict[str, Any]:
    """The result that ``gdist extract`` reports for a complete cache."""
    now = cache.standing()
    quarantine = now.quarantine()
    stored = cache.entries.take(np.flatnonzero(~named(cache.entries, quarantine)))
    return {
        "utterances": len(stored),
        "frames": int(stored.numbers("num_frames").sum(dtype=np.int64)),
        "audio_seconds": int(stored.numbers("num_samples").sum()) / framing.SAMPLE_RATE,
        "seconds": seconds,
        "realtime_factor": new_seconds / seconds,
        "bytes": cache.size(now)[1],
        "packs": cache.packs,
        "packs_resumed": resumed,
        "quarantined": len(quarantine),
        "quarantine": quarantine,
        "layers": layer_statistics.combined(now.receipts()),
    }


def show(result: dict[str, Any], dry_run: bool) -> None:
    """Print the result for people."""
    amount = f"{result['utterances']} utterances, {console.duration(result['audio_seconds'])} of audio"
    if dry_run:
        console.say(f"would extract {amount}: {result['packs']} packs, at most {console.size(result['bytes'])}")
        there = f"{result['packs_resumed']} packs are already in the cache"
        console.say(f"{there}; {result['objects']} shards and receipts in all")
    else:
        rows = [[str(row["layer"]), *layer_statistics.cells(row)] for row in result["layers"]]
        console.print_table("what is stored", ["layer", *layer_statistics.COLUMNS], rows)
        speed = f"{console.duration(result['seconds'])}, {result['realtime_factor']:.0f}× real time"
        console.say(f"{amount} in {console.size(result['bytes'])}; {speed}", style="green")
        if result["packs_resumed"]:
            console.say(f"{result['packs_resumed']} of {result['packs']} packs were already in the cache")
    for line in lines(result.get("remarks", {})):
        console.say(line, style="yellow")
    for name, reason in sorted(result["quarantine"].items()):
        console.say(f"quarantined {name}: {reason}", style="yellow")
