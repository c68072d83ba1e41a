"""Probes, on real speech: log-mel says most of which digit was spoken; shuffled labels say nothing."""

from collections.abc import Iterator

import pytest
import torch
import torchaudio
from torch import Tensor

from gdist.data_manifests import demo_folder
from gdist.pipeline.audio import load_utterance, read_header, to_float
from gdist.pipeline.errors import GdistError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.pipeline.manifest import Manifest
from gdist.stages.probes import PROBES, ProbeResult
from gdist.stages.probes.base import SPLITS
from gdist.stages.probes.digits import standardized

Features = dict[str, Tensor]
Labels = dict[str, list[str]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Clips this short gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> tuple[Features, Labels]:
    """Log-mel of the demo's spoken digits, averaged over time: ``[N, 1, 80]`` a split; and which digit each is."""
    log_mel = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=400, hop_length=320, n_mels=80, center=False)
    features: dict[str, list[Tensor]] = {split: [] for split in SPLITS}
    labels: Labels = {split: [] for split in SPLITS}
    whole: dict[str, Tensor] = {}  # a speaker's takes are segments of one file: decode it once
    for utterance in Manifest.read(demo_folder() / "demo.parquet").utterances():
        if utterance.labels["digit"] is None:
            continue
        path, rate = utterance.path, utterance.sample_rate
        assert rate is not None and utterance.num_samples is not None
        if path not in whole:
            whole[path] = to_float(load_utterance(path, 0, read_header(path).num_samples, rate))
        first, length = (n * SAMPLE_RATE // rate for n in (utterance.start, utterance.num_samples))
        split = str(utterance.labels["split"])
        features[split].append((log_mel(whole[path][first : first + length]) + 1e-6).log().mean(-1))
        labels[split].append(str(utterance.labels["digit"]))
    return {split: torch.stack(rows)[:, None] for split, rows in features.items()}, labels


@pytest.fixture(scope="module")
def result(digits: tuple[Features, Labels]) -> ProbeResult:
    return PROBES["digits"].run(*digits, control=True)


def constructed(informative: int, states: int = 5, dim: int = 16) -> tuple[Features, Labels]:
    """Noise in every hidden state, and the class in one of them."""
    generator = torch.Generator().manual_seed(0)
    centres_CD = torch.randn(4, dim, generator=generator)
    features, labels = {}, {}
    for split, items in zip(SPLITS, (200, 80, 80), strict=True):
        classes_N = torch.arange(items) % 4
        x_NKD = torch.randn(items, states, dim, generator=generator)
        x_NKD[:, informative] += 2 * centres_CD[classes_N]
        features[split], labels[split] = x_NKD, [f"class {c}" for c in classes_N.tolist()]
    return features, labels


def test_rows_of_the_table_are_named_as_their_keys() -> None:
    assert {name: probe.name for name, probe in PROBES.items()} == {name: name for name in PROBES}
    assert all(probe.label and probe.metric for probe in PROBES.values())


def test_log_mel_tells_spoken_digits_apart(result: ProbeResult) -> None:
    assert result.metric == "accuracy"
    assert (result.test_items, result.classes) == (240, 10)
    assert 0.78 < result.value < 0.95
    assert result.layer_weights == [1.0]


def test_shuffled_labels_are_near_chance(result: ProbeResult) -> None:
    assert result.shuffled is not None
    assert result.shuffled < 0.2


def test_the_same_again(digits: tuple[Features, Labels], result: ProbeResult) -> None:
    assert PROBES["digits"].run(*digits, control=True) == result


def test_the_seed_is_the_controls_alone(digits: tuple[Features, Labels], result: ProbeResult) -> None:
    other = PROBES["digits"].run(*digits, seed=1)
    assert (other.value, other.learning_rate, other.shuffled) == (result.value, result.learning_rate, None)


@pytest.fixture
def four_threads() -> Iterator[None]:
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("four_threads")
def test_the_number_of_threads_does_not_matter(digits: tuple[Features, Labels], result: ProbeResult) -> None:
    assert PROBES["digits"].run(*digits).value == result.value
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("informative", [0, 3])
def test_the_weight_goes_to_the_layer_that_knows(informative: int) -> None:
    result = PROBES["digits"].run(*constructed(informative))
    assert result.value > 0.95
    assert sum(result.layer_weights) == pytest.approx(1)
    assert max(range(5), key=result.layer_weights.__getitem__) == informative
    assert result.layer_weights[informative] > 2 * sorted(result.layer_weights)[-2]


def test_an_upstreams_scale_and_offset_do_not_matter(digits: tuple[Features, Labels], result: ProbeResult) -> None:
    features, labels = digits
    louder = {split: 300 * x_NKD + 7 for split, x_NKD in features.items()}
    assert PROBES["digits"].run(louder, labels).value == pytest.approx(result.value, abs=0.01)


def test_standardized_by_the_training_split_alone(digits: tuple[Features, Labels]) -> None:
    features, _ = digits
    done = standardized(features)
    torch.testing.assert_close(done["train"].mean(0), torch.zeros(1, 80), atol=1e-4, rtol=0)
    torch.testing.assert_close(done["train"].std(0, correction=0), torch.ones(1, 80))
    other = standardized(features | {"test": features["test"] + 100})
    assert torch.equal(other["train"], done["train"])
    constant = standardized({split: torch.full((3, 1, 2), 5.0) for split in SPLITS})
    assert torch.equal(constant["test"], torch.zeros(3, 1, 2))


@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_split_is_refused(split: str) -> None:
    features, labels = constructed(0)
    labels[split] = []
    with pytest.raises(GdistError, match=f"no examples in the split `{split}`"):
        PROBES["digits"].run(features, labels)


def test_one_class_is_refused() -> None:
    features, labels = constructed(0)
    labels["train"] = ["seven"] * len(labels["train"])
    with pytest.raises(GdistError, match=r"cannot tell one class apart.*'seven'"):
        PROBES["digits"].run(features, labels)


def test_a_class_training_never_shows_is_refused() -> None:
    features, labels = constructed(0)
    labels["test"][0] = "eleven"
    with pytest.raises(GdistError, match="eleven"):
        PROBES["digits"].run(features, labels)


def test_labels_and_features_of_different_lengths_are_refused() -> None:
    features, labels = constructed(0)
    with pytest.raises(GdistError, match="199 train labels"):
        PROBES["digits"].run(features, labels | {"train": labels["train"][1:]})
