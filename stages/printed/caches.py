"""What the commands about caches print."""

from typing import Any, Literal, NotRequired, TypedDict


class LayerStatistics(TypedDict):
    """What is stored of a layer.

    Attributes:
        rms: root mean square of the values.
        max_abs: the largest |x|.
        relative_error, snr_db, cosine: of what is stored against what was computed; the ratio in dB is null where
            nothing was lost.
    """

    layer: int
    rms: float
    max_abs: float
    relative_error: float
    snr_db: float | None
    cosine: float


class Remark(TypedDict):
    """Something that was noticed of audio."""

    utterances: int
    example: str


class _Extraction(TypedDict):
    utterances: int
    frames: int
    audio_seconds: float
    bytes: int
    packs: int
    packs_resumed: int
    quarantined: int
    quarantine: dict[str, str]


class Extracted(_Extraction):
    """A finished cache.

    Attributes:
        utterances, frames, audio_seconds: of what is stored.
        bytes: of everything in it.
        packs_resumed: packs that were there already.
        quarantined: how many utterances are in quarantine.
        quarantine: id → reason.
        seconds: that this call took.
        realtime_factor: seconds of audio per second, in this call.
        remarks: kind → what was noticed of audio that this process decoded.
    """

    seconds: float
    realtime_factor: float
    layers: list[LayerStatistics]
    remarks: dict[str, Remark]


class WouldExtract(_Extraction):
    """With ``--dry-run``.

    Attributes:
        utterances, frames, audio_seconds: of what would be stored.
        bytes: an upper bound.
        packs_resumed: packs that are there already.
        quarantined: how many utterances would be in quarantine by what is known before audio is read.
        quarantine: id → reason.
        objects: shards and receipts.
    """

    objects: int


class CacheSummary(TypedDict):
    """A cache that was found.

    Attributes:
        teacher: its name.
        audio_seconds: of the planned frames.
        tasks, tasks_done: packs, counted once more for each addition of layers.
        whole: whether everything that was planned is there.
        locked: an extraction writes to it, or was killed.
        changed: when it was last written.
    """

    uri: str
    teacher: str
    audio_seconds: float
    utterances: int
    layers: list[int]
    dim: int
    encoding: str
    bytes: int
    tasks: int
    tasks_done: int
    whole: bool
    locked: bool
    changed: str


class Note(TypedDict):
    """A place, and what is wrong with it or why it was not looked at."""

    uri: str
    reason: str


class Found(TypedDict):
    """The caches at and below a location.

    Attributes:
        folders: how many were looked at.
    """

    uri: str
    caches: list[CacheSummary]
    problems: list[Note]
    not_looked_at: list[Note]
    folders: int


class StoredLayer(TypedDict):
    """A layer of a cache; all but the first two only where a pack is done."""

    layer: int
    bytes: int
    rms: NotRequired[float]
    max_abs: NotRequired[float]
    relative_error: NotRequired[float]
    snr_db: NotRequired[float | None]
    cosine: NotRequired[float]


class Inspected(TypedDict):
    """What a cache contains.

    Attributes:
        identity: what determines the bytes.
        about: versions and names.
        quarantine: id → reason.
    """

    uri: str
    format: int
    identity: dict[str, Any]
    about: dict[str, Any]
    utterances: int
    frames: int
    audio_seconds: float
    bytes: int
    objects: int
    packs: int
    packs_done: int
    layers: list[StoredLayer]
    quarantine: dict[str, str]


class Damage(TypedDict):
    """A damaged object.

    Attributes:
        message: all of it, in words.
        utterances: whose data is damaged.
    """

    object: str
    reason: str
    message: str
    pack: NotRequired[int | None]
    array: NotRequired[str | None]
    utterances: NotRequired[list[str]]


class Verified(TypedDict):
    """Whether every byte is as it was written.

    Attributes:
        packs_missing: packs to extract: of which data is missing, not only a receipt.
        repaired: keys of the objects that were written again.
    """

    ok: bool
    packs: int
    packs_missing: list[int]
    bad: list[Damage]
    repaired: list[str]


class Copied(TypedDict):
    """A copy.

    Attributes:
        options: what makes it a cache of its own; empty for the same cache.
        packs_missing: those that the source does not have yet.
        objects_kept, bytes_kept: there and right.
        by_store: whether the store copied by itself.
        newly_quarantined: ids of utterances that the encoding cannot store.
    """

    source: str
    cache: str
    options: str
    utterances: int
    frames: int
    audio_seconds: float
    bytes: int
    packs: int
    packs_missing: list[int]
    objects_sent: int
    bytes_sent: int
    objects_kept: int
    bytes_kept: int
    by_store: bool
    seconds: float
    quarantined: int
    quarantine: dict[str, str]
    newly_quarantined: list[str]
    layers: list[LayerStatistics]


class WouldCopy(TypedDict):
    """With ``--dry-run``.

    Attributes:
        bytes: to be sent; an upper bound with ``--encoding`` or ``--where``.
        objects_kept, bytes_kept: there, with the right size.
        egress_bytes: read from buckets, also to check what was written.
    """

    source: str
    cache: str
    packs: int
    objects: int
    bytes: int
    objects_kept: int
    bytes_kept: int
    by_store: bool
    gets: int
    puts: int
    egress_bytes: int
    cost: float
    currency: str


class Cleared(TypedDict):
    """What was deleted."""

    shards: int
    bytes: int


class KeptCache(TypedDict):
    """What is kept of one cache."""

    cache: str
    teacher: str | None
    shards: int
    bytes: int
    used_by: str | None
    used_at: str | None


class Kept(TypedDict):
    """What the local folder has."""

    folder: str
    cleared: Cleared
    caches: list[KeptCache]


class ExportedFeatures(TypedDict):
    """Hidden states or tokens for another tool.

    Attributes:
        format: ``km`` for tokens.
        matrices: their names, or that of the sum.
        weights: one per layer; null where each layer is on its own.
        clusters: of k-means, else null.
        left_out: utterances that are in quarantine in the cache.
        bytes: of the pieces.
        pieces_resumed: pieces that were there already.
        usage: how to read it.
    """

    format: str
    out: str
    cache: str
    layers: list[int]
    matrices: list[str]
    weights: list[float] | None
    dtype: Literal["float32", "float16", "int32", "int64", "uint16"] | str
    dim: int
    clusters: int | None
    utterances: int
    left_out: int
    frames: int
    audio_seconds: float
    bytes: int
    pieces: int
    pieces_resumed: int
    seconds: float
    usage: str
