"""What a probe is: a small task solved on frozen hidden states, SUPERB's way (arXiv 2105.01051).

Axes: K hidden states, T frames, D features.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gdist.pipeline.cache.layout import Entry
from gdist.pipeline.errors import GdistError

SPLITS = ("train", "valid", "test")
FOLDS = 3


@dataclass(frozen=True)
class Example:
    """One utterance of a task: the right answer, and whose voice it is where that is known."""

    id: str
    answer: str
    speaker: str | None = None


Examples = Mapping[str, Sequence[Example]]
"""split → its examples"""


@dataclass(frozen=True)
class Features:
    """A frozen upstream's hidden states of utterances, by id.

    Attributes:
        mean: averaged over time, ``[K, D]`` float32.
        frames: all of them, ``[K, T, D]`` float16, each feature with mean 0 and variance 1 over training speech; only
            of utterances that a probe with ``wants_frames`` chose.
    """

    mean: Mapping[str, Tensor]
    frames: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeResult:
    """What a probe measured.

    Attributes:
        title, metric, value: for example "keyword spotting", "accuracy" and 0.87, on the test split.
        low, high: 95 % of the values that resampled test items give (percentile bootstrap).
        higher_is_better: False for error rates.
        chance: what an answer that ignores the speech scores.
        test_items: on how many utterances, trials or queries the value stands; ``train_items``: learned from.
        classes: how many different answers there are.
        learning_rate: the one the validation split chose (of several folds, the first's); None where nothing is
            trained.
        layer_weights: the learned weight of each hidden state, summing to 1; of several folds, their mean.
        shuffled: the same metric after training on shuffled labels, near chance unless something leaks; None when
            the control was not asked for.
        also: further metrics by name.
    """

    title: str
    metric: str
    value: float
    low: float
    high: float
    higher_is_better: bool
    chance: float
    test_items: int
    train_items: int
    classes: int
    learning_rate: float | None
    layer_weights: list[float]
    shuffled: float | None = None
    also: dict[str, float] = field(default_factory=dict)


class Probe(Protocol):
    """One task: its key in ``PROBES``, its name for people, the manifest's column that holds the answers, what its
    value is and which way it goes, and whether it reads ``Features.frames`` or means over time alone."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def wants_frames(self) -> bool: ...

    def choose(self, splits: Mapping[str, Sequence[Entry]]) -> Examples:
        """The utterances the task is about, with their answers; empty splits where the labels are missing.

        Raises:
            GdistError: there are such labels, and they cannot support the task.
        """
        ...

    def run(self, examples: Examples, features: Features, seed: int = 0, control: bool = False) -> ProbeResult:
        """Train on the split "train", choose on "valid", measure on "test".

        Args:
            seed: of whatever the probe draws.
            control: also run with shuffled answers and fill in ``shuffled``.
        """
        ...


def labelled(splits: Mapping[str, Sequence[Entry]], label: str, min_samples: int = 0) -> dict[str, list[Example]]:
    """The utterances that have an answer in the column ``label``, of at least so many samples."""
    return {
        split: [
            Example(e.id, str(e.labels[label]), None if e.labels.get("speaker") is None else str(e.labels["speaker"]))
            for e in splits.get(split, ())
            if e.labels.get(label) is not None and e.num_samples >= min_samples
        ]
        for split in SPLITS
    }


def check(name: str, examples: Examples) -> Examples:
    """The same examples, which support the task.

    Raises:
        GdistError: a split without examples, a single class, or an answer that training never saw.
    """
    for split in SPLITS:
        if not examples.get(split):
            raise GdistError(
                f"the probe `{name}` has no examples in the split `{split}`",
                "label them in the manifest's columns (a class and `split`), or leave the probe away with --probes",
            )
    classes = {example.answer for example in examples["train"]}
    if len(classes) < 2:
        raise GdistError(
            f"the probe `{name}` cannot tell one class apart: its training split has {classes.pop()!r} only"
        )
    unknown = {example.answer for split in ("valid", "test") for example in examples[split]} - classes
    if unknown:
        raise GdistError(f"the probe `{name}` is tested on {sorted(unknown)}, which its training split never shows")
    return examples


def speaker_folds(examples: Examples) -> Sequence[Examples]:
    """The same task for voices that were not heard in training, as SUPERB's own splits have it.

    Where the test split has voices of its own, or none has a name, there is one fold: the splits as they are. Else
    speakers are dealt into three hands; each fold tests one hand's test utterances, and learns from the training and
    validation utterances of the others. Every test utterance is tested once, on another take and by another voice.
    """
    voices = {split: {example.speaker for example in examples[split]} for split in SPLITS}
    everyone = sorted(voice for voice in voices["test"] if voice is not None)
    if None in set().union(*voices.values()) or len(everyone) < 2 or not voices["test"] & voices["train"]:
        return [examples]
    folds = []
    for hand in range(min(FOLDS, len(everyone))):
        held = set(everyone[hand::FOLDS])
        fold = {split: [e for e in examples[split] if e.speaker not in held] for split in ("train", "valid")}
        folds.append(fold | {"test": [e for e in examples["test"] if e.speaker in held]})
    return folds


def majority(examples: Sequence[Example]) -> float:
    """The share of the commonest answer: what the best constant answer scores."""
    answers = [example.answer for example in examples]
    return max(answers.count(answer) for answer in set(answers)) / len(answers)


@contextmanager
def one_thread() -> Iterator[None]:
    """The same sums in the same order on every machine; and threads that wait for a busy core cost more than they
    bring to products this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
