"""What every probe must guarantee, on artificial states: it finds what is there, and with shuffled labels nothing.

Axes: K hidden states, T frames, D features.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.evaluate.probes import PROBES, Probe, ProbeResult
from gdist.stages.evaluate.probes.base import SPLITS, Examples, Features
from gdist.stages.testing.suite import Suite

STATES, DIM = 3, 12
INFORMATIVE = 1  # the hidden state that contains the label; the others are noise
WORDS, VOICES = ("one", "two", "three", "four"), ("ann", "bob", "cat", "dan", "eve", "fay")
LETTERS = "abcde"
Outcome = tuple[ProbeResult, Examples]


def entries(per_split: tuple[int, int, int] = (96, 48, 48), label: str = "digit") -> dict[str, list[Entry]]:
    """Every word by every speaker, with a text of five letters; a label that is not one of ours has three values."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in zip(SPLITS, per_split, strict=True):
        splits[split] = [
            Entry(
                f"{split}-{i}",
                pack=0,
                start_frame=0,
                num_frames=20,
                num_samples=SAMPLE_RATE,
                labels={
                    label: ("low", "middle", "high")[i % 3],
                    "digit": WORDS[i % len(WORDS)],
                    "speaker": VOICES[i // len(WORDS) % len(VOICES)],
                    "language": ("en", "fr")[i % 2],
                    "text": "".join(rng.permutation(list(LETTERS))),
                },
            )
            for i in range(count)
        ]
    return splits


def informative(splits: Mapping[str, list[Entry]], label: str) -> Features:
    """Noise, with the label added to one state: as one vector in all frames, or letter by letter."""
    generator = torch.Generator().manual_seed(0)
    signs: dict[str, Tensor] = {}

    def sign(answer: str) -> Tensor:
        if answer not in signs:
            signs[answer] = 3 * torch.randn(DIM, generator=generator)
        return signs[answer]

    frames = {}
    for split in splits.values():
        for entry in split:
            x_KTD = 0.5 * torch.randn(STATES, entry.num_frames, DIM, generator=generator)
            answer = entry.labels[label]
            parts = list(answer) if label == "text" else [answer]
            for i, part in enumerate(parts):
                span = slice(i * entry.num_frames // len(parts), (i + 1) * entry.num_frames // len(parts))
                x_KTD[INFORMATIVE, span] += sign(part)
            frames[entry.id] = x_KTD.half()
    return Features({name: x_KTD.float().mean(1) for name, x_KTD in frames.items()}, frames)


class ProbeSuite(Suite):
    """A probe finds a label in the hidden state that has it, is at chance with shuffled labels, and is repeatable.

    Attributes:
        probe: the probe; if it trains for long, it may have fewer steps here.
        chance: the range of results with shuffled labels; None means within 0.2 of the probe's own ``chance``.
    """

    probe: ClassVar[Probe]
    chance: ClassVar[tuple[float, float] | None] = None
    _outcomes: ClassVar[dict[type, Outcome]] = {}

    def outcome(self) -> Outcome:
        """Return the result for a task that one hidden state solves, with its control; run once for all tests."""
        if type(self) not in self._outcomes:
            splits, label = entries(label=self.probe.label), self.probe.label
            examples = self.probe.choose(splits)
            result = self.probe.run(examples, informative(splits, label), control=True)
            self._outcomes[type(self)] = result, examples
        return self._outcomes[type(self)]

    def items(self, examples: Examples) -> int:
        """Return the number of items that the probe's value is computed from."""
        return len(examples["test"])

    def test_gdist_takes_it(self) -> None:
        with PROBES.lent(self.probe.name, self.probe) as row:
            assert PROBES[row.name] is row

    def test_it_finds_what_is_there(self) -> None:
        result, _ = self.outcome()
        assert result.value > 0.9 if result.higher_is_better else result.value < 0.1
        assert result.low <= result.value <= result.high and result.high - result.low < 0.25

    def test_shuffled_labels_are_at_chance(self) -> None:
        result, _ = self.outcome()
        assert result.shuffled is not None
        low, high = self.chance or (result.chance - 0.2, result.chance + 0.2)
        assert low < result.shuffled < high

    def test_the_weight_goes_to_the_informative_layer(self) -> None:
        result, _ = self.outcome()
        assert abs(sum(result.layer_weights) - 1) <= 1e-6
        assert max(range(STATES), key=result.layer_weights.__getitem__) == INFORMATIVE
        assert result.layer in (None, INFORMATIVE), "a probe that uses one hidden state says which"
        assert result.layer is None or max(result.layer_weights) == 1

    def test_it_says_what_it_is_based_on(self) -> None:
        result, examples = self.outcome()
        assert result.test_items == self.items(examples)
        assert result.metric and result.title
        assert result.classes == len({answer for e in examples["test"] for answer in e.answer.split()})

    def test_the_result_does_not_depend_on_the_number_of_threads(self) -> None:
        splits = entries((48, 24, 24), self.probe.label)
        features, examples = informative(splits, self.probe.label), self.probe.choose(splits)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            first = self.probe.run(examples, features)
            torch.set_num_threads(2)
            again = self.probe.run(examples, features)
            assert torch.get_num_threads() == 2, "a probe must restore the number of threads"
        finally:
            torch.set_num_threads(before)
        assert again == first
        assert first.shuffled is None

    def test_no_labels_no_examples(self) -> None:
        bare = {split: [replace(e, labels={}) for e in es] for split, es in entries().items()}
        assert not any(self.probe.choose(bare).values())
