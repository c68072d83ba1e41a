"""The cache before its first byte: every document that describes it, and the seals that guard them.

The plan follows from the manifest and the teacher alone. Its documents are written before the teacher runs:

    planning   a marker, first: what lies here without a root document is ours, and may be replaced
    …          index, array metadata, the teacher's files
    zarr.json  the root document, last: there is a complete plan
               and the marker is taken away

so a process may be killed at any point, and a folder that is not ours is never written to.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gdist.pipeline import arrays, framing, layout
from gdist.pipeline.arrays import ArraySpec
from gdist.pipeline.encodings import encoding
from gdist.pipeline.errors import CacheDamagedError, CacheError
from gdist.pipeline.layout import Entry
from gdist.pipeline.storage import Storage, seal, sha256, unseal

FORMAT = 1
ROOT, INDEX, WAVEFORM = "zarr.json", "index.parquet", "waveform"
PLANNING = "planning"
HOLDER = ("attributes", "gdist")  # where the root document's seal lies
OURS = re.compile(
    r"zarr\.json|planning|index\.parquet|teacher/[^/]+|receipts/\d+\.json"
    r"|((layers|scales)(/\d+)?|waveform)/zarr\.json|((layers|scales)/\d+|waveform)/c/\d+/\d+"
)
NO_SAMPLE = -32_768  # fills the waveform where nothing was written; audio is clipped to ±32,767


def layer_name(layer: int) -> str:
    """The array of a layer; 0 is the first Transformer layer's input."""
    return f"layers/{layer:02d}"


def receipt_key(pack: int) -> str:
    """The object whose presence says that ``pack`` is done."""
    return f"receipts/{pack:05d}.json"


@dataclass(frozen=True)
class Plan:
    """A cache before its first byte.

    Attributes:
        identity: JSON-able description of the inputs; two plans with the same identity give the same bytes.
            Has at least ``layers``, ``dim``, ``encoding``, ``chunk_frames``, ``pack_frames``.
        about: versions of the software, names, the device: recorded, not compared.
        entries: one an utterance, in the manifest's order.
        labels: the manifest's label columns, row for row.
        teacher_files: name → bytes, stored under ``teacher/``.
    """

    identity: dict[str, Any]
    about: dict[str, str]
    entries: list[Entry]
    labels: pa.Table | None = None
    teacher_files: dict[str, bytes] = field(default_factory=dict)

    @property
    def packs(self) -> int:
        """How many packs there will be; at least one, so that quarantine records have a receipt to lie in."""
        return max((entry.pack for entry in self.entries), default=0) + 1

    def documents(self) -> dict[str, bytes]:
        """Key → bytes of everything that exists before the first pack; the root document comes last."""
        specs = array_specs(self.identity)
        metadata = arrays.metadata(specs, self.packs, {})
        buffer = io.BytesIO()
        pq.write_table(layout.to_table(self.entries, self.labels), buffer, compression="zstd")
        documents = {f"teacher/{name}": data for name, data in self.teacher_files.items()}
        documents |= {key: data for key, data in metadata.items() if key != ROOT} | {INDEX: buffer.getvalue()}
        gdist = {
            "format": FORMAT,
            "identity": self.identity,
            "about": self.about,
            "packs": self.packs,
            "utterances": len(self.entries),
            "frames": sum(entry.num_frames for entry in self.entries),
            "objects": {key: sha256(data) for key, data in documents.items()},
        }
        root = arrays.parse(metadata[ROOT]) | {"attributes": {"gdist": gdist}}
        return documents | {ROOT: seal(root, gdist)}


def array_specs(identity: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """Name → shape and type of every array of a cache."""
    kind, rows = encoding(identity["encoding"]), (identity["chunk_frames"], identity["pack_frames"])
    specs = {
        layer_name(layer): ArraySpec(identity["dim"], kind.dtype, kind.fill_value, *rows)
        for layer in identity["layers"]
    }
    return specs | {WAVEFORM: ArraySpec(framing.HOP, "int16", NO_SAMPLE, *rows)}


def is_ours(key: str) -> bool:
    """Whether a cache has objects of this name."""
    return OURS.fullmatch(key) is not None


def begin(storage: Storage, plan: Plan) -> None:
    """Write a plan where there is no root document.

    Raises:
        CacheError: something else lies there, and is left untouched; or the place cannot be written.
    """
    keys = storage.objects()
    if keys and PLANNING not in keys:
        raise CacheError(
            f"{storage.uri} is not empty and holds no cache (it has {next(iter(keys))})", "choose another --cache"
        )
    _clear(storage, list(keys))  # of a plan that was killed, perhaps with other inputs
    for key, data in plan.documents().items():
        storage.put(key, data)
    storage.delete([PLANNING])


def remove(storage: Storage) -> None:
    """Delete the cache there, and nothing but a cache: other people's files beside it stay."""
    keys = storage.objects()
    try:
        known = PLANNING in keys or read_root(storage) is not None
    except CacheDamagedError:
        known = {INDEX, f"{WAVEFORM}/{ROOT}"} <= keys.keys()  # its root is damaged, but a cache it was
    if keys and not known:
        raise CacheError(
            f"--restart: {storage.uri} holds no cache, so nothing there is deleted", "choose another --cache"
        )
    if keys:
        _clear(storage, list(keys))


def _clear(storage: Storage, keys: list[str]) -> None:
    """Leave nothing of a cache but the marker. The root goes first: half a cache must not pass for a whole one."""
    storage.put(PLANNING, b"gdist is at work here; without a zarr.json beside it, this is not a cache yet\n")
    storage.sweep_staged(is_ours)
    ours = [key for key in keys if is_ours(key) and key != PLANNING]
    storage.delete(sorted(ours, key=lambda key: key != ROOT))


def read_root(storage: Storage) -> dict[str, Any] | None:
    """The root document's gdist description; None when there is no root document."""
    try:
        data = storage.get(ROOT)
    except FileNotFoundError:
        return None
    try:
        gdist: dict[str, Any] = unseal(data, HOLDER)["attributes"]["gdist"]
    except CacheDamagedError as error:
        raise CacheDamagedError(
            f"{storage.uri}/{ROOT} does not describe a cache: {error.message}",
            "it was damaged or is not a gdist cache; restore that file, or extract again with --restart",
        ) from error
    if gdist["format"] != FORMAT:
        raise CacheError(f"{storage.uri} has cache format {gdist['format']}; this gdist reads format {FORMAT}")
    return gdist


def read_document(storage: Storage, gdist: Mapping[str, Any], key: str) -> bytes:
    """One of the planned documents, checked against its digest in the root."""
    try:
        data = storage.get(key)
    except FileNotFoundError as error:
        raise CacheDamagedError(f"{storage.uri}/{key} is missing", f"gdist verify {storage.uri}") from error
    if sha256(data) != gdist["objects"].get(key):
        raise CacheDamagedError(f"{storage.uri}/{key} does not match its checksum", f"gdist verify {storage.uri}")
    return data
