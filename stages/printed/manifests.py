"""What the commands about manifests and plans print."""

from typing import Any, Literal, NotRequired, TypedDict


class Problem(TypedDict):
    """Why an utterance cannot be used."""

    id: str
    reason: str


class Built(TypedDict):
    """A manifest that was written.

    Attributes:
        kind: what the source was taken for.
        mixed_down: utterances measured now whose file has several channels, of which none is named.
        problems: files that cannot be read; extraction would quarantine them.
    """

    utterances: int
    columns: list[str]
    kind: str
    mixed_down: int
    problems: list[Problem]


class Exported(TypedDict):
    """A manifest in another toolkit's form.

    Attributes:
        notes: what the form cannot say and is left out.
    """

    utterances: int
    to: str
    out: str
    files: list[str]
    notes: list[str]


class Audio(TypedDict):
    """What the audio of a manifest is like.

    Attributes:
        mixed_down: utterances whose channels are averaged.
        remarks: kind → how many utterances.
        format, sample_rate, channels: value → how many utterances.
        seconds, peak_dbfs, clipped, levels: quantiles (least, 5 %, median, 95 %, most); all but the first with
            ``--audio`` only.
    """

    hours: float
    mixed_down: int
    remarks: dict[str, int]
    format: dict[str, int]
    sample_rate: dict[str, int]
    channels: dict[str, int]
    seconds: dict[str, float] | None
    peak_dbfs: dict[str, float] | None
    clipped: dict[str, float] | None
    levels: dict[str, float] | None


class Checked(TypedDict):
    """What extraction would quarantine, and what the rest is like."""

    ok: bool
    utterances: int
    problems: list[Problem]
    audio: Audio


class Speed(TypedDict):
    """The teacher's speed.

    Attributes:
        realtime_factor: seconds of audio per second.
        device: where it was measured.
        batches: that were timed.
    """

    realtime_factor: float
    source: Literal["measured", "given", "assumed"]
    device: str | None
    batches: int


class Work(TypedDict):
    """Time and money of a teacher's passes."""

    gpu_hours: float
    cost: float
    audio_hours: NotRequired[float]


class StudentRun(TypedDict):
    """What one student run reads.

    Attributes:
        direct_gets, direct_bytes, direct_cost: where it reads the cache batch by batch.
        copied_gets, copied_bytes, copied_cost: where it first copies what it reads to a local disk.
        reads: the cheaper one.
        cost: of the cheaper one.
    """

    direct_gets: int
    direct_bytes: int
    direct_cost: float
    copied_gets: int
    copied_bytes: int
    copied_cost: float
    reads: Literal["direct", "copied"]
    cost: float


class PlannedEncoding(TypedDict):
    """What a cache in one encoding would take.

    Attributes:
        bytes: of a finished cache, as an upper bound: before lossless compression.
        bytes_per_second: what has to be written to keep up with the teacher.
        objects: the exact number: documents, one shard for each array and pack, one receipt for each pack.
        puts, gets: requests of the extraction, listings included.
        requests: their cost.
        storage_month: the cost of a month.
        once: the teacher's time, the storage for all months, and the requests.
        break_even_runs: the first number n of runs with once + n · run.cost ≤ n · the cost of a run with the teacher
            online; null where a run from the cache costs no less.
    """

    name: str
    bytes: int
    fraction_of_fp32: float
    bytes_per_second: float
    objects: int
    puts: int
    gets: int
    storage_month: float
    requests: float
    once: float
    run: StudentRun
    break_even_runs: int | None


class Planned(TypedDict):
    """What a cache would take and cost.

    Attributes:
        utterance_seconds: their mean.
        extraction: the teacher's one pass.
        online_run: what one run takes more with the teacher online.
        break_even_runs: of fp16; null if never.
        prices: the table that was used.
    """

    teacher: str
    layers: list[int]
    dim: int
    precision: str
    audio_hours: float
    utterances: int
    utterance_seconds: float
    quarantined: int
    frames: int
    packs: int
    speed: Speed
    extraction: Work
    online_run: Work
    encodings: list[PlannedEncoding]
    break_even_runs: int | None
    prices: dict[str, Any]
