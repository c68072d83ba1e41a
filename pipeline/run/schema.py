"""What the documents of a run contain: the types of their fields, and the bounds that readers rely on.

A run may be anybody's. Its documents are read and written through these. What was *measured* may be NaN, as a
student that diverged has it; other numbers are finite. Fields that no reader needs are not listed.
"""

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from gdist.pipeline.schema import Count, Finite, Plain, Positive, Sentence, Sha256, Word

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
Machine = Annotated[dict[Word, Word | Count], Meta(max_length=16)]


class TeacherRecord(TypedDict, total=False):
    """A teacher, as a run or an evaluation knows it."""

    name: Sentence
    family: Word
    fingerprint: Digits
    params: Count | None
    num_layers: Annotated[int, Meta(ge=0, le=MAX_ROWS)]
    dim: Positive
    layers: Layers


class CacheRecord(TypedDict):
    """One of several caches of a run."""

    name: Name
    uri: Sentence
    checksum: Digits
    encoding: NotRequired[Name]


class StartRecord(TypedDict):
    """What a run began with: another student's weights."""

    folder: Sentence
    sha256: Sha256
    step: NotRequired[Step]
    run: NotRequired[Sentence]
    teacher: NotRequired[Plain]


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
    params: Count
    params_with_heads: Count
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
    teacher: TeacherRecord  # type: ignore[misc]
    signature: Digits  # type: ignore[misc]


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


class Fidelity(TypedDict):
    """How close a student is to one layer."""

    layer: Layer
    cosine: Measured
    relative_error: Measured


Rows = Annotated[list[Fidelity], Meta(max_length=MAX_ROWS)]


class Probed(TypedDict):
    """What a probe found."""

    value: Measured
    higher_is_better: bool
    title: NotRequired[Sentence]
    metric: NotRequired[Word]
    low: NotRequired[Measured]
    high: NotRequired[Measured]
    chance: NotRequired[Measured]
    test_items: NotRequired[Count]
    train_items: NotRequired[Count]
    classes: NotRequired[Count]
    shuffled: NotRequired[Measured | None]
    layer_weights: NotRequired[Annotated[list[Measured], Meta(max_length=MAX_ROWS)]]
    layer: NotRequired[Annotated[int, Meta(ge=0, le=MAX_ROWS)] | None]


Probes = Annotated[dict[Word, Probed], Meta(max_length=1_024)]


class Reference(TypedDict, total=False):
    """The teacher, or log-mel, beside a student."""

    name: Sentence
    params: Count | None
    fingerprint: Digits
    probes: Probes


class References(TypedDict, total=False):
    """The two trivial predictions."""

    mean_frame: Rows
    copy_h0: Rows


class OfTeacher(TypedDict):
    """What was found of one of several teachers."""

    mean_cosine: Measured
    layers: Rows
    name: NotRequired[Sentence]
    fingerprint: NotRequired[Digits]


class Weights(TypedDict):
    """Which weights an evaluation is of."""

    sha256: Sha256
    bytes: Count
    modified: Annotated[int, Meta(ge=-(2**62), le=2**62)]


class Evaluated(TypedDict):
    """eval.json and its like: what each of them must have, and the types of what else they may."""

    mean_cosine: Measured
    layers: Rows
    run: NotRequired[Sentence]
    student: NotRequired[Name]
    step: NotRequired[Step]
    steps: NotRequired[Step]
    finished: NotRequired[bool]
    weights: NotRequired[Weights]
    params: NotRequired[Count]
    params_with_heads: NotRequired[Count]
    predicted_layers: NotRequired[Layers | None]
    layer_0: NotRequired[Word]
    cache: NotRequired[Sentence]
    cache_checksum: NotRequired[Digits]
    data: NotRequired[Plain]
    split: NotRequired[Word]
    minutes: NotRequired[Annotated[float, Meta(ge=0, le=1e9)]]
    utterances: NotRequired[Count]
    also_trained_on: NotRequired[Count]
    frames: NotRequired[Count]
    absent_layers: NotRequired[Layers | None]
    probed_layers: NotRequired[Layers | None]
    teachers: NotRequired[Annotated[dict[Name, OfTeacher], Meta(max_length=MAX_TEACHERS)]]
    mean_cosine_of_all: NotRequired[Measured]
    references: NotRequired[References | None]
    probes: NotRequired[Probes | None]
    teacher: NotRequired[Reference | None]
    log_mel: NotRequired[Reference | None]
    extensions: NotRequired[Annotated[dict[Name, Any], Meta(max_length=64)]]
    packages: NotRequired[Annotated[dict[Name, Any], Meta(max_length=64)]]
    versions: NotRequired[Versions]
    machine: NotRequired[Machine]


class Probing(TypedDict):
    """The teacher, or log-mel, in a complete evaluation."""

    probes: Probes


class Complete(TypedDict):
    """What an evaluation must also have that says of which weights it is: earlier versions wrote neither."""

    run: Sentence
    student: Name
    weights: Weights
    params: Count
    cache: Sentence
    split: Word
    minutes: Annotated[float, Meta(ge=0, le=1e9)]
    utterances: Count
    frames: Count
    absent_layers: Layers
    probes: Probes
    teacher: Probing
    log_mel: Probing


class Shown(TypedDict):
    """What a report needs of an evaluation."""

    layers: Annotated[list[Fidelity], Meta(min_length=1, max_length=MAX_ROWS)]
    params: Count
    utterances: Count
    split: Word
    probes: NotRequired[dict[str, "ShownProbe"] | None]


class ShownProbe(TypedDict):
    """What a report needs of a probe."""

    title: Sentence
    metric: Word
    value: Finite
    low: Measured
    high: Measured
    chance: Measured
    higher_is_better: bool


class Named(TypedDict):
    """The table [student] of a resolved config."""

    name: Name


class Steps(TypedDict):
    """The table [train] of a resolved config."""

    steps: Step  # 0 in a run that was made without training, as StudentSuite makes one to export it


class Resolved(TypedDict):
    """config.toml of a run, as far as it is read without knowing the fields of students."""

    student: Named
    train: Steps
