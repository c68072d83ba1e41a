"""What a probe is: a small task solved on frozen hidden states, in SUPERB's manner (arXiv 2105.01051).

Axes: K hidden states, T frames, D features.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.errors import GdistError

SPLITS = ("train", "valid", "test")
FOLDS = 3
# Columns that a manifest may have beside ``split``, for tasks that ask something else of their test voices. Their
# values are ``SPLITS``; null leaves the utterance out.
NEW_VOICES, KNOWN_VOICES = "split_new_voices", "split_known_voices"


@dataclass(frozen=True)
class Example:
    """One utterance of a task: its id, the right answer, and the speaker where known."""

    id: str
    answer: str
    speaker: str | None = None


Examples = Mapping[str, Sequence[Example]]
"""split → its examples"""


@dataclass(frozen=True)
class Features:
    """A frozen upstream's hidden states of utterances, by id.

    Attributes:
        mean: the states averaged over time, ``[K, D]`` float32.
        frames: the states of all frames, ``[K, T, D]`` float16, each feature with mean 0 and variance 1 over training
            speech; only of utterances that a probe with ``wants_frames`` chose.
    """

    mean: Mapping[str, Tensor]
    frames: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeResult:
    """What a probe measured.

    Attributes:
        title, metric, value: for example "keyword spotting", "accuracy" and 0.87, on the test split.
        low, high: the interval of 95 % of the values that resampled test items give (percentile bootstrap).
        higher_is_better: False for error rates.
        chance: the score of an answer that ignores the speech.
        test_items: the number of utterances, trials or queries that the value is measured on.
        train_items: the number of utterances that were learned from.
        classes: the number of different answers.
        learning_rate: the one chosen on the validation split (with several folds, the first fold's); None where
            nothing is trained.
        layer_weights: the learned weight of each hidden state, summing to 1; with several folds, the mean over folds.
            1 and 0 where a single state is used.
        shuffled: the same metric after training on shuffled labels, near chance unless something leaks; None if
            the control was not run.
        also: further metrics by name.
        layer: the one hidden state that it used, chosen on the validation split; None where it weighs all of them.
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
    layer: int | None = None


class Probe(Protocol):
    """One task.

    Attributes:
        name: its key in ``PROBES``.
        title: its name for people.
        label: the manifest's column that contains the answers.
        metric: what its value is.
        higher_is_better: False for error rates.
        wants_frames: whether it reads ``Features.frames``, or only the means over time.
    """

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
            GdistError: there are such labels, but the task is not possible with them.
        """
        ...

    def run(self, examples: Examples, features: Features, seed: int = 0, control: bool = False) -> ProbeResult:
        """Train on the split "train", choose on "valid", measure on "test".

        Args:
            seed: seeds every random choice of the probe.
            control: also run with shuffled answers and fill in ``shuffled``.
        """
        ...


def labelled(
    splits: Mapping[str, Sequence[Entry]], label: str, min_samples: int = 0, column: str | None = None
) -> dict[str, list[Example]]:
    """The utterances that have an answer in the column ``label``, of at least ``min_samples`` samples.

    Args:
        column: ``NEW_VOICES`` or ``KNOWN_VOICES``: where the manifest has this column, it says which split each
            utterance of ``splits`` is in; otherwise the splits are used as they are.
    """
    everything = [entry for entries in splits.values() for entry in entries]
    if column is not None and any(entry.labels.get(column) is not None for entry in everything):
        splits = {split: [entry for entry in everything if entry.labels.get(column) == split] for split in SPLITS}
    return {
        split: [
            Example(e.id, str(e.labels[label]), None if e.labels.get("speaker") is None else str(e.labels["speaker"]))
            for e in splits.get(split, ())
            if e.labels.get(label) is not None and e.num_samples >= min_samples
        ]
        for split in SPLITS
    }


def check(name: str, examples: Examples) -> Examples:
    """Return ``examples`` unchanged if the task is possible with them.

    Raises:
        GdistError: a split has no examples, there is a single class, or an answer does not occur in training.
    """
    for split in SPLITS:
        if not examples.get(split):
            raise GdistError(
                f"the probe `{name}` has no examples in the split `{split}`",
                "label them in the manifest's columns (a class and `split`), or leave the probe out with --probes",
            )
    classes = {example.answer for example in examples["train"]}
    if len(classes) < 2:
        raise GdistError(
            f"the probe `{name}` needs at least two classes: its training split has only {classes.pop()!r}"
        )
    unknown = {example.answer for split in ("valid", "test") for example in examples[split]} - classes
    if unknown:
        raise GdistError(
            f"the probe `{name}` is tested on {sorted(unknown)}, which its training split does not contain"
        )
    return examples


def speaker_folds(examples: Examples) -> Sequence[Examples]:
    """The same task for speakers that do not occur in training, as in SUPERB's own splits.

    Where training and test split share no speaker, or a speaker is unknown, there is one fold: the splits unchanged.
    Otherwise the speakers are split into three groups. Each fold tests the test utterances of one group, and learns
    from the training and validation utterances of the other groups. Every test utterance is tested once, by a head
    that learned from other recordings by other speakers.
    """
    voices = {split: {example.speaker for example in examples[split]} for split in SPLITS}
    everyone = sorted(voice for voice in voices["test"] if voice is not None)
    if None in set().union(*voices.values()) or len(everyone) < 2 or not voices["test"] & voices["train"]:
        return [examples]
    folds = []
    for group in range(min(FOLDS, len(everyone))):
        held = set(everyone[group::FOLDS])
        fold = {split: [e for e in examples[split] if e.speaker not in held] for split in ("train", "valid")}
        folds.append(fold | {"test": [e for e in examples["test"] if e.speaker in held]})
    return folds


def majority(examples: Sequence[Example]) -> float:
    """The share of the most common answer, which is the score of the best constant answer."""
    answers = [example.answer for example in examples]
    return max(answers.count(answer) for answer in set(answers)) / len(answers)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that every machine sums in the same order.

    It is also faster: for products this small, threads that wait for a busy core cost more than they gain.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
