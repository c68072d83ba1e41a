"""What a sweep consists of, as far as it is known: the points of its file, and the trials proposed so far."""

import dataclasses
import re
import statistics
from collections.abc import Sequence
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.config import did_you_mean, signature
from gdist.pipeline.errors import ConfigError
from gdist.pipeline.run.documents import text_of
from gdist.stages.standings.schema import Ratios
from gdist.stages.sweep.equal import RECORD, Equal
from gdist.stages.sweep.fields import Settings
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.options import SweepConfig
from gdist.stages.sweep.points import Point, Points, require_distinct, signature_of
from gdist.stages.sweep.rungs import Stopped, decide
from gdist.stages.sweep.spec import Alternative, Spec
from gdist.stages.sweep.trials import Journal, Outcome, Study, optuna_module


@dataclasses.dataclass
class Searched:
    """A combination that is searched: an alternative with one choice of its grid.

    Attributes:
        identity: another search has another one, and other trials.
        trials: of each trial its points, one for each seed; none where its config turned out to be impossible.
    """

    alternative: Alternative
    chosen: Settings
    identity: str
    study: Study | None = None
    trials: list[list[Point]] = dataclasses.field(default_factory=list)


class Plan:
    """The points of a sweep. Nothing is written before :meth:`open` is asked to.

    Raises:
        ConfigError: the file or a point in it is impossible; the message names it.
        CacheError: a cache cannot be read, or lacks a layer that a point needs.
    """

    def __init__(self, spec: Spec, config: SweepConfig, folder: SweepFolder) -> None:
        self.spec, self.config, self.folder = spec, config, folder
        self.higher_is_better = spec.judge.higher_is_better
        self.made = Points(spec, config.caches, config.file.parent)
        self.equal = Equal(self.made, folder.folder)
        self.searches = [
            Searched(alternative, chosen, self._identity(alternative, chosen))
            for alternative, chosen in self.made.combinations()
            if alternative.space
        ]
        self.fixed = self._fixed()
        require_distinct(self.fixed)
        if self.searches:
            optuna_module()

    def _fixed(self) -> list[Point]:
        points: list[Point] = []
        for alternative, chosen in self.made.combinations():
            if not alternative.space:
                steps = self.equal.steps(alternative, chosen)
                points += self.made.of(alternative, chosen, more=steps, pending=steps is None)
        return points

    def _identity(self, alternative: Alternative, chosen: Settings) -> str:
        """Try the ends of every range; return what identifies the search."""
        search, space = self.spec.search, alternative.space
        assert search is not None
        lows = {field: one.ends[0] for field, one in space.items()}
        base = self.made.resolve(alternative, chosen | lows)
        for field, one in space.items():
            for end in one.ends[1:]:
                self.made.resolve(alternative, chosen | lows | {field: end})
        how = {"random": (), "tpe": (search.at_once, search.startup)}[search.sampler]
        judge = (self.spec.judge.metric, self.spec.judge.split)
        ranges = {field: dataclasses.asdict(one) for field, one in space.items()}
        about = [signature_of(base.cache, base.config, base.start), ranges, search.sampler, search.seed, how, judge]
        return signature({"search": about})

    def open(self, writes: bool) -> None:
        """Read the trials that were proposed so far, and propose what can be.

        Args:
            writes: record what is proposed; the folder is then this process's own.
        """
        if self.searches:
            journal = Journal(self.folder, writes)
            for each in self.searches:
                assert self.spec.search is not None
                space = each.alternative.space
                each.study = Study(journal, each.identity, self.spec.search, space, self.higher_is_better)
                each.trials = []
                self._add_trials(each)
            self.extend()

    def _add_trials(self, each: Searched) -> None:
        assert each.study is not None
        for number in range(len(each.trials), len(each.study.params)):
            try:
                values = each.study.settings(number)
                each.trials.append(self.made.of(each.alternative, each.chosen | values, trial=number))
            except ConfigError as error:
                console.say(f"trial {number} is impossible, and left out: {error.message}", style="yellow")
                each.trials.append([])

    @property
    def cohorts(self) -> list[list[Point]]:
        """Points that are compared with each other when some are stopped: those of the file that are not searched,
        and each batch of each search. A run is in the first of those that it would be in."""
        size = self.spec.search.at_once if self.spec.search else 1
        groups = [self.fixed]
        for each in self.searches:
            for first in range(0, len(each.trials), size):
                groups.append([point for trial in each.trials[first : first + size] for point in trial])
        place: dict[str, int] = {}
        for number, group in enumerate(groups):
            for point in group:
                place.setdefault(point.signature, number)
        own = [{p.signature: p for p in group if place[p.signature] == n} for n, group in enumerate(groups)]
        return [list(group.values()) for group in own]

    @property
    def points(self) -> list[Point]:
        """Every point that is known; two trials of one config are one point."""
        return [point for cohort in self.cohorts for point in cohort]

    @property
    def runs_to_come(self) -> int:
        """How many runs the trials that are not yet proposed are, at most."""
        return len(self.spec.seeds) * sum(each.study.left for each in self.searches if each.study)

    def chosen(self) -> list[Point]:
        """The points that this call is about.

        Raises:
            ConfigError: ``--only`` is no regular expression, or matches nothing.
        """
        points, only = self.points, self.config.only
        if only:
            points = matching(points, only)
        return points[:1] if self.config.first else points

    def decide(self) -> dict[str, int]:
        """Decide the rungs that can be decided now: which points are stopped, and until which step others train."""
        until: dict[str, int] = {}
        self.folder.stopped = {}
        if self.spec.stopping:
            stopped: dict[str, Stopped] = {}
            for cohort in self.cohorts:
                progress = {point.signature: self.folder.progress(point) for point in cohort}
                decision = decide(self.spec.stopping, cohort, progress, self.higher_is_better)
                until |= decision.until
                stopped |= decision.stopped
            self.folder.stopped = stopped
        return until

    def extend(self) -> bool:
        """Tell the searches what is known, and propose the next batches. Returns whether there is a new trial."""
        proposed = False
        for each in self.searches:
            study = each.study
            assert study is not None
            outcomes = [self._outcome(trial) for trial in each.trials]
            if study.journal.writes:
                for number, outcome in enumerate(outcomes):
                    if outcome is not None:
                        study.tell(number, outcome)
            before = [outcome for outcome in outcomes[: study.batch_begins] if outcome is not None]
            if study.left and len(before) == study.batch_begins:
                study.propose(before)
                self._add_trials(each)
                proposed = True
        return proposed

    def _outcome(self, trial: Sequence[Point]) -> Outcome | None:
        """How a trial ended; None as long as it has not."""
        standings = [self.folder.standing(point) for point in trial]
        if any(standing.state == "failed" for standing in standings) or not trial:
            return Outcome(None)
        for standing in standings:
            if standing.stopped:
                return Outcome(standing.stopped.value, standing.stopped.step)
        if any(standing.state != "done" for standing in standings):
            return None
        return Outcome(statistics.fmean(standing.value or 0.0 for standing in standings))

    def measure(self) -> None:
        """Measure what the steps of this call's points in ``[equal]`` cost, where that is not yet known.

        Raises:
            RunError: one of them cannot be trained.
        """
        names = {point.name for point in self.chosen() if point.pending}
        for alternative, chosen in self.made.combinations():
            if not alternative.space and self.made.name(alternative, chosen) in names:
                for pair in self.equal.missing(alternative, chosen):
                    if pair.key in self.equal.known:
                        continue
                    self.equal.known[pair.key] = self.equal.measure(pair, self.config)
                    self.folder.keep(RECORD, text_of(RECORD, self.equal.known, Ratios))
        if names:
            self.fixed = self._fixed()


def matching(points: Sequence[Point], pattern: str) -> list[Point]:
    """The points whose label matches the regular expression ``pattern`` somewhere.

    Raises:
        ConfigError: it is none, or nothing matches.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--only {pattern!r} is not a regular expression: {error}") from error
    chosen = [point for point in points if wanted.search(point.label)]
    if not chosen:
        known: Any = [point.label for point in points]
        raise ConfigError(f"--only {pattern!r}: no point is called like that", did_you_mean(pattern, known))
    return chosen
