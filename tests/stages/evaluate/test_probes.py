"""Probes, on real speech and on artificial states: they find what is there, and with shuffled labels nothing."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gdist.data_manifests import demo_folder
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.errors import GdistError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.evaluate.probes import PROBES
from gdist.stages.evaluate.probes.base import (
    FOLDS,
    KNOWN_VOICES,
    NEW_VOICES,
    SPLITS,
    Example,
    Examples,
    Features,
    labelled,
    speaker_folds,
)
from gdist.stages.evaluate.probes.keyword_spotting import KEYWORD_SPOTTING
from gdist.stages.evaluate.probes.language_identification import LANGUAGE_IDENTIFICATION
from gdist.stages.evaluate.probes.linear import standardized
from gdist.stages.evaluate.probes.query_by_example import QueryByExample, subsequence_distance
from gdist.stages.evaluate.probes.recognition import Recognition, spell
from gdist.stages.evaluate.probes.scores import equal_error_rate, interval, mean_interval
from gdist.stages.evaluate.probes.speaker_identification import SPEAKER_IDENTIFICATION
from gdist.stages.evaluate.probes.speaker_verification import SpeakerVerification
from gdist.stages.testing import ProbeSuite
from gdist.stages.testing.probe import VOICES, WORDS, entries


@pytest.fixture(scope="module")
def demo_entries() -> Mapping[str, list[Entry]]:
    """The bundled speech as an extraction would place it, by split; no audio is read."""
    splits: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for utterance in Manifest.read(demo_folder() / "demo.parquet").utterances():
        assert utterance.num_samples is not None and utterance.sample_rate is not None
        samples = utterance.num_samples * SAMPLE_RATE // utterance.sample_rate
        entry = Entry(utterance.id, 0, 0, (samples - 400) // 320 + 1, samples, labels=dict(utterance.labels))
        splits[str(utterance.labels["split"])].append(entry)
    return splits


class TestKeywordSpotting(ProbeSuite):
    probe = PROBES.own["ks"]


class TestQueryByExample(ProbeSuite):
    probe = PROBES.own["qbe"]


class TestRecognition(ProbeSuite):
    probe = Recognition(steps=60)
    chance = (0.5, 1.2)  # no worse than a constant guess, no better than half right


class TestSpeakerIdentification(ProbeSuite):
    probe = PROBES.own["sid"]


class TestSpeakerVerification(ProbeSuite):
    probe = SpeakerVerification(steps=30)

    def items(self, examples: Examples) -> int:
        """Trials: all pairs of a fold's test utterances."""
        return sum(math.comb(len(fold["test"]), 2) for fold in speaker_folds(examples))


def test_verification_touches_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking a GPU for its generator's state takes half a gigabyte of its memory, also of GPUs that others use."""

    def touched(*args: object) -> None:
        raise AssertionError("a GPU was asked")

    for name in ("get_rng_state", "set_rng_state", "manual_seed_all", "manual_seed"):
        monkeypatch.setattr(torch.cuda, name, touched)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    probe = SpeakerVerification(steps=2)
    examples = probe.choose(entries())
    generator = torch.Generator().manual_seed(0)
    names = [example.id for split in examples.values() for example in split]
    frames = {name: torch.randn(2, 40, 8, generator=generator).half() for name in names}
    before = torch.get_rng_state()
    probe.run(examples, Features({}, frames))
    assert torch.equal(torch.get_rng_state(), before), "the state of this process's own generator is kept"


class TestLanguageIdentification(ProbeSuite):
    probe = PROBES.own["lid"]


def test_every_probe_has_its_suite() -> None:
    tested = [
        *(TestKeywordSpotting, TestQueryByExample, TestRecognition),
        *(TestSpeakerIdentification, TestSpeakerVerification, TestLanguageIdentification),
    ]
    assert [type(suite.probe) for suite in tested] == [type(probe) for probe in PROBES.own.values()]
    assert [suite.probe.name for suite in tested] == [probe.name for probe in PROBES.own.values()] == list(PROBES.own)


# --- which utterances a task is about ------------------------------------------------------------------------------


def test_test_voices_of_a_fold_do_not_occur_in_its_training() -> None:
    examples = KEYWORD_SPOTTING.choose(entries())
    folds = speaker_folds(examples)
    assert len(folds) == FOLDS
    for fold in folds:
        training_voices = {e.speaker for split in ("train", "valid") for e in fold[split]}
        assert not training_voices & {e.speaker for e in fold["test"]} and len(training_voices) == len(VOICES) * 2 / 3
    assert sorted(e.id for fold in folds for e in fold["test"]) == sorted(e.id for e in examples["test"])


@pytest.mark.parametrize("voices", [None, "of its own"])
def test_splits_by_voice_and_unknown_voices_are_left_unchanged(voices: str | None) -> None:
    test = [Example(f"t{i}", WORDS[i % 2], voices) for i in range(4)]
    examples = {
        "train": [Example(f"a{i}", WORDS[i % 2], voices and "ann") for i in range(4)],
        "valid": [],
        "test": test,
    }
    assert speaker_folds(examples) == [examples]


def test_a_manifest_may_have_splits_of_its_own_for_new_voices_and_for_known_ones() -> None:
    placed = {
        # split, for new voices, for known voices
        "a": ("train", "train", "train"),
        "b": ("train", "train", "valid"),
        "c": ("test", None, "test"),
        "d": ("test", "test", "train"),
        "e": ("valid", "valid", None),
    }
    splits: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for name, (split, new, known) in placed.items():
        labels = {"word": name, NEW_VOICES: new, KNOWN_VOICES: known}
        splits[split].append(Entry(name, 0, 0, 9, 16_000, labels=labels))
    found = {
        column: {s: [e.id for e in es] for s, es in labelled(splits, "word", column=column).items()}
        for column in (None, NEW_VOICES, KNOWN_VOICES, "no such column")
    }
    assert found[NEW_VOICES] == {"train": ["a", "b"], "valid": ["e"], "test": ["d"]}
    assert found[KNOWN_VOICES] == {"train": ["a", "d"], "valid": ["b"], "test": ["c"]}
    assert found[None] == found["no such column"] == {"train": ["a", "b"], "valid": ["e"], "test": ["c", "d"]}


def test_the_bundled_speech_supports_every_probe(demo_entries: Mapping[str, list[Entry]]) -> None:
    chosen = {name: probe.choose(demo_entries) for name, probe in PROBES.own.items()}
    counts = {name: tuple(len(examples[split]) for split in SPLITS) for name, examples in chosen.items()}
    assert counts["ks"] == counts["qbe"] == (720, 240, 240)
    assert counts["pr"] == (154, 23, 43)
    assert counts["sid"] == counts["asv"] == (874, 263, 283)
    assert {e.answer for e in chosen["lid"]["test"]} == {"en", "es", "fr", "it", "ru"}
    seconds = {e.id: e.num_samples / SAMPLE_RATE for split in demo_entries.values() for e in split}
    assert all(seconds[e.id] >= 1 for split in chosen["lid"].values() for e in split)
    # No take is in two splits.
    for examples in chosen.values():
        ids = [e.id for split in SPLITS for e in examples[split]]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["ks", "sid", "lid", "asv"])
def test_an_empty_split_is_refused(name: str, split: str) -> None:
    with pytest.raises(GdistError, match=f"no examples in the split `{split}`"):
        PROBES[name].choose(entries() | {split: []})


def test_one_class_is_refused() -> None:
    splits = {s: [replace(e, labels=e.labels | {"digit": "one"}) for e in es] for s, es in entries().items()}
    with pytest.raises(GdistError, match=r"needs at least two classes.*'one'"):
        PROBES["ks"].choose(splits)


def test_a_class_that_training_lacks_is_refused() -> None:
    splits = entries()
    splits["test"][0].labels["speaker"] = "zoe"
    with pytest.raises(GdistError, match="zoe"):
        SPEAKER_IDENTIFICATION.choose(splits)
    assert "zoe" in {e.answer for e in SpeakerVerification().choose(splits)["test"]}, (
        "verification is about new voices"
    )


def test_voices_of_one_take_each_cannot_be_verified() -> None:
    splits = entries()
    once = {e.labels["speaker"]: e for e in splits["test"]}
    with pytest.raises(GdistError, match="`asv` has no trials in the split `test`"):
        SpeakerVerification().choose(splits | {"test": list(once.values())})


def test_words_of_a_single_voice_cannot_be_queries() -> None:
    splits = {s: [replace(e, labels=e.labels | {"speaker": "ann"}) for e in es] for s, es in entries().items()}
    with pytest.raises(GdistError, match="no word in the split `valid` that two voices say"):
        QueryByExample().choose(splits)


def test_phones_are_preferred_to_text() -> None:
    splits = {s: [replace(e, labels=e.labels | {"phones": "AH  B"}) for e in es] for s, es in entries().items()}
    assert {e.answer for e in Recognition().choose(splits)["test"]} == {"AH B"}
    few = {split: es[:3] for split, es in entries().items()}
    with pytest.raises(GdistError, match="too few transcripts in the split `train`"):
        Recognition().choose(few)


def test_language_needs_a_second_of_speech() -> None:
    splits = {s: [replace(e, num_samples=SAMPLE_RATE - 1) for e in es] for s, es in entries().items()}
    assert not any(LANGUAGE_IDENTIFICATION.choose(splits).values())


# --- figures by hand -----------------------------------------------------------------------------------------------


def test_spelling() -> None:
    assert spell("Log-in, incorrect.", "text") == "l o g i n | i n c o r r e c t"
    assert spell("d'Été …", "text") == "d ' é t é"
    assert spell("AH0  B", "phones") == "AH0 B"


@pytest.mark.parametrize(
    ("scores", "same", "rate"),
    [
        ([0.9, 0.8, 0.3, 0.1], [True, True, False, False], 0.0),
        ([0.9, 0.8, 0.3, 0.1], [True, False, True, False], 0.5),
        ([0.9, 0.8, 0.3, 0.1], [False, False, True, True], 1.0),
        ([0.5, 0.5, 0.5, 0.5], [True, False, True, False], 0.5),  # no information
        # The threshold below 6 accepts 1 of 4 impostors and rejects 2 of 4 speakers; below 5 it is 1 and 1.
        ([8, 7, 6, 5, 4, 3, 2, 1], [True, True, False, True, False, True, False, False], 0.25),
    ],
)
def test_equal_error_rate(scores: list[float], same: list[bool], rate: float) -> None:
    assert equal_error_rate(np.array(scores, dtype=float), np.array(same)) == pytest.approx(rate)


def test_a_trial_that_counts_twice_is_two_trials() -> None:
    rng = np.random.default_rng(0)
    scores, same, counts = rng.normal(size=50), rng.random(50) < 0.4, rng.integers(0, 3, 50)
    twice = np.repeat(scores, counts), np.repeat(same, counts)
    assert equal_error_rate(scores, same, counts.astype(float)) == pytest.approx(equal_error_rate(*twice))


def test_an_interval_agrees_with_the_formula() -> None:
    """Accuracy 0.8 on 400 items has a standard error of 0.02: 95 % is ± 0.039."""
    value, low, high = mean_interval(np.array([1.0] * 320 + [0.0] * 80))
    assert value == 0.8
    assert low == pytest.approx(0.761, abs=0.006) and high == pytest.approx(0.839, abs=0.006)
    errors, symbols = np.array([1.0, 3.0]), np.array([10.0, 10.0])
    assert mean_interval(errors, symbols) == (0.2, 0.1, 0.3)
    assert np.isnan(interval(3, lambda count_N: float("nan"))).all()


def test_warping_by_hand() -> None:
    """A query of three frames, and two documents.

    The first document contains it, stretched and shifted, at no cost. The second ends early: its last frame (infinite
    cost beyond) has to match the query's last two, and the cheapest path is 0 + 0 + 1.
    """
    query, documents = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([[5.0, 0, 1, 1, 2, 5], [5.0, 0, 1, 9, 9, 9]])
    cost_IXJ = (query[:, None, None] - documents[None]).abs()
    cost_IXJ[:, 1, 3:] = torch.inf
    assert subsequence_distance(cost_IXJ).tolist() == pytest.approx([0.0, 1 / 3])


def test_warping_skips_one_frame_and_not_two() -> None:
    query = torch.tensor([0.0, 1.0])
    documents = torch.tensor([[0.0, 7, 1, 7], [0.0, 7, 7, 1]])
    cost_IXJ = (query[:, None, None] - documents[None]).abs()
    assert subsequence_distance(cost_IXJ).tolist() == pytest.approx([0.0, 0.5])


def test_standardized_by_the_training_split_alone() -> None:
    torch.manual_seed(0)
    inputs = {split: 300 * torch.randn(2, 30, 4) + 7 for split in SPLITS}
    done = standardized(inputs)
    torch.testing.assert_close(done["train"].mean(1), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(done["train"].std(1, correction=0), torch.ones(2, 4))
    other = standardized(inputs | {"test": inputs["test"] + 100})
    assert torch.equal(other["train"], done["train"])
    constant = standardized({split: torch.full((1, 3, 2), 5.0) for split in SPLITS})
    assert torch.equal(constant["test"], torch.zeros(1, 3, 2))


def test_there_is_one_file_per_probe() -> None:
    import gdist.stages.evaluate.probes

    shared = {"__init__", "base", "linear", "scores"}
    own = {path.stem for path in Path(gdist.stages.evaluate.probes.__file__).parent.glob("*.py")} - shared
    assert len(own) == len(PROBES.own)
