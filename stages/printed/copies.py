"""What the commands print that bring what a cache has to another place."""

from typing import TypedDict

from gdist.stages.printed.caches import LayerStatistics


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
    dtype: str
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
