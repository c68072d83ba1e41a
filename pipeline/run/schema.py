"""What the documents of a run contain: the types of their fields, and the bounds that readers rely on.

A run may be anybody's. Its documents are read and written through these. What was *measured* may be NaN, as a
student that diverged has it; other numbers are finite. Fields that no reader needs are not listed.
"""

from typing import Annotated, Any, NotRequired, Required, TypedDict

from msgspec import Meta

from gdist.pipeline.schema import Count, Plain, Positive, Sentence, Sha256, Word

# Sizes of documents, beyond which they are not read.
DOCUMENT_BYTES = 1 << 24  # JSON; the largest, an evaluation of 200 layers with all probes, has some 100 kB
METRICS_BYTES = 1 << 30  # a row of 400 bytes for each of two million steps
ROW_BYTES = 1 << 16
TENSOR_BYTES = 1 << 36  # a file of tensors, where it is not known how many there should be

MAX_TEACHERS = 64
MAX_ROWS = 4_096  # layers of all teachers

Measured = float  # a number that was measured: NaN where it is undefined, and at most 1e30 (see parse)
Amount = Annotated[float, Meta(ge=0, le=1e30)]  # of time, of audio
Name = Annotated[str, Meta(min_length=1, max_length=1_024)]  # FILE.py:NAME, a path's last part, a voice
Layer = Annotated[float, Meta(ge=0, le=MAX_ROWS)]
Layers = Annotated[list[Layer], Meta(max_length=MAX_ROWS)]
Step = Annotated[int, Meta(ge=0, le=10**15)]
Digits = Annotated[str, Meta(max_length=256)]
Versions = Annotated[dict[Word, Word], Meta(max_length=64)]


class Machine(TypedDict, total=False):
    """What something was made on; bytes of ``memory``."""

    system: Word
    processor: Word
    cores: Count
    memory: Count
    gpu: Word


class TeacherRecord(TypedDict, total=False):
    """A teacher, as a run or an evaluation knows it."""

    name: Sentence
    family: Word
    fingerprint: Digits
    params: Positive | None
    num_layers: Annotated[int, Meta(ge=0, le=MAX_ROWS)]
    dim: Positive
    layers: Layers


class KnownTeacher(TeacherRecord):
    """A teacher that a student is evaluated and exported beside."""

    name: Sentence  # type: ignore[misc]
    family: Word  # type: ignore[misc]
    fingerprint: Digits  # type: ignore[misc]


class CacheRecord(TypedDict):
    """One of several caches of a run."""

    name: Name
    uri: Sentence
    checksum: Digits
    encoding: NotRequired[Name]


class StartOf(TypedDict, total=False):
    """Where the weights that a run began with come from."""

    run: Sentence
    step: Step
    steps: Step


class StartRecord(StartOf, total=False):
    """What a run began with: another student's weights."""

    folder: Required[Sentence]
    sha256: Required[Sha256]
    teacher: Plain
    exported: StartOf


class FileRecord(TypedDict):
    """One of the user's own files."""

    path: Sentence
    sha256: Sha256


class About(TypedDict, total=False):
    """run.json, whatever of it there is: what a report or an evaluation can do without."""

    cache: Sentence
    cache_checksum: Digits
    encoding: Name
    layers: Layers
    student: Name
    student_config: Plain
    params: Positive
    params_with_heads: Positive
    teacher: TeacherRecord
    caches: Annotated[list[CacheRecord], Meta(min_length=1, max_length=MAX_TEACHERS)]
    teachers: Annotated[dict[Name, TeacherRecord], Meta(min_length=1, max_length=MAX_TEACHERS)]
    ranks: Positive
    utterances: Annotated[dict[Word, Count], Meta(max_length=64)]
    also_trained_on: Annotated[dict[Word, Count], Meta(max_length=64)]
    packages: Annotated[dict[Name, Any], Meta(max_length=64)]
    versions: Versions
    machine: Machine
    extensions: Annotated[dict[Name, FileRecord], Meta(max_length=64)]
    start: StartRecord
    signature: Digits
    # Digests of what a finished run consists of: its student's weights, its other files, and all of its metrics.
    weights: Sha256
    student_files: Annotated[dict[Word, Sha256], Meta(max_length=16)]
    metrics: Sha256


class Provenance(About):
    """run.json of a run that can be gone on with, evaluated and exported."""

    cache: Sentence  # type: ignore[misc]
    cache_checksum: Digits  # type: ignore[misc]
    teacher: KnownTeacher  # type: ignore[misc]
    teachers: NotRequired[Annotated[dict[Name, KnownTeacher], Meta(min_length=1, max_length=MAX_TEACHERS)]]  # type: ignore[misc]
    signature: Digits  # type: ignore[misc]


class Carded(Provenance):
    """run.json of a run that can be exported with a model card."""

    encoding: Name  # type: ignore[misc]
    utterances: Annotated[dict[Word, Count], Meta(max_length=64)]  # type: ignore[misc]
    versions: Versions  # type: ignore[misc]


class Mark(TypedDict):
    """gdist-export.json, which an export has beside its files."""

    files: Annotated[list[Sentence], Meta(min_length=1, max_length=10_000)]
    format: NotRequired[Word]
    run: NotRequired[Name]
    step: NotRequired[Step]
    steps: NotRequired[Step]
    finished: NotRequired[bool]
    student: NotRequired[Name]
    provenance: NotRequired[About]


class Digests(TypedDict, total=False):
    """state.json of a checkpoint, as far as it is read without its run; the rest is stages/train/checkpoint.py's."""

    sha256: Annotated[dict[Word, Sha256], Meta(max_length=16)]


class Row(TypedDict):
    """A row of metrics.jsonl."""

    step: Step
    kind: Word
    steps: NotRequired[Count]
    loss: NotRequired[Measured]
    cosine: NotRequired[Measured]
    grad_norm: NotRequired[Measured]
    lr: NotRequired[Amount]
    seconds: NotRequired[Amount]
    audio_seconds: NotRequired[Amount]
    audio_seconds_per_second: NotRequired[Amount]
    data_wait_fraction: NotRequired[Amount]
    step_seconds: NotRequired[Amount]
    step_cpu_seconds: NotRequired[Amount]
    bytes_fetched: NotRequired[Count]
    bytes_local: NotRequired[Count]


class Named(TypedDict):
    """The table [student] or [loss] of a resolved config."""

    name: Name


class Steps(TypedDict):
    """The table [train] of a resolved config."""

    steps: Step  # 0 in a run that was made without training, as StudentSuite makes one to export it
    seed: NotRequired[Annotated[int, Meta(ge=0, lt=2**31)]]
    thaw_step: NotRequired[Step]


class Resolved(TypedDict):
    """config.toml of a run, as far as it is read without knowing the fields of students."""

    student: Named
    loss: NotRequired[Named]
    train: Steps
