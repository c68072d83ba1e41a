"""Whether a spoken word occurs in a recording: SUPERB's query by example. Nothing is trained.

Dynamic time warping finds the query in each document, wherever it begins and ends. It uses one hidden state, the one
with the best result on the validation split. Queries and documents are utterances with a word label, and a query is
searched for only in other speakers' utterances.

Scores: the mean average precision, and in addition SUPERB's MTWV, the maximum term-weighted value of NIST's spoken
term detection with QUESST 2014's costs. These costs are meant for words that one document in a thousand contains.
Where one in ten does, as with the digits, MTWV is near 0 for every upstream.

Axes: Q queries, X documents, I frames of a query, J frames of a document, K hidden states, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.errors import GdistError
from gdist.stages.evaluate.probes.base import (
    NEW_VOICES,
    Example,
    Examples,
    Features,
    ProbeResult,
    labelled,
    one_thread,
)
from gdist.stages.evaluate.probes.scores import Array, interval

QUERIES = 60  # at most, per split
# QUESST 2014: a miss costs as much as a hundred false alarms, and few documents contain the query.
FALSE_ALARM, MISS, PRIOR = 1.0, 100.0, 0.0008
BETA = FALSE_ALARM * (1 - PRIOR) / (MISS * PRIOR)
THRESHOLDS = np.linspace(-2, 8, 201)  # on scores with mean 0 and deviation 1 for each query
Wanted = np.ndarray[tuple[int, int], np.dtype[np.bool_]]


class QueryByExample:
    """Words found by dynamic time warping over one hidden state; mean average precision."""

    name = "qbe"
    title = "query by example"
    label = "digit"
    metric = "mean average precision"
    higher_is_better = True
    wants_frames = True

    def choose(self, splits: Mapping[str, Sequence[Entry]]) -> Examples:
        found = labelled(splits, self.label, column=NEW_VOICES)
        if not any(found.values()):
            return found
        for split in ("valid", "test"):
            pairs = _pairs(*_queries(found[split]))
            if not (pairs[0] & pairs[1]).any():
                raise GdistError(
                    f"the probe `{self.name}` finds no word in the split `{split}` that two voices say",
                    "label `speaker` and `digit` in the manifest's columns, or leave the probe out with --probes",
                )
        return found

    def run(self, examples: Examples, features: Features, seed: int = 0, control: bool = False) -> ProbeResult:
        states = features.frames
        count = states[examples["test"][0].id].shape[0]
        with one_thread():
            pairs = _pairs(*_queries(examples["valid"]))
            tried = [_measure(_scores(states, examples["valid"], k), *pairs) for k in range(count)]
            best = max(range(count), key=lambda k: tried[k].precision())
            scores_QX = _scores(states, examples["test"], best)
        queries, documents = _queries(examples["test"])
        allowed_QX, wanted_QX = _pairs(queries, documents)
        measured = _measure(scores_QX, allowed_QX, wanted_QX)
        low, high = interval(len(measured.precisions_Q), measured.precision)
        shuffled = None
        if control:
            order = np.random.default_rng(seed).permutation(len(documents))
            renamed = [replace(d, answer=documents[i].answer) for d, i in zip(documents, order, strict=True)]
            shuffled = _measure(scores_QX, *_pairs(queries, renamed)).precision()
        return ProbeResult(
            title=self.title,
            metric=self.metric,
            value=measured.precision(),
            low=low,
            high=high,
            higher_is_better=True,
            chance=float((wanted_QX & allowed_QX).sum() / allowed_QX.sum()),
            test_items=len(measured.precisions_Q),
            train_items=0,
            classes=len({query.answer for query in queries}),
            learning_rate=None,
            layer_weights=[float(k == best) for k in range(count)],
            shuffled=shuffled,
            also={"MTWV": measured.mtwv(), "documents": float(len(documents))},
            layer=best,
        )


def _queries(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Queries, taken at regular intervals from a split, and documents, which are the whole split."""
    ordered = sorted(examples, key=lambda e: (e.answer, e.speaker or "", e.id))
    step = max(len(ordered) / QUERIES, 1)
    return [ordered[int(i * step)] for i in range(min(QUERIES, len(ordered)))], ordered


def _pairs(queries: Sequence[Example], documents: Sequence[Example]) -> tuple[Wanted, Wanted]:
    """``[Q, X]`` twice: which pairs are scored, and which pairs are of the same word."""
    allowed = [[q.id != d.id and (q.speaker is None or q.speaker != d.speaker) for d in documents] for q in queries]
    wanted = [[q.answer == d.answer for d in documents] for q in queries]
    return np.array(allowed, dtype=bool), np.array(wanted, dtype=bool)


def _scores(states: Mapping[str, Tensor], examples: Sequence[Example], state: int) -> Array:
    """``[Q, X]``: minus the distance of each query to its best match in each document."""
    queries, documents = _queries(examples)
    unit = {d.id: F.normalize(states[d.id][state].float(), dim=1) for d in documents}
    padded_XJD = pad_sequence([unit[d.id] for d in documents], batch_first=True)
    lengths_X1 = torch.tensor([len(unit[d.id]) for d in documents])[:, None]
    beyond_XJ = torch.arange(padded_XJD.shape[1]) >= lengths_X1
    rows = []
    for query in queries:
        query_ID = unit[query.id]
        cost_IXJ = (1 - query_ID @ padded_XJD.flatten(0, 1).T).view(len(query_ID), *beyond_XJ.shape)
        rows.append(-subsequence_distance(cost_IXJ.masked_fill_(beyond_XJ, torch.inf)))
    return torch.stack(rows).double().numpy()


def subsequence_distance(cost_IXJ: Tensor) -> Tensor:
    """The mean cost per query frame of the cheapest path through each document, ``[X]``.

    Every query frame is used once; from one to the next the document advances by none, one or two frames (the
    asymmetric step pattern), and it may begin and end anywhere.
    """
    path_XJ = cost_IXJ[0]
    for cost_XJ in cost_IXJ[1:]:
        one_XJ = F.pad(path_XJ, (1, 0), value=torch.inf)[:, :-1]
        two_XJ = F.pad(path_XJ, (2, 0), value=torch.inf)[:, : path_XJ.shape[1]]
        path_XJ = cost_XJ + torch.minimum(torch.minimum(path_XJ, one_XJ), two_XJ)
    return path_XJ.amin(1) / len(cost_IXJ)


@dataclass(frozen=True)
class _Measured:
    """The results of the queries that have an answer.

    Attributes:
        values: the term-weighted value at each threshold, ``[Q, thresholds]``.
        precisions_Q: the average precision.
    """

    values: Array
    precisions_Q: Array

    def mtwv(self) -> float:
        """The best value of one threshold for all queries; no detections at all have the value 0."""
        return max(float(self.values.mean(0).max()), 0.0)

    def precision(self, counts_Q: Array | None = None) -> float:
        return float(np.average(self.precisions_Q, weights=counts_Q))


def _measure(scores_QX: Array, allowed_QX: Wanted, wanted_QX: Wanted) -> _Measured:
    values, precisions = [], []
    for score_X, allowed_X, wanted_X in zip(scores_QX, allowed_QX, wanted_QX, strict=True):
        hit_X, score_X = wanted_X[allowed_X], score_X[allowed_X]
        if not hit_X.any() or hit_X.all():
            continue
        # Standardized per query, because one threshold is used for all: distances depend on a word's length.
        passed = (score_X - score_X.mean()) / max(score_X.std(), 1e-12) >= THRESHOLDS[:, None]
        missed = 1 - (passed & hit_X).sum(1) / hit_X.sum()
        admitted = (passed & ~hit_X).sum(1) / (~hit_X).sum()
        values.append(1 - missed - BETA * admitted)
        precisions.append(average_precision_score(hit_X, score_X))
    return _Measured(np.stack(values), np.array(precisions))
