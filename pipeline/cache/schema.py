"""What the documents of a cache contain: the types of their fields, and the bounds that readers rely on.

A cache may be anybody's, and a checksum is no proof of sense: it can be computed again. What the types cannot say is
checked by coherence.py.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from gdist.pipeline.printing import OBEYED
from gdist.pipeline.schema import Count, Plain, Positive, Sentence, Sha256, Word, Xxh3

MAX_GENERATION = 9_999  # every plan that a cache ever had may be looked at, one after another
MAX_PACKS = 2**31 - 1  # a pack's number is an int32 in the index
MAX_UTTERANCES = 2**31 - 1
MAX_LAYERS = 1_024
MAX_WIDTH = 1 << 16  # numbers in a row of any array; a chunk of 128 rows then has 32 MiB at most
MAX_PACK_FRAMES = 1 << 20  # 5.8 hours at 50 frames per second
MAX_SHARD_BYTES = 1 << 31  # of a shard's rows before compression

# Sizes of documents, beyond which they are not read.
ROOT_BYTES = 1 << 26
RECEIPT_BYTES = 1 << 28  # a pack may have a million utterances in quarantine, with their reasons
SMALL_BYTES = 1 << 16  # the lock, the marker of a plan
METADATA_BYTES = 1 << 20  # one array's
CONFIG_BYTES = 1 << 24  # the teacher's config; code that a user's own encoding or family is made of
TENSOR_BYTES = 1 << 32  # a file of tensors
TABLE_BYTES = 1 << 35  # the index: some hundred bytes for an utterance; the table of a summary

Line = Annotated[str, Meta(pattern=f"^[^{OBEYED}]*$", max_length=1 << 12)]
Layer = Annotated[int, Meta(ge=0, le=MAX_LAYERS)]
Layers = Annotated[list[Layer], Meta(min_length=1, max_length=MAX_LAYERS + 1)]
Packs = Annotated[int, Meta(ge=0, le=MAX_PACKS)]
MAX_SECONDS = 1e9  # of an utterance or a batch: 31 years
Seconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]
Measure = Annotated[float, Meta(ge=0, le=1e60)]  # its square is added up
Few = Annotated[list[Plain], Meta(max_length=64)]


class Teacher(TypedDict):
    """Which teacher, in the identity."""

    family: Line
    fingerprint: Line
    num_layers: Layer
    num_params: Count
    do_normalize: bool
    final_norm: bool
    window: NotRequired[Line]
    window_samples: NotRequired[Annotated[int, Meta(ge=0, le=1 << 26)]]
    sha256: NotRequired[Sha256]


class Identity(TypedDict):
    """Everything that determines the bytes of a cache."""

    teacher: Teacher
    manifest: Line
    layers: Layers
    dim: Annotated[int, Meta(ge=1, le=MAX_WIDTH)]
    encoding: Line
    encoding_sha256: NotRequired[Sha256]
    compress: Line
    precision: Line
    sample_rate: Literal[16000]
    framing: Any  # read by framing.py, which knows what is possible
    chunk_frames: Literal[128]
    pack_frames: Annotated[int, Meta(ge=128, le=MAX_PACK_FRAMES, multiple_of=128)]
    max_seconds: Seconds
    batch_seconds: Seconds
    copied: NotRequired[Few]


class Addition(TypedDict):
    """A rectangle of packs × layers, planned at once."""

    packs: Annotated[list[Packs], Meta(min_length=2, max_length=2)]
    layers: Layers
    waveform: bool


class Description(TypedDict):
    """``attributes.gdist`` of the root document."""

    format: Count  # planning.py refuses others than its own
    generation: Annotated[int, Meta(ge=0, le=MAX_GENERATION)]
    identity: Identity
    about: Annotated[dict[str, Line], Meta(max_length=256)]
    packs: Annotated[int, Meta(ge=1, le=MAX_PACKS)]
    utterances: Annotated[int, Meta(ge=0, le=MAX_UTTERANCES)]
    frames: Count
    additions: Annotated[list[Addition], Meta(min_length=1, max_length=2 * MAX_GENERATION + 1)]
    objects: dict[Line, Sha256]
    checksum: Sha256


class ShardRecord(TypedDict):
    """What a receipt says of a shard."""

    bytes: Positive
    xxh3_128: Xxh3


class LayerMeasures(TypedDict):
    """What a receipt says of a layer's values, and of the loss from storing them."""

    rms: Measure
    max_abs: Measure
    relative_error: Measure
    cosine: Annotated[float, Meta(ge=-2, le=2)]


class Measures(TypedDict):
    """The statistics of a pack."""

    frames: Count
    layers: dict[Word, LayerMeasures]


class ReceiptDocument(TypedDict):
    """What was committed for a task."""

    pack: Packs
    utterances: Count
    objects: dict[str, ShardRecord]
    quarantine: dict[str, Sentence]
    statistics: Measures
    checksum: Sha256


class Table(TypedDict):
    """The table that belongs to a summary."""

    bytes: Positive
    sha256: Sha256


class Head(TypedDict):
    """The sealed document of a summary."""

    addition: Addition
    packs: Packs
    bytes: dict[Word, Count]
    receipt_bytes: Count
    receipts_sha256: Sha256
    quarantine: dict[str, Sentence]
    table: Table
    checksum: Sha256


class LockDocument(TypedDict, total=False):
    """Who writes to a cache."""

    token: Word
    beat: Count
    work: Line
    pid: int
    started: Any
    host: Line
    boot: Word
    processes: Word
