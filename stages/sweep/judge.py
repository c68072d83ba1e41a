"""What the points of a sweep are judged by: the table `[judge]` of its file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gdist.pipeline.config import build, did_you_mean, require
from gdist.pipeline.errors import ConfigError
from gdist.stages.standings.ranking import OF_EVAL, OF_TRAINING

METRICS = OF_TRAINING | {OF_EVAL: True}  # those that are no probe → whether higher is better


@dataclass(frozen=True)
class Judge:
    """What points are judged by.

    Attributes:
        metric: ``cosine`` or ``loss`` of the last validation in training, or a field of ``gdist eval``:
            ``mean_cosine``, or the name of a probe.
        split, probes, minutes: as of ``gdist eval``; it runs only where the metric is one of its own.
        cache: evaluate all points on this one, by the name of it on the command line, or its URI; by default each is
            evaluated on the cache that it was trained from.
    """

    metric: str = "cosine"
    split: str = "valid"
    probes: str = "none"
    minutes: float = 0.0
    cache: str | None = None

    def __post_init__(self) -> None:
        require(self.split in ("valid", "test"), f"judge.split = {self.split!r}: not one of valid, test")
        require(self.minutes >= 0, f"judge.minutes = {self.minutes}: must be 0 (all) or more")
        require(bool(self.metric), "judge.metric is empty", "cosine, loss, mean_cosine, or the name of a probe")

    @property
    def higher_is_better(self) -> bool:
        """
        Raises:
            ConfigError: the metric is none of training, and none of the probes that are measured.
        """
        if self.metric in METRICS:
            return METRICS[self.metric]
        from gdist.stages.evaluate.probes import PROBES, probes_named  # takes seconds, and most sweeps need none

        try:
            probes = probes_named(self.probes)
        except ConfigError as error:
            reason = error.message.removeprefix("--")
            raise ConfigError(f"judge.metric = {self.metric!r}, {reason}", error.hint) from error
        if self.metric not in probes:
            known = did_you_mean(self.metric, [*METRICS, *(probes or PROBES)])
            raise ConfigError(f"judge.metric = {self.metric!r} is not measured by probes = {self.probes!r}", known)
        return probes[self.metric].higher_is_better

    @property
    def evaluates(self) -> bool:
        return self.metric not in OF_TRAINING or self.probes != "none"


def read_judge(table: Mapping[str, Any]) -> Judge:
    """
    Raises:
        ConfigError: a field of it is unknown or impossible.
    """
    judge = build(_JudgeOnly, {"judge": table}).judge  # the same messages as for a run's config
    if judge.metric not in METRICS and "probes" not in table:
        judge = replace(judge, probes=judge.metric)
    return judge


@dataclass(frozen=True)
class _JudgeOnly:
    judge: Judge = field(default_factory=Judge)
