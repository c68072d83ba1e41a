"""The documents of a damaged cache, written again: from the root document or its copies, from one another, from the
teacher, or from the manifest. What was written is what the root has the digest of, or nothing is written.
"""

import io
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow.parquet as pq

from gdist.pipeline.cache import index, layout, plan, planning
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.needs import Needs, repair_command
from gdist.pipeline.cache.plan import INDEX, ROOT, index_key, plan_key
from gdist.pipeline.cache.schema import ROOT_BYTES, TABLE_BYTES
from gdist.pipeline.errors import CacheDamagedError, CacheError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.storage.objects import Storage, sha256
from gdist.stages.extract.plan import labels_of, measure, teacher_files
from gdist.stages.teachers import Teacher


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
        storage.put(ROOT, storage.get(key, ROOT_BYTES))
        return [ROOT]
    raise problem


def open_restoring(storage: Storage, repaired: list[str], manifest: str | None = None) -> Cache:
    """Open the cache, after restoring documents that follow from the root. Appends their keys to ``repaired``.

    Raises:
        CacheDamagedError: the index and its copy are damaged, and there is no (or another) manifest to make it from.
    """
    gdist = planning.read_root(storage)
    assert gdist is not None
    plan.framing_of(gdist["identity"], storage.uri)
    plan.encoding_of(gdist["identity"], storage.uri)
    documents = planning.restorable(storage, gdist)
    if INDEX not in documents:
        made = index_again(storage, gdist, manifest)
        documents |= {INDEX: made, index_key(gdist["generation"]): made}
    for key, data in documents.items():
        try:
            planning.read_document(storage, gdist, key)
        except CacheDamagedError:
            if sha256(data) == gdist["objects"][key]:
                storage.put(key, data)
                repaired.append(key)
    planning.settle(storage, gdist)
    return Cache.open(storage.uri)


def index_again(storage: Storage, gdist: dict[str, Any], manifest: str | None) -> bytes:
    """Return the bytes of an index of which no copy is left: those of an older plan, if only layers were added since,
    or else made from the manifest again."""
    wanted = gdist["objects"][INDEX]
    for key in storage.objects("plans"):
        if key.endswith(".parquet") and sha256(data := storage.get(key, TABLE_BYTES)) == wanted:
            return data
    needs = Needs(manifest=True)
    if manifest is None:
        raise CacheDamagedError(
            f"the index of {storage.uri} and its copy are damaged, and have to be made from the manifest",
            repair_command(storage.uri, gdist, needs),
        )
    identity, table = gdist["identity"], Manifest.read(manifest)
    _, lengths = measure(table)
    entries = layout.place(
        lengths,
        int(identity["max_seconds"] * SAMPLE_RATE),
        identity["chunk_frames"],
        identity["pack_frames"],
        framing=plan.framing_of(identity, storage.uri),
    )
    buffer = io.BytesIO()
    pq.write_table(index.to_table(entries, labels_of(table)), buffer, compression="zstd")
    if sha256(buffer.getvalue()) != wanted:
        grown = sum(addition["waveform"] for addition in gdist["additions"]) > 1
        why = "the cache grew from another one" if grown else "it is not the one that the cache was extracted from"
        raise CacheDamagedError(
            f"the index of {storage.uri} cannot be made from {manifest} again: {why}",
            f"restore {INDEX} from a backup, or give the right manifest",
        )
    return buffer.getvalue()


def restore_copy(cache: Cache, bad: Iterable[str]) -> list[str]:
    """Restore the root's copy, if it is among ``bad``. Returns the keys written."""
    newest = plan_key(cache.gdist["generation"])
    if newest not in bad:
        return []
    cache.storage.put(newest, cache.storage.get(ROOT, ROOT_BYTES))
    return [newest]


def restore_teacher(cache: Cache, bad: Iterable[str], teacher: Callable[[], Teacher]) -> list[str]:
    """Restore the teacher's files, if they are among ``bad``. Returns the keys written.

    Args:
        teacher: loads it.
    """
    lost = sorted(key.removeprefix("teacher/") for key in bad if key.startswith("teacher/"))
    files = teacher_files(teacher(), cache.identity["encoding"]) if lost else {}
    for name in lost:
        if sha256(files.get(name, b"")) != cache.gdist["objects"][f"teacher/{name}"]:
            raise CacheError(
                f"teacher/{name} of {cache.uri} cannot be restored to the same bytes",
                "restore that file from a backup, or extract into a new cache",
            )
        cache.storage.put(f"teacher/{name}", files[name])
    return [f"teacher/{name}" for name in lost]
