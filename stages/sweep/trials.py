"""Trials of a search, proposed by Optuna and kept in its journal, `DIR/search/journal.log`.

What is proposed depends on the file, on the results of the batches before, and on nothing else: each trial gets a
sampler of its own, seeded by (seed, number), and a study that is made anew from what is known. Optuna's samplers
would otherwise keep state in memory, which a killed process loses. A trial is recorded whole, in one line of the
journal, and stands from then on.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gdist.pipeline.errors import ConfigError, RunError
from gdist.pipeline.folder import OwnFolder
from gdist.stages.sweep.fields import Settings
from gdist.stages.sweep.ranges import Choice, Range, Search, Space

JOURNAL = "search/journal.log"
DIGITS = 6  # of numbers between the ends of a range: enough to tell them apart, and people read them


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        value: None where it failed.
        step: where it was stopped early; the value is then that of this step.
    """

    value: float | None
    step: int | None = None


def optuna_module() -> ModuleType:
    """
    Raises:
        ConfigError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("[search] needs Optuna, which is not installed", "pip install 'gdist[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class _Held:
    """In place of Optuna's lock of the journal, which a killed process would leave behind: the sweep's folder has one
    owner already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Journal:
    """Optuna's journal in a sweep's folder. Other processes may read it at any time, Optuna's dashboard for one.

    Args:
        writes: whether this process owns the folder. If not, nothing is created or changed.
    """

    def __init__(self, folder: OwnFolder, writes: bool) -> None:
        path = folder.own(folder.folder / JOURNAL)
        self.optuna, self.writes = optuna_module(), writes
        from optuna.storages import InMemoryStorage, JournalStorage
        from optuna.storages.journal import JournalFileBackend

        try:
            if writes:
                path.parent.mkdir(exist_ok=True)
                if path.exists():
                    _cut_torn_line(path)
            here = writes or path.exists()
            lock: Any = _Held()
            self.storage: Any = JournalStorage(JournalFileBackend(str(path), lock)) if here else InMemoryStorage()
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"cannot read the search's journal {path}: {error}", "choose another --out") from error


class Study:
    """The trials of one search.

    Args:
        name: identifies the search: another one has other trials.
    """

    def __init__(self, journal: Journal, name: str, search: Search, space: Space, higher_is_better: bool) -> None:
        self.journal, self.optuna, self.search, self.space = journal, journal.optuna, search, space
        self.direction = "maximize" if higher_is_better else "minimize"
        self.distributions = {field: _distribution(self.optuna, one) for field, one in sorted(space.items())}
        known = {each.study_name for each in journal.storage.get_all_studies()}
        self._study: Any = None
        if journal.writes or name in known:
            self._study = self.optuna.create_study(
                storage=journal.storage, study_name=name, direction=self.direction, load_if_exists=True
            )
        trials = self._study.get_trials(deepcopy=False) if self._study else []
        self.params: list[dict[str, Any]] = [dict(trial.params) for trial in trials[: search.trials]]

    def settings(self, number: int) -> Settings:
        """A trial's fields, as they are in a config."""
        return {field: _value(self.space[field], value) for field, value in sorted(self.params[number].items())}

    @property
    def left(self) -> int:
        """How many trials are not yet proposed."""
        return self.search.trials - len(self.params)

    @property
    def batch_begins(self) -> int:
        """The number of trials in the batches before the one that is proposed next."""
        return len(self.params) // self.search.at_once * self.search.at_once

    def propose(self, before: Sequence[Outcome]) -> None:
        """Propose the next batch, or what is missing of it.

        Args:
            before: the outcomes of all trials of the batches before it.
        """
        first = self.batch_begins
        for number in range(len(self.params), min(first + self.search.at_once, self.search.trials)):
            params = self._ask(number, before, self.params[first:])
            self.params.append(params)
            if self.journal.writes:
                self._study.add_trial(self._trial(params, self.optuna.trial.TrialState.RUNNING))

    def tell(self, number: int, outcome: Outcome) -> None:
        """Record how a trial ended; what is recorded stands."""
        states = self.optuna.trial.TrialState
        known = self._study.get_trials(deepcopy=False)
        if known[number].state.is_finished():
            return
        if outcome.value is None:
            self._study.tell(number, state=states.FAIL)
        elif outcome.step is None:
            self._study.tell(number, outcome.value)
        else:
            self.journal.storage.set_trial_intermediate_value(known[number]._trial_id, outcome.step, outcome.value)
            self._study.tell(number, state=states.PRUNED)

    def _ask(self, number: int, before: Sequence[Outcome], beside: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the sampler proposes as the trial ``number``.

        Args:
            before: outcomes of the first trials.
            beside: the trials after those, whose outcome is not known.
        """
        states = self.optuna.trial.TrialState
        study = self.optuna.create_study(direction=self.direction, sampler=self._sampler(number))
        for params, outcome in zip(self.params, before, strict=False):
            if outcome.value is None:
                study.add_trial(self._trial(params, states.FAIL))
            elif outcome.step is None:
                study.add_trial(self._trial(params, states.COMPLETE, value=outcome.value))
            else:
                reached = {outcome.step: outcome.value}
                study.add_trial(self._trial(params, states.PRUNED, intermediate_values=reached))
        for running in beside:
            study.add_trial(self._trial(running, states.RUNNING))
        return dict(study.ask(self.distributions).params)

    def _sampler(self, number: int) -> Any:
        seed = int.from_bytes(hashlib.sha256(f"{self.search.seed}/{number}".encode()).digest()[:4])
        if self.search.sampler == "random":
            return self.optuna.samplers.RandomSampler(seed)
        return self.optuna.samplers.TPESampler(n_startup_trials=self.search.startup, constant_liar=True, seed=seed)

    def _trial(self, params: Mapping[str, Any], state: Any, **fields: Any) -> Any:
        return self.optuna.trial.create_trial(
            params=dict(params), distributions=self.distributions, state=state, **fields
        )


def _distribution(optuna: ModuleType, one: Range | Choice) -> Any:
    kinds = optuna.distributions
    if isinstance(one, Choice):  # as text: Optuna's choices are plain values, and ours may be lists
        return kinds.CategoricalDistribution([json.dumps(value, ensure_ascii=False) for value in one.values])
    low, last = one.ends
    if one.whole:
        return kinds.IntDistribution(low, last, log=one.log, step=int(one.step or 1))
    return kinds.FloatDistribution(float(low), float(last), log=one.log, step=one.step)


def _value(one: Range | Choice, value: Any) -> Any:
    """A value as it is in a config."""
    if isinstance(one, Choice):
        return json.loads(value)
    if one.whole:
        return int(value)
    rounded = float(f"{value:.{12 if one.step else DIGITS}g}")
    return min(max(rounded, float(one.low)), float(one.high))


def _cut_torn_line(path: Path) -> None:
    """Remove the line that a killed process did not finish: the next one would be appended to it."""
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            os.fsync(file.fileno())
