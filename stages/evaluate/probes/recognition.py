"""What was said, symbol by symbol: SUPERB's phone recognition, by CTC.

Weighted sum over hidden states → linear layer → CTC. The head is linear, so the hidden states must already contain
the information. The symbols are the manifest's ``phones`` (separated by spaces) where it has them, otherwise the
characters of ``text``.

Axes: N utterances, K hidden states, T frames, D features, V symbols and the blank.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor

from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.errors import GdistError
from gdist.stages.evaluate.probes.base import (
    NEW_VOICES,
    SPLITS,
    Example,
    Examples,
    Features,
    ProbeResult,
    labelled,
    one_thread,
)
from gdist.stages.evaluate.probes.scores import Array, mean_interval

LEARNING_RATES = (1e-2, 3e-2, 1e-1)
BATCH = 16
CHECKS = 6  # evaluations on the validation split, evenly spaced over the steps
MIN_UTTERANCES = 8  # in the training split
METRICS = {"phones": "phone error rate", "text": "character error rate"}  # by the column that contains the reference


@dataclass(frozen=True)
class _Fit:
    errors: float
    learning_rate: float
    mix_K: Tensor
    weight_VD: Tensor
    bias_V: Tensor


@dataclass(frozen=True)
class Recognition:
    """Error rate of a linear CTC head: edits over symbols of the reference."""

    name: str = "pr"
    title: str = "recognition"
    label: str = "text"
    metric: str = "error rate"
    higher_is_better: bool = False
    wants_frames: bool = True
    steps: int = 600

    def choose(self, splits: Mapping[str, Sequence[Entry]]) -> Examples:
        for column in METRICS:
            found = labelled(splits, column, column=NEW_VOICES)
            if any(found.values()):
                break
        else:
            return found
        spelled = {split: [replace(e, answer=spell(e.answer, column)) for e in es] for split, es in found.items()}
        usable = {split: [e for e in es if e.answer] for split, es in spelled.items()}
        short = [split for split in SPLITS if len(usable[split]) < (MIN_UTTERANCES if split == "train" else 1)]
        if short:
            raise GdistError(
                f"the probe `{self.name}` has too few transcripts in the split `{short[0]}`",
                f"fill in the manifest's column `{column}`, or leave the probe out with --probes",
            )
        return usable

    def run(self, examples: Examples, features: Features, seed: int = 0, control: bool = False) -> ProbeResult:
        symbols = sorted({symbol for e in examples["train"] for symbol in e.answer.split(" ")})
        train, states = examples["train"], features.frames
        with one_thread():
            fit = self._fit(states, examples, symbols, seed)
            edits_N, lengths_N = _errors(fit, states, examples["test"], symbols)
            shuffled = None
            if control:
                order = np.random.default_rng(seed).permutation(len(train))
                wrong = [replace(e, answer=train[i].answer) for e, i in zip(train, order, strict=True)]
                shuffled_fit = self._fit(states, {**examples, "train": wrong}, symbols, seed)
                edits, lengths = _errors(shuffled_fit, states, examples["test"], symbols)
                shuffled = float(edits.sum() / lengths.sum())
        value, low, high = mean_interval(edits_N, lengths_N)
        phones = any(len(symbol) > 1 for symbol in symbols)
        return ProbeResult(
            title="phone recognition" if phones else "character recognition",
            metric=METRICS["phones" if phones else "text"],
            value=value,
            low=low,
            high=high,
            higher_is_better=False,
            chance=1.0,  # of empty output
            test_items=len(edits_N),
            train_items=len(train),
            classes=len(symbols),
            learning_rate=fit.learning_rate,
            layer_weights=fit.mix_K.tolist(),
            shuffled=shuffled,
            also={"symbols": float(lengths_N.sum())},
        )

    def _fit(self, states: Mapping[str, Tensor], examples: Examples, symbols: Sequence[str], seed: int) -> _Fit:
        """The learning rate, and the step, at which fewest symbols of the validation split are wrong."""
        fits = [fit for rate in LEARNING_RATES for fit in self._train(states, examples, symbols, rate, seed)]
        return min(fits, key=lambda fit: fit.errors)

    def _train(
        self,
        states: Mapping[str, Tensor],
        examples: Examples,
        symbols: Sequence[str],
        rate: float,
        seed: int,
    ) -> list[_Fit]:
        rng = np.random.default_rng(seed)
        number = {symbol: i + 1 for i, symbol in enumerate(symbols)}  # 0 is the blank
        train = examples["train"]
        some = states[train[0].id]
        mix_K = torch.zeros(some.shape[0], requires_grad=True)
        weight_VD = torch.zeros(len(symbols) + 1, some.shape[2], requires_grad=True)
        bias_V = torch.zeros(len(symbols) + 1, requires_grad=True)
        optimizer = torch.optim.Adam([mix_K, weight_VD, bias_V], lr=rate)
        fits: list[_Fit] = []
        for step in range(1, self.steps + 1):
            chosen = [train[i] for i in rng.choice(len(train), size=min(BATCH, len(train)), replace=False)]
            logits = [_logits(states[e.id], mix_K.softmax(0), weight_VD, bias_V) for e in chosen]
            answers = [torch.tensor([number[symbol] for symbol in e.answer.split(" ")]) for e in chosen]
            log_TNV = torch.nn.utils.rnn.pad_sequence(logits).log_softmax(2)
            frames_N, lengths_N = torch.tensor([len(x) for x in logits]), torch.tensor([len(y) for y in answers])
            loss = F.ctc_loss(log_TNV, torch.cat(answers), frames_N, lengths_N, zero_infinity=True)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % max(self.steps // CHECKS, 1) == 0:
                now = (mix_K.detach().softmax(0), weight_VD.detach().clone(), bias_V.detach().clone())
                edits_N, lengths = _errors(_Fit(0.0, rate, *now), states, examples["valid"], symbols)
                fits.append(_Fit(float(edits_N.sum() / lengths.sum()), rate, *now))
        return fits


def spell(answer: str, column: str) -> str:
    """A transcript as symbols separated by spaces; the space between two words becomes the symbol ``|``.

    >>> spell("Log-in, incorrect.", "text")
    'l o g i n | i n c o r r e c t'
    """
    if column == "phones":
        return " ".join(answer.split())
    plain = unicodedata.normalize("NFC", answer).casefold()
    words = ["".join(c for c in word if c.isalpha() or c == "'") for word in plain.split()]
    return " ".join("|".join(word for word in words if word))


def _logits(states_KTD: Tensor, weights_K: Tensor, weight_VD: Tensor, bias_V: Tensor) -> Tensor:
    mixed_TD = (weights_K @ states_KTD.flatten(1).float()).view(states_KTD.shape[1:])
    return F.linear(mixed_TD, weight_VD, bias_V)


@torch.no_grad()
def _errors(
    fit: _Fit, states: Mapping[str, Tensor], examples: Sequence[Example], symbols: Sequence[str]
) -> tuple[Array, Array]:
    """For each utterance, the edits between best path and reference, and the reference's number of symbols."""
    edits, lengths = [], []
    for example in examples:
        best = _logits(states[example.id], fit.mix_K, fit.weight_VD, fit.bias_V).argmax(1).tolist()
        recognized = [symbols[v - 1] for v, _ in groupby(best) if v]
        reference = example.answer.split(" ")
        edits.append(torchaudio.functional.edit_distance(recognized, reference))
        lengths.append(len(reference))
    return np.array(edits, dtype=float), np.array(lengths, dtype=float)
