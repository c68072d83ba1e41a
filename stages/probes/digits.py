"""Which digit was spoken: SUPERB's keyword spotting (arXiv 2105.01051) on ten words.

Frozen features → softmax-weighted sum over hidden states → mean over time → linear layer → cross entropy. The sum and
the mean are both linear and commute, so the mean comes first and the probe sees ``[N, K, D]``, whatever the lengths.

Axes: N utterances, K hidden states, D features, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gdist.stages.probes.base import SPLITS, ProbeResult, check

LEARNING_RATES = (3e-3, 1e-2, 3e-2, 1e-1)
STEPS = 200
CHECK_EVERY = 10  # steps between looks at the validation split


@dataclass(frozen=True)
class _Fit:
    """A trained probe at the moment its loss on the validation split was lowest."""

    loss: float
    learning_rate: float
    mix_K: Tensor
    weight_CD: Tensor
    bias_C: Tensor

    def logits(self, inputs_KND: Tensor) -> Tensor:
        return F.linear(_mixed(inputs_KND, self.mix_K), self.weight_CD, self.bias_C)


class Digits:
    """Ten words, told apart by a linear layer on the mean over time; accuracy."""

    name = "digits"
    label = "digit"
    metric = "accuracy"

    def run(
        self,
        features: Mapping[str, Tensor],
        labels: Mapping[str, Sequence[str]],
        seed: int = 0,
        control: bool = False,
    ) -> ProbeResult:
        """See :class:`gdist.stages.probes.base.Probe`. Takes about a second for a teacher's layers.

        Training starts from equal layer weights and a head of zeros and takes the whole split at a time, so nothing
        is drawn at random: the value has no seed to vary with, and ``seed`` is the control's alone.
        """
        with _one_thread():
            return self._run(features, labels, seed, control)

    def _run(
        self, features: Mapping[str, Tensor], labels: Mapping[str, Sequence[str]], seed: int, control: bool
    ) -> ProbeResult:
        classes = check(self.name, features, labels)
        number = {label: index for index, label in enumerate(classes)}
        answers_N = {split: torch.tensor([number[label] for label in labels[split]]) for split in SPLITS}
        inputs_KND = {split: x_NKD.transpose(0, 1).contiguous() for split, x_NKD in standardized(features).items()}
        fit = _fit(inputs_KND, answers_N, len(classes))
        shuffled = None
        if control:
            generator = torch.Generator().manual_seed(seed)
            wrong_N = {s: y_N[torch.randperm(len(y_N), generator=generator)] for s, y_N in answers_N.items()}
            shuffled = _accuracy(_fit(inputs_KND, wrong_N, len(classes)), inputs_KND["test"], answers_N["test"])
        return ProbeResult(
            metric=self.metric,
            value=_accuracy(fit, inputs_KND["test"], answers_N["test"]),
            test_items=len(answers_N["test"]),
            classes=len(classes),
            learning_rate=fit.learning_rate,
            layer_weights=fit.mix_K.tolist(),
            shuffled=shuffled,
        )


def standardized(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every feature of every hidden state, with mean 0 and variance 1 over the training split.

    SUPERB feeds raw features, and their scale then acts as a learning rate: a Transformer's layers differ several
    times over in size, and log-mel lies far from zero. The same treatment for every upstream leaves what is linearly
    there to be compared, not what happens to be loud. The other splits have no say in the statistics.
    """
    train_NKD = features["train"].float()
    mean_KD = train_NKD.mean(0)
    deviation_KD = train_NKD.std(0, correction=0).clamp_min(1e-6)  # a constant feature becomes 0, not NaN
    return {split: (features[split].float() - mean_KD) / deviation_KD for split in SPLITS}


def _fit(inputs_KND: Mapping[str, Tensor], answers_N: Mapping[str, Tensor], classes: int) -> _Fit:
    """The learning rate, and the step, at which the loss on the validation split is lowest.

    The loss and not the accuracy: a few hundred utterances give a coarse accuracy whose ties fall at random.
    """
    return min(
        (fit for rate in LEARNING_RATES for fit in _train(inputs_KND, answers_N, classes, rate)),
        key=lambda fit: fit.loss,
    )


def _train(
    inputs_KND: Mapping[str, Tensor], answers_N: Mapping[str, Tensor], classes: int, learning_rate: float
) -> list[_Fit]:
    """The probe at regular intervals of its training."""
    states, _, dim = inputs_KND["train"].shape
    mix_K = torch.zeros(states, requires_grad=True)
    weight_CD = torch.zeros(classes, dim, requires_grad=True)
    bias_C = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([mix_K, weight_CD, bias_C], lr=learning_rate)
    fits = []
    for step in range(1, STEPS + 1):
        logits_NC = F.linear(_mixed(inputs_KND["train"], mix_K.softmax(0)), weight_CD, bias_C)
        optimizer.zero_grad()
        F.cross_entropy(logits_NC, answers_N["train"]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % CHECK_EVERY == 0:
            now = (mix_K.detach().softmax(0), weight_CD.detach().clone(), bias_C.detach().clone())
            loss = F.cross_entropy(_Fit(0.0, learning_rate, *now).logits(inputs_KND["valid"]), answers_N["valid"])
            fits.append(_Fit(float(loss), learning_rate, *now))
    return fits


def _mixed(inputs_KND: Tensor, weights_K: Tensor) -> Tensor:
    """The weighted sum over hidden states, ``[N, D]``; as one product of a vector and a matrix it is several times
    faster than a broadcast sum."""
    return (weights_K @ inputs_KND.flatten(1)).view(inputs_KND.shape[1:])


def _accuracy(fit: _Fit, inputs_KND: Tensor, answers_N: Tensor) -> float:
    return int((fit.logits(inputs_KND).argmax(-1) == answers_N).sum()) / len(answers_N)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same sums in the same order on every machine; and threads that wait for a busy core cost more than they
    bring to products this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
