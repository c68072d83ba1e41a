"""The plan of a cache: every document that describes it, made from the manifest and the teacher alone.

A later plan may add packs (the manifest grew) and layers: it replaces the index and the root document. Processes that
opened the cache with the old root continue with the copies of both.
"""

import io
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gdist.pipeline.cache import arrays, index
from gdist.pipeline.cache.arrays import ArraySpec
from gdist.pipeline.cache.encodings import ENCODINGS, Encoding, encoding
from gdist.pipeline.cache.entries import Entries
from gdist.pipeline.errors import CacheError, CacheMismatchError
from gdist.pipeline.framing import Framing
from gdist.pipeline.storage.objects import seal, sha256
from gdist.pipeline.storage.paths import is_uri

FORMAT = 1

ROOT, INDEX, WAVEFORM = "zarr.json", "index.parquet", "waveform"

HOLDER = ("attributes", "gdist")  # where the root document's seal is

NO_SAMPLE = -32_768  # fills the waveform where nothing was written; audio is clipped to ±32,767


@dataclass(frozen=True)
class Task:
    """The unit of work: some layers of one pack, written and committed together.

    Attributes:
        waveform: whether the pack is new, so that its audio is part of the task; else only layers are added.
        receipt: the object whose presence shows that the task is done.
        addition: the number of the addition that it is a part of, see :meth:`Plan.additions`.
    """

    pack: int
    layers: tuple[int, ...]
    waveform: bool
    receipt: str
    addition: int


@dataclass(frozen=True)
class Plan:
    """A cache before its first byte is written, or before it grows.

    Attributes:
        identity: JSON-serializable description of the inputs; two plans with the same identity give the same bytes.
            Has at least ``layers``, ``dim``, ``encoding``, ``compress``, ``framing``, ``chunk_frames`` and
            ``pack_frames``.
        about: versions of the software, names, the device: recorded, not compared.
        entries: one per utterance; those of ``before`` come first, unchanged.
        labels: the manifest's label columns, row for row.
        teacher_files: name → bytes, stored under ``teacher/``.
        before: the description in the root document that this plan adds to; None for a new cache.
    """

    identity: dict[str, Any]
    about: dict[str, str]
    entries: Entries
    labels: pa.Table | None = None
    teacher_files: dict[str, bytes] = field(default_factory=dict)
    before: Mapping[str, Any] | None = None

    @property
    def packs(self) -> int:
        """How many packs there will be; at least one, so that there is a receipt for quarantine records."""
        return int(self.entries.numbers("pack").max(initial=0)) + 1

    @property
    def generation(self) -> int:
        """0 for the first plan of a cache, one more for each plan that adds to it."""
        return 0 if self.before is None else int(self.before["generation"]) + 1

    @property
    def new_layers(self) -> list[int]:
        """Layers that ``before`` does not have; all layers for a new cache."""
        old = self.before["identity"]["layers"] if self.before else []
        return [layer for layer in self.identity["layers"] if layer not in old]

    def additions(self) -> list[dict[str, Any]]:
        """Return what the cache is made of: rectangles of packs × layers, in the order they were planned."""
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
        """Whether the existing cache already contains everything (or will, once it is finished)."""
        return self.before is not None and self.identity == self.before["identity"]

    def documents(self) -> dict[str, bytes]:
        """Return key → bytes of everything that exists before the first pack, the root document last."""
        specs = array_specs(self.identity)
        metadata = arrays.metadata(specs, self.packs, {})
        buffer = io.BytesIO()
        pq.write_table(index.to_table(self.entries, self.labels), buffer, compression="zstd")
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
            "frames": int(self.entries.numbers("num_frames").sum(dtype=np.int64)),
            "additions": self.additions(),
            "objects": kept | {key: sha256(data) for key, data in documents.items()},
        }
        root = seal(arrays.parse(metadata[ROOT]) | {"attributes": {"gdist": gdist}}, gdist)
        return documents | {plan_key(self.generation): root, ROOT: root}


def layer_name(layer: int, folder: str = "layers") -> str:
    """Return the name of a layer's array; layer 0 is the first Transformer layer's input."""
    return f"{folder}/{layer:02d}"


def layer_arrays(identity: Mapping[str, Any], layers: Sequence[int]) -> list[str]:
    """Return the arrays that some layers are stored in."""
    folders = encoding(identity["encoding"]).parts(identity["dim"])
    return [layer_name(layer, folder) for folder in folders for layer in layers]


def _receipt_name(pack: int, number: int, addition: Mapping[str, Any]) -> str:
    return f"receipts/{pack:05d}.json" if addition["waveform"] else f"receipts/{pack:05d}-{number}.json"


def receipt_of(gdist: Mapping[str, Any], pack: int, array: str) -> tuple[int, str]:
    """Return the number of the addition that one array's shard of ``pack`` belongs to, and the key of its receipt."""
    layer = None if array == WAVEFORM else int(array.rpartition("/")[2])
    for number, addition in enumerate(gdist["additions"]):
        if pack in range(*addition["packs"]) and (
            addition["waveform"] if layer is None else layer in addition["layers"]
        ):
            return number, _receipt_name(pack, number, addition)
    raise AssertionError(f"nothing was planned for {array} of pack {pack}")


def plan_key(generation: int) -> str:
    """Return the key of the root document's copy, which stays when the cache grows."""
    return f"plans/{generation:05d}.json"


def index_key(generation: int) -> str:
    """Return the key of the index's copy, which stays when the cache grows."""
    return f"plans/{generation:05d}.parquet"


class Tasks(Sequence[Task]):
    """All tasks of a cache, in order, each made when it is asked for: large caches have a million."""

    def __init__(self, gdist: Mapping[str, Any]) -> None:
        self.additions: list[Mapping[str, Any]] = gdist["additions"]
        self.packs = [range(*addition["packs"]) for addition in self.additions]
        self._with_audio = [number for number, addition in enumerate(self.additions) if addition["waveform"]]
        self._layers = [number for number, addition in enumerate(self.additions) if not addition["waveform"]]
        self._begins = [self.packs[number].start for number in self._with_audio]

    def __len__(self) -> int:
        return sum(map(len, self.packs))

    @overload
    def __getitem__(self, place: int) -> Task: ...
    @overload
    def __getitem__(self, place: slice) -> list[Task]: ...
    def __getitem__(self, place: int | slice) -> Task | list[Task]:
        places = range(len(self))[place]
        if isinstance(places, range):
            return [self[each] for each in places]
        for number, packs in enumerate(self.packs):
            if places < len(packs):
                return self._task(number, packs[places])
            places -= len(packs)
        raise AssertionError("a range checks its own bounds")

    def __iter__(self) -> Iterator[Task]:
        return (self._task(number, pack) for number, packs in enumerate(self.packs) for pack in packs)

    def of_addition(self, number: int) -> Iterator[Task]:
        """Yield the tasks of one addition."""
        return (self._task(number, pack) for pack in self.packs[number])

    def of_pack(self, pack: int) -> list[Task]:
        """Return the tasks of one pack: the first, and one for each time that layers were added."""
        first = self._with_audio[bisect_right(self._begins, pack) - 1 :][:1]  # additions of packs follow each other
        return [self._task(number, pack) for number in (*first, *self._layers) if pack in self.packs[number]]

    def _task(self, number: int, pack: int) -> Task:
        addition = self.additions[number]
        name = _receipt_name(pack, number, addition)
        return Task(pack, tuple(addition["layers"]), addition["waveform"], name, number)


def encoding_of(identity: Mapping[str, Any], uri: str) -> Encoding:
    """Return the encoding of a cache.

    Raises:
        ConfigError: it comes from a file, which the user has to name.
        CacheMismatchError: the named file is not the one that the cache was extracted with.
    """
    name, recorded = identity["encoding"], identity.get("encoding_sha256")
    kept = "path/to" if is_uri(uri) else f"{uri}/teacher"
    found = ENCODINGS.find(name, f"the cache at {uri} is stored in {name}", kept)
    extension = ENCODINGS.extension(name)
    if (extension.sha256 if extension else None) != recorded:
        file = name.partition(":")[0]
        raise CacheMismatchError(
            f"{file} is not the file that the cache at {uri} was extracted with",
            f"the cache has a copy of that file, {uri}/teacher/{file}: review it, and name it or a copy of it",
        )
    return found


def framing_of(identity: Mapping[str, Any], uri: str) -> Framing:
    """Return how the frames of a cache lie on its samples.

    Raises:
        CacheError: it is nonsense.
    """
    try:
        return Framing.from_dict(identity["framing"])
    except ValueError as error:
        raise CacheError(f"the cache at {uri} has a framing that no teacher has: {error}") from error


def require_revision(identity: Mapping[str, Any], uri: str) -> None:
    """Raise CacheError where a cache was made by an earlier revision of gdist, before the first release."""
    if "compress" not in identity:
        which = "whose receipts this one cannot check"
    elif "framing" not in identity:
        which = "which did not record how its frames lie on its samples"
    else:
        return
    raise CacheError(
        f"the cache at {uri} was made by an earlier revision of gdist, {which}",
        "extract it again: the same `gdist extract` with --restart (deletes the cache), or with another --cache",
    )


def array_specs(identity: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """Return name → shape and type of every array of a cache."""
    chunk, pack, compress = identity["chunk_frames"], identity["pack_frames"], identity["compress"]
    specs = {
        layer_name(layer, folder): (
            ArraySpec(part.width, part.dtype, part.fill_value, 1, pack // chunk, compress)
            if part.per_chunk
            else ArraySpec(part.width, part.dtype, part.fill_value, chunk, pack, compress)
        )
        for folder, part in encoding(identity["encoding"]).parts(identity["dim"]).items()
        for layer in identity["layers"]
    }
    return specs | {WAVEFORM: ArraySpec(identity["framing"]["hop"], "int16", NO_SAMPLE, chunk, pack, compress)}
