"""Whether two utterances have the same voice: SUPERB's speaker verification.

Its head is an x-vector network (Snyder et al. 2018): a weighted sum over hidden states, time-delay layers, the mean
and deviation over time, and two linear layers. It is trained to classify the training voices with an additive margin
(AM-softmax, arXiv 1801.05599), then used on voices that do not occur in training: a trial's score is the cosine of
two embeddings. Width and steps are reduced to what can be learned from a manifest with few voices.

Axes: N utterances, K hidden states, T frames, D features, W width, E embedding, C voices, P trials.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.errors import GdistError
from gdist.stages.evaluate.probes.base import (
    NEW_VOICES,
    Example,
    Examples,
    Features,
    ProbeResult,
    check,
    labelled,
    one_thread,
    speaker_folds,
)
from gdist.stages.evaluate.probes.scores import Array, equal_error_rate, interval

Scored = tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""For each trial its score, whether both have the same voice, and the indices of its utterances; best score first"""

LEARNING_RATES = (1e-3, 3e-3, 1e-2)
BATCH = 32
CROP_FRAMES = 64  # of a training utterance, 1.3 s
WIDTH, EMBEDDING = 64, 64
CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1))  # kernel and dilation of each time-delay layer
SCALE, MARGIN = 30.0, 0.4


class XVector(nn.Module):
    """Hidden states → an embedding of the voice, whatever the length."""

    def __init__(self, states: int, dim: int) -> None:
        super().__init__()
        self.mix_K = nn.Parameter(torch.zeros(states))
        self.projection = nn.Linear(dim, WIDTH)
        self.layers = nn.ModuleList(
            nn.Conv1d(WIDTH, WIDTH, kernel, dilation=dilation, padding=dilation * (kernel // 2))
            for kernel, dilation in CONTEXTS
        )
        self.embed = nn.Sequential(nn.Linear(2 * WIDTH, EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING))

    def forward(self, states_NKTD: Tensor, num_frames_N: Tensor) -> Tensor:
        """``[N, E]`` of unit length; frames of padding are ignored."""
        mask_N1T = (torch.arange(states_NKTD.shape[2]) < num_frames_N[:, None])[:, None]
        mixed_NTD = torch.einsum("nktd,k->ntd", states_NKTD, self.mix_K.softmax(0))
        hidden_NWT = self.projection(mixed_NTD).transpose(1, 2) * mask_N1T
        for layer in self.layers:
            hidden_NWT = F.relu(layer(hidden_NWT)) * mask_N1T
        count_N1 = num_frames_N[:, None]
        mean_NW = hidden_NWT.sum(2) / count_N1
        variance_NW = ((hidden_NWT - mean_NW[:, :, None]) * mask_N1T).square().sum(2) / count_N1
        return F.normalize(self.embed(torch.cat([mean_NW, (variance_NW + 1e-5).sqrt()], dim=1)), dim=1)


@dataclass(frozen=True)
class SpeakerVerification:
    """Equal error rate over all pairs of test utterances, of voices that do not occur in training."""

    name: str = "asv"
    title: str = "speaker verification"
    label: str = "speaker"
    metric: str = "equal error rate"
    higher_is_better: bool = False
    wants_frames: bool = True
    steps: int = 150

    def choose(self, splits: Mapping[str, Sequence[Entry]]) -> Examples:
        found = labelled(splits, self.label, column=NEW_VOICES)
        if not any(found.values()):
            return found
        # Voices of the other splits need not occur in training: that is the task.
        some = found["train"][0].answer if found["train"] else ""
        check(self.name, found | {s: [replace(e, answer=some) for e in found[s]] for s in ("valid", "test")})
        for fold in speaker_folds(found):
            takes = Counter(example.answer for example in fold["test"])
            if len(takes) < 2 or max(takes.values()) < 2:
                raise GdistError(
                    f"the probe `{self.name}` has no trials in the split `test`: it compares two takes of one voice, "
                    "and takes of two",
                    "put more utterances of a voice into that split, or leave the probe out with --probes",
                )
        return found

    def run(self, examples: Examples, features: Features, seed: int = 0, control: bool = False) -> ProbeResult:
        folds = speaker_folds(examples)
        with one_thread(), torch.random.fork_rng(devices=[]):  # probes run on the CPU, and touch no GPU
            done = [self._fold(fold, features, seed, shuffle=False) for fold in folds]
            wrong = [self._fold(fold, features, seed, shuffle=True) for fold in folds] if control else []
        value, low, high = _mean_over_folds([scored for scored, _, _ in done])
        return ProbeResult(
            title=self.title,
            metric=self.metric,
            value=value,
            low=low,
            high=high,
            higher_is_better=False,
            chance=0.5,
            test_items=sum(len(scores) for (scores, _, _, _), _, _ in done),
            train_items=len(folds[0]["train"]),
            classes=len({e.answer for e in examples["test"]}),
            learning_rate=done[0][1],
            layer_weights=torch.stack([mix_K for _, _, mix_K in done]).mean(0).tolist(),
            shuffled=_mean_over_folds([scored for scored, _, _ in wrong], resample=False)[0] if control else None,
        )

    def _fold(self, fold: Examples, features: Features, seed: int, shuffle: bool) -> tuple[Scored, float, Tensor]:
        """The test trials' scores, the learning rate, and the layer weights."""
        states = features.frames
        if shuffle:  # the trials' labels too: even an untrained network separates voices
            rng = np.random.default_rng(seed)
            fold = {split: _renamed(es, rng.permutation(len(es))) for split, es in fold.items()}
        fitted = [(self._train(states, fold["train"], rate, seed), rate) for rate in LEARNING_RATES]
        tried = [equal_error_rate(*_trials(model, states, fold["valid"])[:2]) for model, _ in fitted]
        model, rate = fitted[int(np.argmin(tried))]
        return _trials(model, states, fold["test"]), rate, model.mix_K.detach().softmax(0)

    def _train(self, states: Mapping[str, Tensor], train: Sequence[Example], rate: float, seed: int) -> XVector:
        torch.default_generator.manual_seed(seed)
        rng = np.random.default_rng(seed)
        some = states[train[0].id]
        model = XVector(some.shape[0], some.shape[2])
        voices = sorted({example.answer for example in train})
        weight_CE = nn.Parameter(torch.randn(len(voices), EMBEDDING) / EMBEDDING**0.5)
        optimizer = torch.optim.Adam([*model.parameters(), weight_CE], lr=rate)
        by_voice = [[e.id for e in train if e.answer == voice] for voice in voices]
        for _ in range(self.steps):
            # Every voice is equally likely, however many utterances it has.
            answer_N = torch.from_numpy(rng.integers(len(voices), size=BATCH))
            ids = [by_voice[voice][rng.integers(len(by_voice[voice]))] for voice in answer_N.tolist()]
            crops = []
            for name in ids:
                start = rng.integers(max(states[name].shape[1] - CROP_FRAMES, 0) + 1)
                crops.append(states[name][:, start : start + CROP_FRAMES])
            cosine_NC = model(*_padded(crops)) @ F.normalize(weight_CE, dim=1).T
            target_NC = F.one_hot(answer_N, len(voices))
            optimizer.zero_grad()
            F.cross_entropy(SCALE * (cosine_NC - MARGIN * target_NC), answer_N).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return model.eval()


def _renamed(examples: Sequence[Example], order: npt.NDArray[np.int64]) -> list[Example]:
    return [replace(example, answer=examples[i].answer) for example, i in zip(examples, order, strict=True)]


@torch.no_grad()
def _trials(model: XVector, states: Mapping[str, Tensor], examples: Sequence[Example]) -> Scored:
    """Score all pairs of utterances."""
    by_length = sorted(range(len(examples)), key=lambda i: states[examples[i].id].shape[1])
    embedding_NE = torch.zeros(len(examples), EMBEDDING)
    for first in range(0, len(by_length), BATCH):
        places = by_length[first : first + BATCH]
        embedding_NE[places] = model(*_padded([states[examples[i].id] for i in places]))
    one_P, other_P = np.triu_indices(len(examples), 1)
    voices = np.unique([example.answer for example in examples], return_inverse=True)[1]
    scores_P = (embedding_NE @ embedding_NE.T).numpy()[one_P, other_P]
    order_P = np.argsort(-scores_P, kind="stable")  # once: resampling sorts again, which is faster on sorted scores
    one_P, other_P = one_P[order_P], other_P[order_P]
    return scores_P[order_P], voices[one_P] == voices[other_P], one_P, other_P


def _padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    num_frames_N = torch.tensor([x_KTD.shape[1] for x_KTD in states])
    longest = int(num_frames_N.max())
    return torch.stack([F.pad(x, (0, 0, 0, longest - x.shape[1])).float() for x in states]), num_frames_N


def _mean_over_folds(folds: Sequence[Scored], resample: bool = True) -> tuple[float, float, float]:
    """The mean of the folds' error rates, each with its own threshold, and its interval over resampled utterances."""

    def mean(counts: Sequence[Array | None]) -> float:
        rates = [
            equal_error_rate(scores, same, None if count is None else count[one] * count[other])
            for (scores, same, one, other), count in zip(folds, counts, strict=True)
        ]
        return float(np.mean(rates))

    value = mean([None] * len(folds))
    if not resample:
        return value, value, value
    sizes = [int(other.max()) + 1 for _, _, _, other in folds]
    ends = np.cumsum(sizes)[:-1]
    return (value, *interval(sum(sizes), lambda count_N: mean(np.split(count_N, ends))))
