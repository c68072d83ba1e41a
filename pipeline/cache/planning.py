"""A plan in a store: written before the teacher runs, replaced by one that adds to it, removed, and read again.

    planning   a marker, first: without a root document, everything here belongs to gdist and may be replaced
    …          index, array metadata, the teacher's files; under plans/ a second copy of the index and of the root
    zarr.json  the root document: the plan is complete
               and the marker is deleted

So a process may be killed at any point, and a folder that does not belong to gdist is never written to.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gdist.pipeline.cache import arrays, index
from gdist.pipeline.cache.coherence import PLANNED, require_arrays, require_description
from gdist.pipeline.cache.encode import compression
from gdist.pipeline.cache.needs import Needs, format_command, repair_command
from gdist.pipeline.cache.plan import (
    FORMAT,
    HOLDER,
    INDEX,
    ROOT,
    WAVEFORM,
    Plan,
    array_specs,
    encoding_of,
    framing_of,
    index_key,
    require_revision,
)
from gdist.pipeline.cache.schema import (
    CONFIG_BYTES,
    MAX_WIDTH,
    METADATA_BYTES,
    ROOT_BYTES,
    SMALL_BYTES,
    TABLE_BYTES,
    TENSOR_BYTES,
)
from gdist.pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError, ConfigError, UsageError
from gdist.pipeline.schema import SchemaError
from gdist.pipeline.storage.durable import make_durable
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.objects import Storage, sha256, unseal

PLANNING, LOCK = "planning", "extracting.json"

OURS = re.compile(
    rf"{PLANNED.pattern}|zarr\.json|planning|extracting\.json|plans/\d+\.json"
    r"|receipts/\d+(-\d+)?\.json|summaries/\d+\.(json|parquet)|((layers|scales)/\d+|waveform)/c/\d+/\d+"
)

FOLDERS = {"layers", "plans", "receipts", "scales", "summaries", "teacher", "waveform"}  # at a cache's top


def is_ours(key: str) -> bool:
    """Whether a cache may have an object of this name."""
    return OURS.fullmatch(key) is not None


def require_place(storage: Storage) -> None:
    """Raise CacheError where the place contains something that is neither a cache nor the beginning of one."""
    with suppress(FileNotFoundError):
        storage.get(ROOT, ROOT_BYTES)
        return  # without listing what may be millions of objects
    keys = [key for key in storage.found() if key != LOCK]
    if keys and ROOT not in keys and not _planning(storage):
        raise CacheError(
            f"{storage.uri} is not empty and contains no cache (it has {keys[0]})", "choose another --cache"
        )


def begin(storage: Storage, plan: Plan) -> None:
    """Write a plan where there is no root document.

    Raises:
        CacheError: the place contains something else, which is left untouched; or it cannot be written.
    """
    require_place(storage)
    documents = plan.documents()
    _require_readable(storage.uri, documents)
    storage.require_no_links(documents)
    _clear(storage, storage.found())  # remains of a killed plan, possibly with other inputs
    for key, data in documents.items():
        storage.put(key, data)
    make_durable(storage, documents)
    storage.delete([PLANNING])


def extend(storage: Storage, plan: Plan) -> None:
    """Replace the plan by one that adds to it. Of the old plan's other documents, only the index and the arrays'
    metadata are overwritten, after the root: gdist reads the index's copy in plans/ and the metadata in the root."""
    documents = plan.documents()
    _require_readable(storage.uri, documents)
    late = [key for key in documents if key.endswith(f"/{ROOT}") or key == INDEX]
    storage.require_no_links(documents)
    _planning(storage)
    storage.put(PLANNING, _MARK)
    for key in [key for key in documents if key not in (*late, ROOT)] + [ROOT] + late:
        storage.put(key, documents[key])
    make_durable(storage, documents)
    storage.delete([PLANNING])


def _require_readable(uri: str, documents: Mapping[str, bytes]) -> None:
    """Raise CacheError for a plan that would be refused when it is read: nothing of it is written."""
    gdist = parse_root(uri, documents[ROOT])
    try:
        index.read(documents[INDEX], gdist, framing_of(gdist["identity"], uri))
    except SchemaError as error:
        raise CacheError(
            f"the cache at {uri} cannot be planned: its index would be refused, since {error}"
        ) from error


def settle(storage: Storage, gdist: Mapping[str, Any]) -> None:
    """Finish an :func:`extend` or a :func:`begin` that was killed after it had written the root."""
    if not _planning(storage):
        return
    for key, data in restorable(storage, gdist).items():
        storage.put(key, data)
    storage.delete([PLANNING])


def restorable(storage: Storage, gdist: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the planned documents that follow from the root alone, or that have an undamaged copy."""
    documents = arrays.metadata(array_specs(gdist["identity"]), gdist["packs"], {})
    del documents[ROOT]
    with suppress(CacheDamagedError):
        table = read_index(storage, gdist)
        documents |= {INDEX: table, index_key(gdist["generation"]): table}
    return documents


def remove(storage: Storage) -> None:
    """Delete the cache, and nothing else: other people's files next to it stay.

    Raises:
        CacheError: there is no cache, or a link is in it; nothing is deleted then.
    """
    keys = [key for key in storage.found() if key != LOCK]
    try:
        known = _planning(storage) or _has_root(storage)
    except CacheDamagedError:
        known = {INDEX, f"{WAVEFORM}/{ROOT}"} <= set(keys)  # its root is damaged, but it was a cache
    if keys and not known:
        raise CacheError(
            f"--restart: {storage.uri} contains no cache, so nothing there is deleted", "choose another --cache"
        )
    if keys:
        _clear(storage, keys)


_MARK = b"gdist is at work here; without a zarr.json beside it, this is not a cache yet\n"


def mark(storage: Storage) -> None:
    """Announce that a cache is being written here, which is none until its root document is there.

    Raises:
        CacheError: something else has the marker's name.
    """
    _planning(storage)
    storage.put(PLANNING, _MARK)


def unmark(storage: Storage) -> None:
    """Take gdist's own marker away, where there is one."""
    if _planning(storage):
        storage.delete([PLANNING])


def _planning(storage: Storage) -> bool:
    """Whether gdist's marker is there; CacheError where something else has its name, which is left alone."""
    try:
        mark = storage.get(PLANNING, SMALL_BYTES)
    except FileNotFoundError:
        return False
    if mark != _MARK:
        raise CacheError(
            f"{storage.uri}/{PLANNING} is not the file that gdist writes under this name, and is left alone",
            "move it away, or choose another --cache",
        )
    return True


def _clear(storage: Storage, keys: list[str]) -> None:
    """Delete a cache except the marker. The root goes first: half a cache must not look like a whole one.

    Raises:
        CacheError: a link is in place of one of the cache's files or folders; nothing is deleted then.
    """
    storage.require_no_links(key for key in keys if key.split("/")[0] in FOLDERS or is_ours(key))
    storage.put(PLANNING, _MARK)
    storage.sweep_staged(is_ours)
    ours = [key for key in keys if is_ours(key) and key not in (PLANNING, LOCK)]
    storage.delete(sorted(ours, key=lambda key: key != ROOT))


def read_root(storage: Storage, key: str = ROOT) -> dict[str, Any] | None:
    """Return the gdist description in the root document; None when there is no root document.

    Raises:
        CacheDamagedError: the root document is damaged, or describes no cache.
        CacheError: it has another cache format.
    """
    try:
        data = storage.get(key, ROOT_BYTES)
    except FileNotFoundError:
        return None
    return parse_root(storage.uri, data, key)


def parse_root(uri: str, data: bytes, key: str = ROOT) -> dict[str, Any]:
    """Return the gdist description in the bytes of a root document; raises as :func:`read_root` does."""
    hint = f"gdist verify --repair {in_shell(uri)} (if it was a cache), or extract again with --restart"
    try:
        root = _unsealed(uri, data)
        gdist: dict[str, Any] = root["attributes"]["gdist"]
        if isinstance(identity := gdist.get("identity"), dict):
            require_revision(identity, uri)
        _require_sense(require_description(gdist), root, uri)
    except CacheDamagedError as error:
        raise CacheDamagedError(f"{uri}/{key} does not describe a cache: {error.message}", hint) from error
    except SchemaError as error:
        raise CacheDamagedError(f"{uri}/{key} does not describe a cache: {error}", hint) from error
    return gdist


def _unsealed(uri: str, data: bytes) -> dict[str, Any]:
    """Return a root document of this format, whatever else it says.

    Raises:
        CacheDamagedError: it is none.
        CacheError: it has another cache format.
    """
    root = unseal(data, HOLDER)
    if (found := root["attributes"]["gdist"].get("format")) != FORMAT and type(found) is int:
        why = f"{uri} has cache format {found}; this gdist reads format {FORMAT}"
        raise CacheError(why, format_command(found, FORMAT))
    return root


def _has_root(storage: Storage) -> bool:
    """Whether there is a root document; raises as :func:`_unsealed`."""
    try:
        _unsealed(storage.uri, storage.get(ROOT, ROOT_BYTES))
    except FileNotFoundError:
        return False
    return True


def _require_sense(gdist: Mapping[str, Any], root: Mapping[str, Any], uri: str) -> None:
    """Check what follows from the identity; SchemaError where it contradicts the rest."""
    identity = gdist["identity"]
    if framing_of(identity, uri).hop > MAX_WIDTH:
        raise SchemaError(f"its identity.framing.hop is more than {MAX_WIDTH}")
    try:
        if compression(identity["compress"]) != identity["compress"]:
            raise UsageError("another form of it")
    except UsageError as error:
        raise SchemaError(
            f"its identity.compress is {identity['compress']!r:.40}, which is nothing that gdist writes"
        ) from error
    with suppress(ConfigError, CacheMismatchError):  # a file of the user's own, which this command was not told of
        encoding_of(identity, uri)
        require_arrays(array_specs(identity), gdist["packs"], root.get("consolidated_metadata"))


def read_index(storage: Storage, gdist: Mapping[str, Any]) -> bytes:
    """Return the index, or its copy where the index is damaged or belongs to a later plan."""
    try:
        return read_document(storage, gdist, INDEX)
    except CacheDamagedError:
        with suppress(CacheDamagedError):
            return read_document(storage, gdist, index_key(gdist["generation"]))
        raise


def read_document(storage: Storage, gdist: Mapping[str, Any], key: str) -> bytes:
    """Return one of the planned documents; CacheDamagedError unless it matches its digest in the root."""
    why = "does not match its checksum"
    try:
        data = storage.get(key, _limit(key))
        if sha256(data) == gdist["objects"].get(key):
            return data
    except FileNotFoundError:
        why = "is missing"
    needs = Needs(teacher=key.startswith("teacher/"), manifest=key in (INDEX, index_key(gdist["generation"])))
    raise CacheDamagedError(f"{storage.uri}/{key} {why}", repair_command(storage.uri, gdist, needs))


def _limit(key: str) -> int:
    """The most bytes that a planned document may have."""
    name = key.rpartition("/")[2]
    if name == ROOT:
        return METADATA_BYTES
    return TABLE_BYTES if name.endswith(".parquet") else TENSOR_BYTES if name.endswith("tensors") else CONFIG_BYTES
