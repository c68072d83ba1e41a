"""`gdist verify --repair`: write again exactly what is missing or damaged, and nothing else.

Documents are restored from the root document or its copies, and the teacher's files from the teacher. Shards are
restored by running the teacher over the pack's audio. The cache contains that audio, so the audio files are needed
only where the stored waveform itself was lost.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from gdist.pipeline import console
from gdist.pipeline.cache import arrays, plan, planning
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.copied import require_extracted
from gdist.pipeline.cache.encode import encoded
from gdist.pipeline.cache.lock import Lock, require_token
from gdist.pipeline.cache.plan import ROOT, WAVEFORM, Task, plan_key
from gdist.pipeline.cache.summary import head_key, table_key
from gdist.pipeline.cache.verify import verify
from gdist.pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from gdist.pipeline.manifest.table import Manifest, Utterance
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.objects import Storage, seal, sha256
from gdist.stages.device import choose_device
from gdist.stages.extract.extractor import Extractor
from gdist.stages.extract.plan import measure, teacher_files
from gdist.stages.teachers import FAMILIES, Teacher, load_teacher


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a repair can use in addition to the cache itself.

    Attributes:
        teacher: a hub id or a folder; None means the hub id that the cache records.
        manifest: the manifest with the audio files; needed only for packs whose waveform is lost.
        device: where the teacher runs.
    """

    teacher: str | None = None
    manifest: str | None = None
    device: str = "auto"


def repair(uri: str, sources: Sources, show_progress: bool = True) -> dict[str, Any]:
    """Read every byte of the cache at ``uri``, repair what is damaged, and read again what was repaired.

    Returns:
        the result of :func:`gdist.pipeline.cache.verify.verify` for the repaired cache, and ``repaired``: the keys
        that were written.

    Raises:
        CacheError: something cannot be restored from the given sources. What was repaired before that stays repaired.
    """
    storage = Storage(uri)
    with Lock(storage) as lock:
        repaired = restore_root(storage)
        cache = open_restoring(storage, repaired)
        cache.guard = lambda: require_token(storage, lock.token)
        summaries = set(storage.objects("summaries"))
        with console.progress("verify", len(cache.tasks), "packs", enabled=show_progress) as advance:
            found = verify(cache, advance)
        bad = {damage["object"] for damage in found["bad"]}
        repaired += restore_documents(cache, bad, sources)
        todo = set(cache.todo(listed=True))
        damaged = {task: names for task in cache.tasks if (names := lost(cache, task, bad, task in todo))}
        if damaged:
            pack_repair = PackRepair(cache, sources)
            with console.progress("repair", len(damaged), "packs", enabled=show_progress) as advance:
                for task, names in damaged.items():
                    repaired += pack_repair.repair(task, names)
                    advance(1)
        repaired += restore_summaries(cache, summaries - bad)
        if bad or damaged:
            found = verify(cache, lambda n=1, note="": None, damaged)
    return found | {"repaired": repaired}


def restore_root(storage: Storage) -> list[str]:
    """Restore the root document, if damaged or missing, from its newest intact copy. Returns the keys written."""
    try:
        if planning.read_root(storage) is not None:
            return []
        problem = CacheError(f"no cache at {storage.uri}: it has neither {ROOT} nor a copy of it")
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


def open_restoring(storage: Storage, repaired: list[str]) -> Cache:
    """Open the cache, after restoring documents that follow from the root. Appends their keys to ``repaired``."""
    gdist = planning.read_root(storage)
    assert gdist is not None
    plan.encoding_of(gdist["identity"], storage.uri)
    for key, data in planning.restorable(storage, gdist).items():
        try:
            planning.read_document(storage, gdist, key)
        except CacheDamagedError:
            if sha256(data) == gdist["objects"][key]:
                storage.put(key, data)
                repaired.append(key)
    planning.settle(storage, gdist)
    return Cache.open(storage.uri)


def restore_documents(cache: Cache, bad: Iterable[str], sources: Sources) -> list[str]:
    """Restore the teacher's files and the copy of the root, if they are among ``bad``. Returns the keys written."""
    repaired = []
    newest = plan_key(cache.gdist["generation"])
    if newest in bad:
        cache.storage.put(newest, cache.storage.get(ROOT))
        repaired.append(newest)
    lost_files = {key.removeprefix("teacher/") for key in bad if key.startswith("teacher/")}
    if lost_files:
        files = teacher_files(find_teacher(cache, sources), cache.identity["encoding"])
        for name in sorted(lost_files):
            if sha256(files.get(name, b"")) != cache.gdist["objects"][f"teacher/{name}"]:
                raise CacheError(
                    f"teacher/{name} of {cache.uri} cannot be restored to the same bytes",
                    "restore that file from a backup, or extract into a new cache",
                )
            cache.storage.put(f"teacher/{name}", files[name])
            repaired.append(f"teacher/{name}")
    return repaired


def restore_summaries(cache: Cache, sound: Collection[str]) -> list[str]:
    """Write the summaries that are not there, or not ``sound``, from the receipts. Returns the keys that were not."""
    numbers = range(len(cache.tasks.additions))
    cache.withdraw_summaries(n for n in numbers if not {head_key(n), table_key(n)} <= {*sound})
    return sorted({*cache.summarize()} - {*sound})


def lost(cache: Cache, task: Task, bad: Iterable[str], missing: bool) -> list[str]:
    """The arrays of a task that must be written again; all of them if its receipt is missing or damaged."""
    if task.receipt in bad or missing:
        return cache.arrays_of(task)
    return [name for name in cache.arrays_of(task) if arrays.shard_key(name, task.pack) in bad]


class PackRepair:
    """Repairs single packs by running the teacher over their audio."""

    def __init__(self, cache: Cache, sources: Sources) -> None:
        self.cache, self.sources = cache, sources
        self.extractor = Extractor(
            cache, find_teacher(cache, sources), remedy=lambda _: "Else repair with --device cpu, where there is more"
        )
        self._utterances: Mapping[str, Utterance] | None = None

    def repair(self, task: Task, names: list[str]) -> list[str]:
        """Write shards of one task again, and its receipt if it changes. Returns the keys written.

        Args:
            names: the arrays whose shards are missing or damaged.
        """
        receipt = None if set(names) == set(self.cache.arrays_of(task)) else self.cache.receipt(task)
        if receipt is None:
            self.cache.withdraw_summaries([task.addition])
            self.cache.storage.delete([task.receipt])
            self.extractor.run(task, self.audio(task) if task.waveform else None)
            return [arrays.shard_key(name, task.pack) for name in names] + [task.receipt]
        layers = tuple(
            layer for layer in task.layers if {*plan.layer_arrays(self.cache.identity, [layer])} & {*names}
        )
        part = dataclasses.replace(task, layers=layers, waveform=WAVEFORM in names)
        audio = self.extractor.read(part, self.audio(task) if part.waveform else None)
        computed = self.extractor.collect(self.extractor.compute(part, audio))
        return self.rewrite(task, receipt, {name: computed.rows[name] for name in names}, computed.quarantine)

    def rewrite(
        self,
        task: Task,
        receipt: dict[str, Any],
        rows: Mapping[str, np.ndarray[Any, Any]],
        quarantine: dict[str, str],
    ) -> list[str]:
        """Replace damaged shards. Returns the keys written.

        The receipt is updated if the teacher's last bits differ here from those on the machine that ran it first.
        """
        same = True
        self.cache.guard()
        for name, values in rows.items():
            key, spec = arrays.shard_key(name, task.pack), self.cache.specs[name]
            with encoded(values, spec.chunk_rows, spec.compress) as shard:
                self.cache.storage.put(key, shard.data)
            same &= receipt["objects"][key] == shard.record
            receipt["objects"][key] = shard.record
        written = [arrays.shard_key(name, task.pack) for name in rows]
        if not same or not quarantine.keys() <= receipt["quarantine"].keys():
            receipt["quarantine"] |= quarantine
            console.say(
                f"pack {task.pack}: the bytes differ from those of the first run (another machine?); "
                "its receipt was updated"
            )
            self.cache.withdraw_summaries([task.addition])
            self.cache.storage.put(task.receipt, seal(receipt, receipt))
            written.append(task.receipt)
        return written

    def audio(self, task: Task) -> list[Utterance]:
        """The utterances of a task, from the manifest.

        Raises:
            CacheError: there is no manifest.
            CacheMismatchError: utterances are missing from it.
        """
        if self._utterances is None:
            if self.sources.manifest is None:
                raise CacheError(
                    f"the audio of pack {task.pack} of {self.cache.uri} is lost, and a cache records no file names",
                    f"gdist verify {in_shell(self.cache.uri)} --repair --manifest M.parquet",
                )
            self._utterances, _ = measure(Manifest.read(self.sources.manifest))
        entries = self.cache.pack_entries(task.pack)
        missing = [entry.id for entry in entries if entry.id not in self._utterances]
        if missing:
            raise CacheMismatchError(
                f"{self.sources.manifest} lacks {len(missing)} utterances of pack {task.pack} (first: {missing[0]})",
                "give the manifest that the cache was extracted from",
            )
        return [self._utterances[entry.id] for entry in entries]


def find_teacher(cache: Cache, sources: Sources) -> Teacher:
    """Load the teacher that the cache was made with.

    Raises:
        CacheError: the teacher was a local folder, and no folder was given.
        CacheMismatchError: a different teacher was given.
    """
    require_extracted(cache.uri, cache.gdist, "run the teacher to repair")
    name = sources.teacher or cache.gdist["about"]["teacher"]
    command = f"gdist verify {in_shell(cache.uri)} --repair --teacher FOLDER"
    if sources.teacher is None and "/" not in name:
        raise CacheError(
            f"to repair {cache.uri}, its teacher has to run again, but it was a local folder ({name})", command
        )
    teacher = load_teacher(
        name,
        precision=cache.identity["precision"],
        device=choose_device(sources.device, "--device "),
        final_norm=cache.identity["teacher"]["final_norm"],
    )
    made_with = cache.identity["teacher"]
    if teacher.fingerprint != made_with["fingerprint"]:
        raise CacheMismatchError(f"{name} is not the teacher that {cache.uri} was extracted with", command)
    extension = FAMILIES.extension(teacher.family)
    if (extension.sha256 if extension else None) != made_with.get("sha256"):
        raise CacheMismatchError(
            f"the family {teacher.family} is not run by the code that {cache.uri} was extracted with",
            "--use FILE.py:CLASS names that code; the cache keeps the file under teacher/"
            if "sha256" in made_with
            else "leave --use out: gdist's own made it",
        )
    return teacher
