"""`gdist verify --repair`: make again exactly what is missing or damaged, and nothing else.

What the root document describes is restored from it or from its copies; the teacher's files from the teacher; shards
by running the teacher over the pack's audio, which the cache itself holds, so that the audio files are needed only
where the stored waveform is what was lost.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gdist.pipeline import console
from gdist.pipeline.cache import arrays, plan, planning
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.lock import Lock, require_token
from gdist.pipeline.cache.plan import ROOT, WAVEFORM, Task, plan_key
from gdist.pipeline.cache.verify import verify
from gdist.pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from gdist.pipeline.manifest.table import Manifest, Utterance
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.objects import Storage, seal, sha256
from gdist.stages.device import choose_device
from gdist.stages.extract.extractor import Extractor
from gdist.stages.extract.plan import measure, teacher_files
from gdist.stages.teachers import Teacher, load_teacher


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a repair may draw on beside the cache itself.

    Attributes:
        teacher: a hub id or a folder; None means the hub id that the cache remembers.
        manifest: where the audio lies; needed only for packs whose waveform is lost.
    """

    teacher: str | None = None
    manifest: str | None = None
    device: str = "auto"


def repair(uri: str, sources: Sources, show_progress: bool = True) -> dict[str, Any]:
    """Mend the cache at ``uri``, after reading every byte of it once; then read what was mended.

    Returns:
        what :func:`gdist.pipeline.cache.verify.verify` says of the mended cache, and ``repaired``: the keys
        written anew.

    Raises:
        CacheError: something cannot be made again with what is there; what could be mended before stays mended.
    """
    storage = Storage(uri)
    with Lock(storage) as lock:
        mended = restore_root(storage)
        cache = open_restoring(storage, mended)
        cache.guard = lambda: require_token(storage, lock.token)
        with console.progress("verify", len(cache.tasks), "packs", enabled=show_progress) as advance:
            found = verify(cache, advance)
        bad = {damage["object"] for damage in found["bad"]}
        mended += restore_documents(cache, bad, sources)
        todo = set(cache.todo())
        damaged = {task: lost(cache, task, bad, task in todo) for task in cache.tasks}
        damaged = {task: names for task, names in damaged.items() if names}
        if damaged:
            work = Mending(cache, sources)
            with console.progress("repair", len(damaged), "packs", enabled=show_progress) as advance:
                for task, names in damaged.items():
                    mended += work.mend(task, names)
                    advance(1)
        if bad or damaged:
            found = verify(cache, lambda n=1, note="": None, damaged)
    return found | {"repaired": mended}


def restore_root(storage: Storage) -> list[str]:
    """Put the newest sound copy of the root document in its place, if that is damaged or gone."""
    try:
        if planning.read_root(storage) is not None:
            return []
        problem = CacheError(f"no cache at {storage.uri}: it has no {ROOT}, nor a copy of it")
    except CacheDamagedError as error:
        problem = error
    for key in sorted((key for key in storage.objects("plans") if key.endswith(".json")), reverse=True):
        try:
            planning.read_root(storage, key)
        except CacheDamagedError:
            continue
        storage.put(ROOT, storage.get(key))
        return [ROOT]
    raise problem


def open_restoring(storage: Storage, mended: list[str]) -> Cache:
    """Open the cache; documents that follow from the root are put right first."""
    gdist = planning.read_root(storage)
    assert gdist is not None
    for key, data in planning.restorable(storage, gdist).items():
        try:
            planning.read_document(storage, gdist, key)
        except CacheDamagedError:
            if sha256(data) == gdist["objects"][key]:
                storage.put(key, data)
                mended.append(key)
    planning.settle(storage, gdist)
    return Cache.open(storage.uri)


def restore_documents(cache: Cache, bad: Iterable[str], sources: Sources) -> list[str]:
    """Write the teacher's files and the root's copy again, where they are among ``bad``."""
    mended = []
    newest = plan_key(cache.gdist["generation"])
    if newest in bad:
        cache.storage.put(newest, cache.storage.get(ROOT))
        mended.append(newest)
    lost_files = {key.removeprefix("teacher/") for key in bad if key.startswith("teacher/")}
    if lost_files:
        files = teacher_files(find_teacher(cache, sources), cache.identity["encoding"])
        for name in sorted(lost_files):
            if sha256(files.get(name, b"")) != cache.gdist["objects"][f"teacher/{name}"]:
                raise CacheError(
                    f"teacher/{name} of {cache.uri} cannot be made again to the same bytes",
                    "restore that file from a backup, or extract into a new cache",
                )
            cache.storage.put(f"teacher/{name}", files[name])
            mended.append(f"teacher/{name}")
    return mended


def lost(cache: Cache, task: Task, bad: Iterable[str], missing: bool) -> list[str]:
    """The arrays of a task that have to be written again; all of them where its receipt is missing or damaged."""
    if task.receipt in bad or missing:
        return cache.arrays_of(task)
    return [name for name in cache.arrays_of(task) if arrays.shard_key(name, task.pack) in bad]


class Mending:
    """Runs the teacher, once it is needed, over single packs."""

    def __init__(self, cache: Cache, sources: Sources) -> None:
        self.cache, self.sources = cache, sources
        self.extractor = Extractor(cache, find_teacher(cache, sources))
        self._utterances: dict[str, Utterance] | None = None

    def mend(self, task: Task, names: list[str]) -> list[str]:
        """Write the named arrays' shards of one task again, and its receipt where it has to change."""
        receipt = None if set(names) == set(self.cache.arrays_of(task)) else self.cache.receipt(task)
        if receipt is None:
            self.cache.storage.delete([task.receipt])
            self.extractor.run(task, self.audio(task) if task.waveform else None)
            return [arrays.shard_key(name, task.pack) for name in names] + [task.receipt]
        layers = tuple(
            layer for layer in task.layers if {*plan.layer_arrays(self.cache.identity, [layer])} & {*names}
        )
        part = dataclasses.replace(task, layers=layers, waveform=WAVEFORM in names)
        made = self.extractor.compute(part, self.extractor.read(part, self.audio(task) if part.waveform else None))
        return self.rewrite(task, receipt, {name: made.rows[name] for name in names}, made.quarantine)

    def rewrite(
        self,
        task: Task,
        receipt: dict[str, Any],
        rows: Mapping[str, np.ndarray[Any, Any]],
        quarantine: dict[str, str],
    ) -> list[str]:
        """Put shards in the place of damaged ones. Where the teacher's last bits differ from those of the machine
        that ran it first, the receipt follows."""
        same = True
        self.cache.guard()
        for name, values in rows.items():
            key, shard = arrays.shard_key(name, task.pack), arrays.encode_shard(self.cache.specs[name], values)
            self.cache.storage.put(key, shard)
            digest = {"bytes": len(shard), "sha256": sha256(shard)}
            same &= receipt["objects"][key] == digest
            receipt["objects"][key] = digest
        written = [arrays.shard_key(name, task.pack) for name in rows]
        if not same or not quarantine.keys() <= receipt["quarantine"].keys():
            receipt["quarantine"] |= quarantine
            console.say(f"pack {task.pack}: not the bytes of the first run (another machine?); its receipt follows")
            self.cache.storage.put(task.receipt, seal(receipt, receipt))
            written.append(task.receipt)
        return written

    def audio(self, task: Task) -> list[Utterance]:
        """Where the audio of a task lies, by the manifest."""
        if self._utterances is None:
            if self.sources.manifest is None:
                raise CacheError(
                    f"the audio of pack {task.pack} of {self.cache.uri} is lost, and a cache keeps no file names",
                    f"gdist verify {in_shell(self.cache.uri)} --repair --manifest M.parquet",
                )
            self._utterances, _ = measure(Manifest.read(self.sources.manifest))
        entries = self.cache.pack_entries(task.pack)
        gone = [entry.id for entry in entries if entry.id not in self._utterances]
        if gone:
            raise CacheMismatchError(
                f"{self.sources.manifest} lacks {len(gone)} utterances of pack {task.pack} (the first: {gone[0]})",
                "give the manifest that the cache was extracted from",
            )
        return [self._utterances[entry.id] for entry in entries]


def find_teacher(cache: Cache, sources: Sources) -> Teacher:
    """The teacher that the cache was made with.

    Raises:
        CacheError: it was a folder, and none was given.
        CacheMismatchError: the one given is another.
    """
    name = sources.teacher or cache.gdist["about"]["teacher"]
    command = f"gdist verify {in_shell(cache.uri)} --repair --teacher FOLDER"
    if sources.teacher is None and "/" not in name:
        raise CacheError(f"to mend {cache.uri} its teacher has to run, which was a local folder ({name})", command)
    teacher = load_teacher(
        name,
        precision=cache.identity["precision"],
        device=choose_device(sources.device, "--device "),
        final_norm=cache.identity["teacher"]["final_norm"],
    )
    if teacher.fingerprint != cache.identity["teacher"]["fingerprint"]:
        raise CacheMismatchError(f"{name} is not the teacher that {cache.uri} was extracted with", command)
    return teacher
