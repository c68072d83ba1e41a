"""What the commands about caches print."""

from typing import Any, NotRequired, TypedDict


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


class RemarkExample(TypedDict):
    """An utterance of which it was noticed, and what that was."""

    id: str
    what: str


class Remark(TypedDict):
    """Something that was noticed of audio."""

    utterances: int
    example: RemarkExample


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


class Findings(TypedDict):
    """Whether every byte is as it was written.

    Attributes:
        packs_missing: packs to extract: of which data is missing, not only a receipt.
    """

    ok: bool
    packs: int
    packs_missing: list[int]
    bad: list[Damage]


class Verified(Findings):
    """Whether every byte is as it was written.

    Attributes:
        packs_missing: packs to extract: of which data is missing, not only a receipt.
        repaired: keys of the objects that were written again.
    """

    repaired: list[str]
