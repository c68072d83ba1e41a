"""The cache before its first byte: every document that describes it, and the seals that guard them.

A plan follows from the manifest and the teacher alone. Its documents are written before the teacher runs:

    planning   a marker, first: what lies here without a root document is ours, and may be replaced
    …          index, array metadata, the teacher's files; under plans/ a second copy of the index and of the root
    zarr.json  the root document: there is a complete plan
               and the marker is taken away

so a process may be killed at any point, and a folder that is not ours is never written to. A later plan may add packs
(the manifest grew) and layers: it replaces index and root, and whoever reads by the old root goes on with its copies.
"""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gdist.pipeline import framing
from gdist.pipeline.cache import arrays, layout
from gdist.pipeline.cache.arrays import ArraySpec
from gdist.pipeline.cache.encodings import ENCODINGS, Encoding, encoding
from gdist.pipeline.cache.layout import Entry
from gdist.pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.objects import Storage, seal, sha256, unseal

FORMAT = 1
ROOT, INDEX, WAVEFORM = "zarr.json", "index.parquet", "waveform"
PLANNING, LOCK = "planning", "extracting.json"
HOLDER = ("attributes", "gdist")  # where the root document's seal lies
OURS = re.compile(
    r"zarr\.json|planning|extracting\.json|index\.parquet|plans/\d+\.(json|parquet)"
    r"|teacher/(config\.json|(frontend|layers|tables-\d+)\.safetensors)"
    r"|receipts/\d+(-\d+)?\.json"
    r"|((layers|scales)(/\d+)?|waveform)/zarr\.json|((layers|scales)/\d+|waveform)/c/\d+/\d+"
)
FOLDERS = {"layers", "plans", "receipts", "scales", "teacher", "waveform"}  # all of them at a cache's top
NO_SAMPLE = -32_768  # fills the waveform where nothing was written; audio is clipped to ±32,767


@dataclass(frozen=True)
class Task:
    """The unit of work: some layers of one pack, written and committed together.

    Attributes:
        waveform: the pack is new, so its audio belongs to it too; else the audio is there, and layers are added.
        receipt: the object whose presence says that it is done.
    """

    pack: int
    layers: tuple[int, ...]
    waveform: bool
    receipt: str


@dataclass(frozen=True)
class Plan:
    """A cache before its first byte, or before it grows.

    Attributes:
        identity: JSON-able description of the inputs; two plans with the same identity give the same bytes.
            Has at least ``layers``, ``dim``, ``encoding``, ``chunk_frames``, ``pack_frames``.
        about: versions of the software, names, the device: recorded, not compared.
        entries: one an utterance; those of ``before`` first, as they were.
        labels: the manifest's label columns, row for row.
        teacher_files: name → bytes, stored under ``teacher/``.
        before: the root's description that this plan adds to; None for a new cache.
    """

    identity: dict[str, Any]
    about: dict[str, str]
    entries: list[Entry]
    labels: pa.Table | None = None
    teacher_files: dict[str, bytes] = field(default_factory=dict)
    before: Mapping[str, Any] | None = None

    @property
    def packs(self) -> int:
        """How many packs there will be; at least one, so that quarantine records have a receipt to lie in."""
        return max((entry.pack for entry in self.entries), default=0) + 1

    @property
    def generation(self) -> int:
        """0 for the first plan of a cache, one more for each that adds to it."""
        return 0 if self.before is None else int(self.before["generation"]) + 1

    @property
    def new_layers(self) -> list[int]:
        """Layers that ``before`` does not have; all of a new cache."""
        old = self.before["identity"]["layers"] if self.before else []
        return [layer for layer in self.identity["layers"] if layer not in old]

    def additions(self) -> list[dict[str, Any]]:
        """What the cache is made of: rectangles of packs × layers, in the order they were planned."""
        layers = self.identity["layers"]
        if self.before is None:
            return [{"packs": [0, self.packs], "layers": layers, "waveform": True}]
        old_packs = self.before["packs"]
        new: list[dict[str, Any]] = []
        if self.new_layers:
            new.append({"packs": [0, old_packs], "layers": self.new_layers, "waveform": False})
        if self.packs > old_packs:
            new.append({"packs": [old_packs, self.packs], "layers": layers, "waveform": True})
        return [*self.before["additions"], *new]

    @property
    def adds_nothing(self) -> bool:
        """Whether the cache holds (or will, once finished) all of it already."""
        return self.before is not None and self.identity == self.before["identity"]

    def documents(self) -> dict[str, bytes]:
        """Key → bytes of everything that exists before the first pack, the root document last."""
        specs = array_specs(self.identity)
        metadata = arrays.metadata(specs, self.packs, {})
        buffer = io.BytesIO()
        pq.write_table(layout.to_table(self.entries, self.labels), buffer, compression="zstd")
        documents = {f"teacher/{name}": data for name, data in self.teacher_files.items()}
        documents |= {index_key(self.generation): buffer.getvalue(), INDEX: buffer.getvalue()}
        documents |= {key: data for key, data in metadata.items() if key != ROOT}
        kept = {k: v for k, v in self.before["objects"].items() if k.startswith("teacher/")} if self.before else {}
        gdist = {
            "format": FORMAT,
            "generation": self.generation,
            "identity": self.identity,
            "about": self.about,
            "packs": self.packs,
            "utterances": len(self.entries),
            "frames": sum(entry.num_frames for entry in self.entries),
            "additions": self.additions(),
            "objects": kept | {key: sha256(data) for key, data in documents.items()},
        }
        root = seal(arrays.parse(metadata[ROOT]) | {"attributes": {"gdist": gdist}}, gdist)
        return documents | {plan_key(self.generation): root, ROOT: root}


def layer_name(layer: int, folder: str = "layers") -> str:
    """An array of a layer; 0 is the first Transformer layer's input."""
    return f"{folder}/{layer:02d}"


def layer_arrays(identity: Mapping[str, Any], layers: Sequence[int]) -> list[str]:
    """The arrays that some layers are stored in."""
    folders = encoding(identity["encoding"]).parts(identity["dim"])
    return [layer_name(layer, folder) for folder in folders for layer in layers]


def _receipt_name(pack: int, number: int, addition: Mapping[str, Any]) -> str:
    return f"receipts/{pack:05d}.json" if addition["waveform"] else f"receipts/{pack:05d}-{number}.json"


def receipt_of(gdist: Mapping[str, Any], pack: int, array: str) -> str:
    """The receipt that covers one array's shard of ``pack``."""
    layer = None if array == WAVEFORM else int(array.rpartition("/")[2])
    for number, addition in enumerate(gdist["additions"]):
        if pack in range(*addition["packs"]) and (
            addition["waveform"] if layer is None else layer in addition["layers"]
        ):
            return _receipt_name(pack, number, addition)
    raise AssertionError(f"nothing was planned for {array} of pack {pack}")


def plan_key(generation: int) -> str:
    """The copy of the root document, which stays when the cache grows."""
    return f"plans/{generation:05d}.json"


def index_key(generation: int) -> str:
    """The copy of the index, which stays when the cache grows."""
    return f"plans/{generation:05d}.parquet"


def tasks(gdist: Mapping[str, Any]) -> list[Task]:
    """All the work there is, in order."""
    return [
        Task(pack, tuple(addition["layers"]), addition["waveform"], _receipt_name(pack, number, addition))
        for number, addition in enumerate(gdist["additions"])
        for pack in range(*addition["packs"])
    ]


def encoding_of(identity: Mapping[str, Any], uri: str) -> Encoding:
    """The encoding of a cache.

    Raises:
        ConfigError: it is a file's, which the user has to name.
        CacheMismatchError: the file that was named is another than the cache was extracted with.
    """
    name, recorded = identity["encoding"], identity.get("encoding_sha256")
    found = ENCODINGS.find(name, f"the cache at {uri} is stored in {name}")
    extension = ENCODINGS.extension(name)
    if (extension.sha256 if extension else None) != recorded:
        file = name.partition(":")[0]
        raise CacheMismatchError(
            f"{file} is not the file that the cache at {uri} was extracted with",
            f"the cache keeps that file as teacher/{file}: look at it, and name a copy of it",
        )
    return found


def array_specs(identity: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """Name → shape and type of every array of a cache."""
    chunk, pack = identity["chunk_frames"], identity["pack_frames"]
    specs = {
        layer_name(layer, folder): ArraySpec(
            part.width, part.dtype, part.fill_value, *((1, pack // chunk) if part.per_chunk else (chunk, pack))
        )
        for folder, part in encoding(identity["encoding"]).parts(identity["dim"]).items()
        for layer in identity["layers"]
    }
    return specs | {WAVEFORM: ArraySpec(framing.HOP, "int16", NO_SAMPLE, chunk, pack)}


def is_ours(key: str) -> bool:
    """Whether a cache has objects of this name."""
    return OURS.fullmatch(key) is not None


def require_place(storage: Storage) -> None:
    """Raise CacheError where something lies that is not a cache and not the beginning of one."""
    keys = [key for key in storage.found() if key != LOCK]
    if keys and ROOT not in keys and not _planning(storage):
        raise CacheError(
            f"{storage.uri} is not empty and holds no cache (it has {keys[0]})", "choose another --cache"
        )


def begin(storage: Storage, plan: Plan) -> None:
    """Write a plan where there is no root document.

    Raises:
        CacheError: something else lies there, and is left untouched; or the place cannot be written.
    """
    require_place(storage)
    documents = plan.documents()
    storage.require_no_links(documents)
    _clear(storage, storage.found())  # of a plan that was killed, perhaps with other inputs
    for key, data in documents.items():
        storage.put(key, data)
    storage.delete([PLANNING])


def extend(storage: Storage, plan: Plan) -> None:
    """Replace the plan by one that adds to it. Of what the old one describes only the index and the arrays' metadata
    are touched, after the root: gdist reads the copies of the one under plans/ and of the others in the root."""
    documents = plan.documents()
    late = [key for key in documents if key.endswith(f"/{ROOT}") or key == INDEX]
    storage.require_no_links(documents)
    _planning(storage)
    storage.put(PLANNING, _MARK)
    for key in [key for key in documents if key not in (*late, ROOT)] + [ROOT] + late:
        storage.put(key, documents[key])
    storage.delete([PLANNING])


def settle(storage: Storage, gdist: Mapping[str, Any]) -> None:
    """Finish what an :func:`extend` or a :func:`begin` left undone when it was killed after writing the root."""
    if not _planning(storage):
        return
    for key, data in restorable(storage, gdist).items():
        storage.put(key, data)
    storage.delete([PLANNING])


def restorable(storage: Storage, gdist: Mapping[str, Any]) -> dict[str, bytes]:
    """The planned documents that follow from the root alone, or have a sound copy beside them."""
    documents = arrays.metadata(array_specs(gdist["identity"]), gdist["packs"], {})
    del documents[ROOT]
    with suppress(CacheDamagedError):
        index = read_index(storage, gdist)
        documents |= {INDEX: index, index_key(gdist["generation"]): index}
    return documents


def remove(storage: Storage) -> None:
    """Delete the cache there, and nothing but a cache: other people's files beside it stay."""
    keys = [key for key in storage.found() if key != LOCK]
    try:
        known = _planning(storage) or read_root(storage) is not None
    except CacheDamagedError:
        known = {INDEX, f"{WAVEFORM}/{ROOT}"} <= set(keys)  # its root is damaged, but a cache it was
    if keys and not known:
        raise CacheError(
            f"--restart: {storage.uri} holds no cache, so nothing there is deleted", "choose another --cache"
        )
    if keys:
        _clear(storage, keys)


_MARK = b"gdist is at work here; without a zarr.json beside it, this is not a cache yet\n"


def _planning(storage: Storage) -> bool:
    """Whether gdist's marker lies there. CacheError where something else has its name, which is left alone."""
    try:
        mark = storage.get(PLANNING)
    except FileNotFoundError:
        return False
    if mark != _MARK:
        raise CacheError(
            f"{storage.uri}/{PLANNING} is not the file that gdist writes under this name, and is left alone",
            "move it away, or choose another --cache",
        )
    return True


def _clear(storage: Storage, keys: list[str]) -> None:
    """Leave nothing of a cache but the marker. The root goes first: half a cache must not pass for a whole one.

    Raises:
        CacheError: a link lies where a cache has a file or a folder; nothing is deleted then.
    """
    storage.require_no_links(key for key in keys if key.split("/")[0] in FOLDERS or is_ours(key))
    storage.put(PLANNING, _MARK)
    storage.sweep_staged(is_ours)
    ours = [key for key in keys if is_ours(key) and key not in (PLANNING, LOCK)]
    storage.delete(sorted(ours, key=lambda key: key != ROOT))


def read_root(storage: Storage, key: str = ROOT) -> dict[str, Any] | None:
    """The root document's gdist description; None when there is no root document."""
    try:
        data = storage.get(key)
    except FileNotFoundError:
        return None
    try:
        gdist: dict[str, Any] = unseal(data, HOLDER)["attributes"]["gdist"]
    except CacheDamagedError as error:
        raise CacheDamagedError(
            f"{storage.uri}/{key} does not describe a cache: {error.message}",
            f"gdist verify --repair {in_shell(storage.uri)} (if it was a cache), or extract again with --restart",
        ) from error
    if gdist["format"] != FORMAT:
        raise CacheError(f"{storage.uri} has cache format {gdist['format']}; this gdist reads format {FORMAT}")
    return gdist


def read_index(storage: Storage, gdist: Mapping[str, Any]) -> bytes:
    """The index, or its copy where it is damaged or that of a later plan."""
    try:
        return read_document(storage, gdist, INDEX)
    except CacheDamagedError:
        with suppress(CacheDamagedError):
            return read_document(storage, gdist, index_key(gdist["generation"]))
        raise


def read_document(storage: Storage, gdist: Mapping[str, Any], key: str) -> bytes:
    """One of the planned documents, checked against its digest in the root."""
    try:
        data = storage.get(key)
    except FileNotFoundError as error:
        raise CacheDamagedError(f"{storage.uri}/{key} is missing", f"gdist verify {in_shell(storage.uri)}") from error
    if sha256(data) != gdist["objects"].get(key):
        raise CacheDamagedError(
            f"{storage.uri}/{key} does not match its checksum", f"gdist verify {in_shell(storage.uri)}"
        )
    return data
