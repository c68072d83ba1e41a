"""What the commands about one student print."""

from typing import Any, NotRequired, TypedDict

from gdist.pipeline.run.evaluated import Evaluated
from gdist.stages.printed.caches import Extracted, Findings


class Trained(TypedDict):
    """A training; the means are over all of its steps, and null where no step was taken.

    Attributes:
        step_cpu_seconds: of this process, all its threads.
        data_wait_fraction: of a step's time.
        bytes_fetched: of shards, from a bucket.
        bytes_local: instead, from the local folder.
    """

    steps: int
    loss: float | None
    step_seconds: float | None
    step_cpu_seconds: float | None
    data_wait_fraction: float | None
    audio_seconds_per_second: float | None
    bytes_fetched: int
    bytes_local: int


class Exported(TypedDict):
    """An export.

    Attributes:
        step, steps: how many it has learned from, and how many its run has.
        max_difference: of any hidden state, loaded back.
        code: of ``hf`` and ``s3prl``: the modules that ship.
        entry: of ``s3prl``: its name in hubconf.py.
        quantize, precision, opset: of ``onnx``.
        fidelity: of int8 and fp16, to the float32 student.
    """

    format: str
    out: str
    run: str
    step: int
    steps: int
    finished: bool
    student: str
    params: int
    params_with_heads: int
    max_difference: float
    files: list[str]
    bytes: int
    code: NotRequired[list[str]]
    entry: NotRequired[str]
    quantize: NotRequired[str | None]
    precision: NotRequired[str]
    opset: NotRequired[int]
    fidelity: NotRequired[dict[str, Any] | None]


class Demo(TypedDict):
    """The demo: what each of its commands printed.

    Attributes:
        train: student → its training.
        beats_references: student → layer → whether it is closer to the teacher than both references.
        report: the page.
    """

    extract: Extracted
    verify: Findings
    train: dict[str, Trained]
    eval: list[Evaluated]
    beats_references: dict[str, dict[str, bool]]
    report: str
