"""What the documents of a sweep's folder contain: the types of their fields. It may be anybody's folder."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from gdist.pipeline.run.schema import Amount, Measured, Name, Step
from gdist.pipeline.schema import Sentence

SWEEP_BYTES = 1 << 28  # sweep.json: some kB for each of 100,000 runs

Part = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^(?!\.{1,2}$)[^/\x00-\x1f\x7f]+$")]  # of a path
Code = Annotated[int, Meta(ge=-(2**31), le=2**31)]
Words = Annotated[list[Sentence], Meta(max_length=10_000)]


class StoppedRecord(TypedDict, total=False):
    """Why a point was stopped early."""

    rung: Annotated[int, Meta(ge=0, le=1_000)]
    step: Step
    reason: Sentence


class PointRecord(TypedDict):
    """One run of a sweep."""

    name: Sentence  # empty where a file has one point
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    signature: Part
    run: Part
    varied: NotRequired[Annotated[dict[Name, Any], Meta(max_length=1_000)] | None]
    recipe: NotRequired[Sentence | None]
    settings: NotRequired[Words | None]
    alternative: NotRequired[Annotated[str, Meta(max_length=1_024)] | None]
    trial: NotRequired[Annotated[int, Meta(ge=0, le=10**9)] | None]
    stopped: NotRequired[StoppedRecord | None]


class JudgeRecord(TypedDict, total=False):
    """What points are judged by."""

    metric: Name
    split: Literal["valid", "test"]
    probes: Sentence
    minutes: Amount
    cache: Sentence | None


class Call(TypedDict):
    """One call of `gdist sweep`."""

    seconds: Amount
    began: NotRequired[Sentence]


class SweepRecord(TypedDict):
    """sweep.json."""

    points: Annotated[list[PointRecord], Meta(max_length=1_000_000)]
    name: NotRequired[Name]
    judge: NotRequired[JudgeRecord | None]
    wall: NotRequired[Annotated[list[Call], Meta(max_length=1_000_000)] | None]


class Failure(TypedDict, total=False):
    """failed/SIGNATURE.json."""

    name: Sentence
    exit_code: Code
    log: Words


class Member(TypedDict):
    """One run of several that a process trains together."""

    arguments: Words
    log: Sentence
    exit_code: NotRequired[Code]


class Together(TypedDict):
    """logs/together-….json, by which a sweep and such a process talk."""

    members: Annotated[list[Member], Meta(min_length=1, max_length=10_000)]
    ended: NotRequired[bool]


class Ratio(TypedDict):
    """What was measured of one pair of points whose trainings are to cost the same."""

    ratio: Annotated[float, Meta(gt=0, le=1e6)]
    points: NotRequired[Annotated[list[Sentence], Meta(max_length=2)]]
    step_seconds: NotRequired[Annotated[list[Measured], Meta(max_length=2)]]
    of: NotRequired[Name]


Ratios = Annotated[dict[Name, Ratio], Meta(max_length=100_000)]
"""equal.json"""
