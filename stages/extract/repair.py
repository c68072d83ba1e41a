"""`gdist verify --repair`: write again exactly what is missing or damaged, and nothing else.

Documents are restored from the root document or its copies, and the teacher's files from the teacher. Shards are
restored by running the teacher over the pack's audio. The cache contains that audio, so the audio files are needed
only where the stored waveform itself was lost. A receipt is no data: it is made again from the summary or from the
shards, and only where these cannot tell all of it does the teacher run.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from gdist.pipeline import console
from gdist.pipeline.cache import arrays, plan
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.copied import require_extracted
from gdist.pipeline.cache.encode import encoded, record
from gdist.pipeline.cache.lock import Lock, require_token
from gdist.pipeline.cache.needs import Needs, repair_command
from gdist.pipeline.cache.plan import NO_SAMPLE, WAVEFORM, Task
from gdist.pipeline.cache.remains import Remains, remains
from gdist.pipeline.cache.summary import Receipt, head_key, table_key
from gdist.pipeline.cache.verify import Findings, examine
from gdist.pipeline.errors import CacheDamagedError, CacheMismatchError
from gdist.pipeline.manifest.table import Manifest, Utterance
from gdist.pipeline.storage.objects import Storage, seal
from gdist.stages.device import choose_device
from gdist.stages.extract.documents import open_restoring, restore_copy, restore_root, restore_teacher
from gdist.stages.extract.extractor import Computed, Extractor
from gdist.stages.extract.pack_audio import PackAudio, decode_pack, stored_audio
from gdist.stages.extract.plan import measure
from gdist.stages.extract.receipts import audio_of_shard, from_shards
from gdist.stages.extract.sources import Sources
from gdist.stages.teachers import FAMILIES, Teacher, load_teacher


def repair(uri: str, sources: Sources, show_progress: bool = True) -> tuple[Findings, list[str]]:
    """Read every byte of the cache at ``uri``, repair what is damaged, and read again what was repaired.

    Returns:
        what is still damaged in the repaired cache; and the keys that were written.

    Raises:
        CacheError: something cannot be restored from the given sources. What was repaired before that stays repaired.
    """
    storage = Storage(uri)
    with Lock(storage) as lock:
        repaired = restore_root(storage)
        cache = open_restoring(storage, repaired, sources.manifest)
        cache.guard = lambda: require_token(storage, lock.token)
        summaries = set(storage.objects("summaries"))
        with console.progress("verify", len(cache.tasks), "packs", enabled=show_progress) as advance:
            found = examine(cache, advance)
        bad = {damage.object for damage in found.bad}
        repaired += restore_copy(cache, bad)
        repaired += restore_receipts(cache, found.remains.values())
        sources.require(found)
        packs = PackRepair(cache, sources)
        repaired += restore_teacher(cache, bad, lambda: packs.teacher)
        remade = {*found.missing, *(task for task, left in found.remains.items() if left.kept is None)}
        torn = {task: names for task in cache.tasks if task not in remade and (names := lost(cache, task, bad))}
        damaged = [task for task in cache.tasks if task in remade or task in torn]
        # Those that cannot be read would stop whoever reads the receipts of a pack.
        storage.delete([task.receipt for task in remade if task.receipt in bad])
        with console.progress("repair", len(damaged), "packs", enabled=show_progress and bool(damaged)) as advance:
            for task in damaged:
                left = found.remains.get(task)
                repaired += packs.repair(task, torn[task]) if task in torn else packs.make_receipt(task, left)
                advance(1)
        cache.withdraw_summaries(task.addition for task in remade)  # last: only they may know of a quarantine
        repaired += restore_summaries(cache, summaries - bad)
        if not found.ok:
            found = examine(cache, lambda n=1, note="": None, {*damaged, *found.remains})
    return found, list(dict.fromkeys(repaired))


def restore_receipts(cache: Cache, lost: Iterable[Remains]) -> list[str]:
    """Write the receipts that summaries have copies of. They are the same as before, so the summaries stay true."""
    kept = {left.task.receipt: left.kept for left in lost if left.kept is not None}
    for key, receipt in kept.items():
        cache.guard()
        cache.storage.put(key, seal(receipt, receipt))
    return list(kept)


def restore_summaries(cache: Cache, sound: Collection[str]) -> list[str]:
    """Write the summaries that are not there, or not ``sound``, from the receipts. Returns the keys that were not."""
    numbers = range(len(cache.tasks.additions))
    cache.withdraw_summaries(n for n in numbers if not {head_key(n), table_key(n)} <= {*sound})
    return sorted({*cache.summarize()} - {*sound})


def lost(cache: Cache, task: Task, bad: Collection[str]) -> list[str]:
    """Return the arrays of a task whose shards must be written again."""
    return [name for name in cache.arrays_of(task) if arrays.shard_key(name, task.pack) in bad]


class PackRepair:
    """Repairs single packs, by running the teacher over their audio where that is needed."""

    def __init__(self, cache: Cache, sources: Sources) -> None:
        self.cache, self.sources = cache, sources

    @cached_property
    def teacher(self) -> Teacher:
        """The cache's teacher, loaded when it is needed."""
        return find_teacher(self.cache, self.sources)

    @cached_property
    def extractor(self) -> Extractor:
        """Runs the teacher."""
        remedy = "Else repair with --device cpu, where there is more"
        return Extractor(self.cache, self.teacher, remedy=lambda _: remedy)

    def repair(self, task: Task, names: list[str]) -> list[str]:
        """Write shards of one task again, and its receipt if it changes. Returns the keys written.

        Args:
            names: the arrays whose shards are missing or damaged.
        """
        receipt = self.cache.receipt(task)
        assert receipt is not None
        layers = tuple(
            layer for layer in task.layers if {*plan.layer_arrays(self.cache.identity, [layer])} & {*names}
        )
        part = dataclasses.replace(task, layers=layers, waveform=WAVEFORM in names)
        heard = decode_pack(self.cache, task.pack, self.audio(task)) if part.waveform else None
        if heard is not None:
            heard = without(heard, receipt["quarantine"])
        if not layers:
            assert heard is not None
            computed = Computed({WAVEFORM: heard.rows}, heard.quarantine, {})
        else:
            computed = self.compute(part, heard or stored_audio(self.cache, task.pack))
        return self.rewrite(task, receipt, {name: computed.rows[name] for name in names}, computed.quarantine)

    def make_receipt(self, task: Task, before: Remains | None) -> list[str]:
        """Make a receipt again, and what it describes as far as that is damaged. Returns the keys written.

        Args:
            before: what was left of the task at first; earlier tasks of its pack may have been repaired since.
        """
        left = remains(self.cache, task, None, before.reasons if before else None)
        if left.from_shards:
            return self.seal(task, from_shards(self.cache, left))
        if not task.waveform:
            heard = stored_audio(self.cache, task.pack)
        elif left.has_audio:
            heard = audio_of_shard(self.cache, left)
        else:
            heard = decode_pack(self.cache, task.pack, self.audio(task))
        computed = self.compute(task, heard)
        objects, written = self.put(task, computed.rows)
        receipt = self.cache.new_receipt(task, objects, computed.quarantine, computed.statistics)
        return written + self.seal(task, receipt)

    def compute(self, task: Task, heard: PackAudio) -> Computed:
        """Run the teacher over the audio of a pack."""
        return self.extractor.collect(self.extractor.compute(task, heard))

    def rewrite(
        self, task: Task, receipt: Receipt, rows: Mapping[str, np.ndarray[Any, Any]], quarantine: dict[str, str]
    ) -> list[str]:
        """Replace damaged shards. Returns the keys written.

        The receipt is updated if the teacher's last bits differ here from those on the machine that ran it first.
        """
        objects, written = self.put(task, rows)
        same = all(receipt["objects"][key] == found for key, found in objects.items())
        if same and quarantine.keys() <= receipt["quarantine"].keys():
            return written
        receipt["objects"] |= objects
        receipt["quarantine"] |= quarantine
        differ = f"pack {task.pack}: the bytes differ from those of the first run (another machine?)"
        console.say(f"{differ}; its receipt was updated")
        self.cache.withdraw_summaries([task.addition])
        return written + self.seal(task, receipt)

    def put(self, task: Task, rows: Mapping[str, np.ndarray[Any, Any]]) -> tuple[dict[str, Any], list[str]]:
        """Write shards, except those that are there with the same bytes. Returns what a receipt says about each, by
        key, and the keys written."""
        objects, written, storage = {}, [], self.cache.storage
        self.cache.guard()
        for name, values in rows.items():
            key, spec = arrays.shard_key(name, task.pack), self.cache.specs[name]
            with encoded(values, spec.chunk_rows, spec.compress) as shard:
                objects[key] = shard.record
                try:
                    same = record(self.cache.shard(name, task.pack)) == shard.record
                except (FileNotFoundError, CacheDamagedError):
                    same = False
                if not same:
                    storage.put(key, shard.data)
                    written.append(key)
        return objects, written

    def seal(self, task: Task, receipt: Receipt) -> list[str]:
        """Write a receipt. Returns its key."""
        self.cache.guard()
        self.cache.storage.put(task.receipt, seal(receipt, receipt))
        return [task.receipt]

    @cached_property
    def utterances(self) -> Mapping[str, Utterance]:
        """The manifest's utterances, by id."""
        assert self.sources.manifest is not None, "required before"
        return measure(Manifest.read(self.sources.manifest))[0]

    def audio(self, task: Task) -> list[Utterance]:
        """The utterances of a task, from the manifest; CacheMismatchError where some are missing from it."""
        entries = self.cache.pack_entries(task.pack)
        missing = [entry.id for entry in entries if entry.id not in self.utterances]
        if missing:
            raise CacheMismatchError(
                f"{self.sources.manifest} lacks {len(missing)} utterances of pack {task.pack} (first: {missing[0]})",
                "give the manifest that the cache was extracted from",
            )
        return [self.utterances[entry.id] for entry in entries]


def without(heard: PackAudio, quarantine: Collection[str]) -> PackAudio:
    """Return the audio of a pack without the utterances that were put into quarantine after they were decoded."""
    for entry in heard.entries:
        if entry.id in quarantine:
            heard.of(entry).numpy().fill(NO_SAMPLE)
    kept = [entry for entry in heard.entries if entry.id not in quarantine]
    return dataclasses.replace(heard, entries=kept)


def find_teacher(cache: Cache, sources: Sources) -> Teacher:
    """Load the teacher that the cache was made with.

    Raises:
        CacheMismatchError: a different teacher was given, or the cache is a copy which no teacher can make again.
    """
    require_extracted(cache.uri, cache.gdist, "run the teacher to repair")
    name = sources.teacher or cache.gdist["about"]["teacher"]
    command = repair_command(cache.uri, cache.gdist, Needs(teacher=True), manifest=sources.manifest)
    teacher = load_teacher(
        name,
        precision=cache.identity["precision"],
        device=choose_device(sources.device, "--device "),
        final_norm=cache.identity["teacher"]["final_norm"],
        window=cache.identity["teacher"].get("window"),
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
