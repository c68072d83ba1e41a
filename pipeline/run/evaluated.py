"""What an evaluation contains: the types of its fields. What was measured may be NaN where a student diverged."""

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from gdist.pipeline.run.schema import (
    MAX_ROWS,
    MAX_TEACHERS,
    Digits,
    Layer,
    Layers,
    Machine,
    Measured,
    Name,
    Step,
    Versions,
)
from gdist.pipeline.schema import Count, Finite, Plain, Positive, Sentence, Sha256, Word


class Fidelity(TypedDict):
    """How close a student is to one layer."""

    layer: Layer
    cosine: Measured
    relative_error: Measured
    l1: NotRequired[Measured]


Rows = Annotated[list[Fidelity], Meta(max_length=MAX_ROWS)]


class Probed(TypedDict):
    """What a probe found.

    Attributes:
        low, high: the 95 % interval.
        layer_weights: how much of each layer was used.
        layer: the one that was chosen; null where all are weighed.
        shuffled: with ``--control``, the same with shuffled labels.
    """

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
    learning_rate: NotRequired[Measured | None]
    also: NotRequired[Annotated[dict[Word, Measured], Meta(max_length=64)]]
    layer_weights: NotRequired[Annotated[list[Measured], Meta(max_length=MAX_ROWS)]]
    layer: NotRequired[Annotated[int, Meta(ge=0, le=MAX_ROWS)] | None]


Probes = Annotated[dict[Word, Probed], Meta(max_length=1_024)]


class Reference(TypedDict, total=False):
    """The teacher, or log-mel, beside a student."""

    name: Sentence
    params: Positive | None
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
    absent_layers: NotRequired[Layers | None]
    predicted_layers: NotRequired[Layers | None]
    references: NotRequired[References | None]


class Weights(TypedDict):
    """Which weights an evaluation is of."""

    sha256: Sha256
    bytes: Count
    modified: Annotated[int, Meta(ge=-(2**62), le=2**62)]


class Evaluated(TypedDict):
    """eval.json and its like: what each of them must have, and the types of what else they may.

    Attributes:
        layers: of those that are cached, from layer 1 on.
        step, steps: how many it has learned from, and how many its run has.
        params_with_heads: parameters, those of distillation included.
        layer_0: whose it is: ``teacher`` if the student has its teacher's front-end, else ``own``.
        data: the fields of the config that choose utterances.
        split: what was measured on.
        minutes: of each voice in each split that were read at most; 0 is all.
        also_trained_on: how many of the split's utterances are training utterances too.
        absent_layers: of the teacher's 0 … L, those that are not cached.
        probed_layers: that probes read, of teacher and student alike.
        teachers: of a student of several teachers, the name of each → what was found of it; the other fields are
            about the first.
        probes: name → what it found.
        extensions: path and SHA-256 of probes in a file.
        packages: package and version of probes that a package announces.
    """

    mean_cosine: Measured
    layers: Rows
    run: NotRequired[Sentence]
    student: NotRequired[Name]
    step: NotRequired[Step]
    steps: NotRequired[Step]
    finished: NotRequired[bool]
    weights: NotRequired[Weights]
    params: NotRequired[Positive]
    params_with_heads: NotRequired[Positive]
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
    params: Positive
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
    params: Positive
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
