"""SUPERB's head for tasks with one answer per utterance.

It is a weighted sum over hidden states, the mean over time, a linear layer, and cross entropy. The sum and the mean
are both linear and commute, so the mean comes first and the head's input is ``[K, N, D]``, whatever the lengths.
SUPERB has two linear layers with nothing between them, which are equivalent to one.

Axes: N utterances, K hidden states, D features, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gdist.pipeline.cache.entries import Entry
from gdist.stages.evaluate.probes.base import (
    SPLITS,
    Examples,
    Features,
    ProbeResult,
    check,
    labelled,
    majority,
    one_thread,
    speaker_folds,
)
from gdist.stages.evaluate.probes.scores import Array, mean_interval

LEARNING_RATES = (3e-3, 1e-2, 3e-2, 1e-1)
STEPS = 200
CHECK_EVERY = 10  # steps between evaluations on the validation split


@dataclass(frozen=True)
class _Fit:
    """A head at one point of its training, with its loss on the validation split."""

    loss: float
    learning_rate: float
    mix_K: Tensor
    weight_CD: Tensor
    bias_C: Tensor

    def logits(self, inputs_KND: Tensor) -> Tensor:
        return F.linear(_mixed(inputs_KND, self.mix_K), self.weight_CD, self.bias_C)


@dataclass(frozen=True)
class LinearProbe:
    """Classification by a linear layer on the mean over time; the metric is accuracy.

    Attributes:
        new_voices: test on speakers that do not occur in training; see
            :func:`gdist.stages.evaluate.probes.base.speaker_folds`.
        min_samples: shorter utterances are left out.
        split_column: the manifest's splits for this task, if it has that column; see ``labelled``.
    """

    name: str
    title: str
    label: str
    new_voices: bool = False
    min_samples: int = 0
    split_column: str | None = None
    metric: str = "accuracy"
    higher_is_better: bool = True
    wants_frames: bool = False

    def choose(self, splits: Mapping[str, Sequence[Entry]]) -> Examples:
        found = labelled(splits, self.label, self.min_samples, self.split_column)
        return check(self.name, found) if any(found.values()) else found

    def run(self, examples: Examples, features: Features, seed: int = 0, control: bool = False) -> ProbeResult:
        """See :class:`gdist.stages.evaluate.probes.base.Probe`. Takes a second or two for a teacher's layers.

        Training starts from equal layer weights and a head of zeros, and each step uses the whole split. So nothing
        is random: the value does not depend on ``seed``, which only the control uses.
        """
        check(self.name, examples)
        folds = speaker_folds(examples) if self.new_voices else [examples]
        with one_thread():
            fits, right = zip(*(self._fold(fold, features, None) for fold in folds), strict=True)
            generator = torch.Generator().manual_seed(seed)
            wrong = [self._fold(fold, features, generator)[1] for fold in folds] if control else []
        value, low, high = mean_interval(np.concatenate(right))
        return ProbeResult(
            title=self.title,
            metric=self.metric,
            value=value,
            low=low,
            high=high,
            higher_is_better=True,
            chance=majority(examples["test"]),
            test_items=len(np.concatenate(right)),
            train_items=len(folds[0]["train"]),
            classes=len({example.answer for example in examples["train"]}),
            learning_rate=fits[0].learning_rate,
            layer_weights=torch.stack([fit.mix_K for fit in fits]).mean(0).tolist(),
            shuffled=float(np.concatenate(wrong).mean()) if control else None,
        )

    def _fold(self, fold: Examples, features: Features, shuffle: torch.Generator | None) -> tuple[_Fit, Array]:
        """The head chosen on the validation split, and for each test answer 1 if it is right, else 0."""
        number = {answer: i for i, answer in enumerate(sorted({example.answer for example in fold["train"]}))}
        inputs = standardized({s: torch.stack([features.mean[e.id] for e in fold[s]], dim=1) for s in SPLITS})
        answers = {}
        for split in SPLITS:
            # A class that this fold's training split lacks is never predicted: no argmax is −1.
            answers[split] = torch.tensor([number.get(example.answer, -1) for example in fold[split]])
        learned = answers
        if shuffle is not None:
            learned = {s: y_N[torch.randperm(len(y_N), generator=shuffle)] for s, y_N in answers.items()}
        fit = _fit(inputs, learned, len(number))
        return fit, (fit.logits(inputs["test"]).argmax(-1) == answers["test"]).double().numpy()


def standardized(inputs_KND: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every feature of every hidden state, with mean 0 and variance 1 over the training split.

    SUPERB uses raw features, and their scale then acts as a learning rate: the layers of a Transformer differ in size
    by several times, and log-mel is far from zero. With the same standardization for every upstream, the comparison
    is about linearly available information, not about scale. The other splits do not influence the statistics.
    """
    mean_K1D = inputs_KND["train"].mean(1, keepdim=True)
    # A constant feature becomes 0, not NaN.
    deviation_K1D = inputs_KND["train"].std(1, correction=0, keepdim=True).clamp_min(1e-6)
    return {split: (inputs_KND[split] - mean_K1D) / deviation_K1D for split in SPLITS}


def _fit(inputs_KND: Mapping[str, Tensor], answers_N: Mapping[str, Tensor], classes: int) -> _Fit:
    """The learning rate, and the step, at which the loss on the validation split is lowest.

    Loss is used instead of accuracy: on a few hundred utterances accuracy is coarse, and ties would be arbitrary.
    """
    return min(
        (fit for rate in LEARNING_RATES for fit in _train(inputs_KND, answers_N, classes, rate)),
        key=lambda fit: fit.loss,
    )


def _train(
    inputs_KND: Mapping[str, Tensor], answers_N: Mapping[str, Tensor], classes: int, learning_rate: float
) -> list[_Fit]:
    """The head at regular intervals of its training."""
    states, _, dim = inputs_KND["train"].shape
    mix_K = torch.zeros(states, requires_grad=True)
    weight_CD = torch.zeros(classes, dim, requires_grad=True)
    bias_C = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([mix_K, weight_CD, bias_C], lr=learning_rate)
    fits = []
    for step in range(1, STEPS + 1):
        logits_NC = F.linear(_mixed(inputs_KND["train"], mix_K.softmax(0)), weight_CD, bias_C)
        optimizer.zero_grad()
        F.cross_entropy(logits_NC, answers_N["train"], ignore_index=-1).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % CHECK_EVERY == 0:
            now = (mix_K.detach().softmax(0), weight_CD.detach().clone(), bias_C.detach().clone())
            logits_NC = _Fit(0.0, learning_rate, *now).logits(inputs_KND["valid"])
            loss = F.cross_entropy(logits_NC, answers_N["valid"], ignore_index=-1)
            fits.append(_Fit(float(loss), learning_rate, *now))
    return fits


def _mixed(inputs_KND: Tensor, weights_K: Tensor) -> Tensor:
    """The weighted sum over hidden states, ``[N, D]``; as one product of a vector and a matrix it is several times
    faster than a broadcast sum."""
    return (weights_K @ inputs_KND.flatten(1)).view(inputs_KND.shape[1:])
