"""Teachers with other framings than wav2vec 2.0's, from extraction to evaluation, and what a window costs.

The teacher here has an eighth convolution, so it gives a frame of 720 samples every 640: SEW's framing.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import contents, extracted, make_teacher
from test_train import short

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.plan import WAVEFORM
from gdist.pipeline.cache.remains import remains
from gdist.pipeline.errors import DeviceMemoryError
from gdist.pipeline.framing import SAMPLE_RATE, Framing
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import usable_entries
from gdist.pipeline.run import Run
from gdist.pipeline.storage.objects import seal
from gdist.stages import teachers
from gdist.stages.extract import extract
from gdist.stages.extract.batching import planned, window_of
from gdist.stages.extract.receipts import from_shards
from gdist.stages.teachers import load_teacher
from gdist.stages.train.train import train

Gdist = Callable[..., Result]
SLOW = Framing(640, 720)
ROOT = "zarr.json"


@pytest.fixture(scope="module", autouse=True)
def any_geometry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "check_geometry", lambda config, name: None, raising=False)
        yield


@pytest.fixture(scope="module")
def slow_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    convolutions: dict[str, Any] = {"conv_dim": [16] * 8}
    convolutions |= {"conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2]}
    return make_teacher(tmp_path_factory.mktemp("slow") / "slow-wavlm", **convolutions)


@pytest.fixture(scope="module")
def slow_cache(slow_teacher: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow-cache") / "cache"
    assert extracted(slow_teacher, speech, folder, encoding="fp32")["utterances"] == 30
    return folder


def test_what_is_stored_is_what_the_teacher_computes(slow_teacher: Path, slow_cache: Path) -> None:
    cache, teacher = Cache.open(str(slow_cache)), load_teacher(str(slow_teacher))
    assert cache.framing == teacher.framing == SLOW
    assert cache.identity["framing"] == SLOW.to_dict() and "window_samples" not in cache.identity["teacher"]
    assert cache.specs[WAVEFORM].width == 640
    for entry in cache.entries:
        span = (entry, 0, entry.num_frames)
        assert entry.num_frames == SLOW.num_frames(entry.num_samples)
        waveform_1S = torch.from_numpy(cache.waveform([span])[0])[None].float() / 32_768
        states = list(teacher.hidden_states(waveform_1S, torch.tensor([entry.num_samples])))
        torch.testing.assert_close(cache.hidden(3, [span])[0], states[3][0], atol=1e-4, rtol=1e-4)


def test_batches_and_crops(slow_cache: Path) -> None:
    """Seconds are seconds of audio, and the samples of a crop are those under its frames."""
    cache = Cache.open(str(slow_cache))
    loader = Loader(cache, usable_entries(cache), Selection((0, 2)), batch_seconds=8.0, crop_seconds=1.0)
    assert (loader.batch_frames, loader.crop_frames) == (200, 25)
    cropped = 0
    for batch, spans in zip(loader, loader.epoch_batches(0), strict=False):
        assert batch.waveform_BS is not None and batch.framing == SLOW
        assert batch.audio_seconds == sum(frames for _, _, frames in spans) / 25
        assert SLOW.num_frames(batch.num_samples_B).tolist() == batch.num_frames_B.tolist()
        for row, (entry, first, frames) in enumerate(spans):
            cropped += frames < entry.num_frames
            whole = torch.from_numpy(cache.waveform([(entry, 0, entry.num_frames)])[0]).float() / 32_768
            samples = int(batch.num_samples_B[row])
            assert torch.equal(batch.waveform_BS[row, :samples], whole[640 * first :][:samples])
            assert not batch.waveform_BS[row, samples:].any()
    assert cropped > 5


@pytest.mark.parametrize("student", ["gendistiller", "distilhubert"])
def test_train_and_evaluate(slow_cache: Path, tmp_path: Path, gdist: Gdist, student: str) -> None:
    train(str(slow_cache), tmp_path / "run", short(student, data__crop_seconds=1.0), show_progress=False)
    trained = [row["audio_seconds"] for row in Run(tmp_path / "run").read_metrics() if row["kind"] == "train"]
    assert all(0 < seconds <= 2 * 8 for seconds in trained)
    result = gdist("eval", tmp_path / "run", "--probes", "sid", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [row["layer"] for row in found["layers"]] == [1, 2, 3]
    assert all(
        "sid" in probes for probes in (found["probes"], found["teacher"]["probes"], found["log_mel"]["probes"])
    )


def test_a_part_is_copied(slow_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    result = gdist("copy", slow_cache, tmp_path / "part", "--where", "split=test", "--encoding", "int8")
    assert result.exit_code == 0, result.stderr
    part, whole = Cache.open(str(tmp_path / "part")), Cache.open(str(slow_cache))
    assert part.framing == SLOW and len(part.entries) == 8
    for entry in part.entries:
        of_whole = whole.utterances[entry.id]
        (copied,), (stored,) = (
            part.waveform([(entry, 0, entry.num_frames)]),
            whole.waveform([(of_whole, 0, of_whole.num_frames)]),
        )
        assert np.array_equal(copied, stored)


@pytest.mark.parametrize(
    "lost", ["waveform/c/0/0", "layers/01/c/1/0", "index.parquet plans/00000.parquet", "receipts/00001.json"]
)
def test_what_is_lost_is_repaired(
    slow_teacher: Path, slow_cache: Path, speech: Path, tmp_path: Path, gdist: Gdist, lost: str
) -> None:
    """To the same bytes."""
    before, cache = contents(slow_cache), tmp_path / "cache"
    for key, data in before.items():
        (cache / key).parent.mkdir(parents=True, exist_ok=True)
        (cache / key).write_bytes(data)
    for key in lost.split():
        (cache / key).unlink()
    result = gdist("verify", cache, "--repair", "--teacher", slow_teacher, "--manifest", speech)
    assert result.exit_code == 0, result.stderr
    assert contents(cache) == before


def test_what_a_cache_says_of_it(slow_cache: Path, gdist: Gdist) -> None:
    assert "25 per second, each of 720 samples" in gdist("inspect", slow_cache).stdout
    (found,) = json.loads(gdist("caches", slow_cache, "--json").stdout)["caches"]
    frames = int(Cache.open(str(slow_cache)).entries.numbers("num_frames").sum())
    assert found["audio_seconds"] == frames / 25


def test_it_grows(slow_teacher: Path, slow_cache: Path, speech: Path, tmp_path: Path) -> None:
    """Layers are added, and the cache is the same as one that was extracted at once."""
    for layers in ("0,2", "all"):
        extracted(slow_teacher, speech, tmp_path / "cache", encoding="fp32", layers=layers)
    grown, whole = Cache.open(str(tmp_path / "cache")), Cache.open(str(slow_cache))
    assert grown.identity == whole.identity
    spans = [(entry, 0, entry.num_frames) for entry in whole.entries]
    for one, other in zip(grown.hidden(3, spans), whole.hidden(3, spans), strict=True):
        assert torch.equal(one, other)


def test_the_estimate(slow_teacher: Path, slow_cache: Path, speech: Path, gdist: Gdist) -> None:
    result = gdist("plan", "--teacher", slow_teacher, "--manifest", speech, "--pack-frames", 512, "--json")
    assert result.exit_code == 0, result.stderr
    found, cache = json.loads(result.stdout), Cache.open(str(slow_cache))
    assert (found["frames"], found["packs"]) == (int(cache.entries.numbers("num_frames").sum()), cache.packs)
    rows = {row["name"]: row["bytes"] for row in found["encodings"]}
    assert sum(map(len, contents(slow_cache).values())) <= rows["fp32"]
    result = gdist("plan", "--teacher", slow_teacher, "--hours", 1, "--utterance-seconds", 10, "--json")
    assert json.loads(result.stdout)["frames"] == 360 * SLOW.num_frames(10 * SAMPLE_RATE)


def test_limits_of_the_teacher(
    tiny_teacher: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gdist: Gdist
) -> None:
    """Utterances that are longer than a teacher can process are not given to it, and one is told what to do."""

    def limited(*args: Any, **options: Any) -> Any:
        teacher = load_teacher(*args, **options)
        teacher.framing = dataclasses.replace(teacher.framing, longest=SAMPLE_RATE * 3 // 2)
        return teacher

    monkeypatch.setattr(extract, "load_teacher", limited)
    result = gdist("extract", "--teacher", tiny_teacher, "--manifest", speech, "--cache", tmp_path / "cache")
    assert result.exit_code == 3, result.stderr
    assert "this teacher takes 1.5 s (manifest build --split-seconds 1.5 cuts it)" in result.stderr.replace("\n", " ")
    cache = Cache.open(str(tmp_path / "cache"))
    assert cache.framing.longest == 24_000 and cache.quarantine()
    assert all((entry.num_samples > 24_000) == (entry.id in cache.quarantine()) for entry in cache.entries)


class TestWindow:
    """A teacher that computes a whole window for each utterance, such as Whisper."""

    def test_batches_stay_within_what_was_asked_for(
        self, tiny_teacher: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []

        def windowed(*args: Any, **options: Any) -> Any:
            teacher = load_teacher(*args, **options)
            teacher.least_samples = 4 * SAMPLE_RATE
            computed = teacher.hidden_states

            def counted(waveform_BS: torch.Tensor, *rest: Any) -> Iterator[torch.Tensor]:
                sizes.append(len(waveform_BS) * max(waveform_BS.shape[1], 4 * SAMPLE_RATE))
                return computed(waveform_BS, *rest)

            monkeypatch.setattr(teacher, "hidden_states", counted)
            return teacher

        monkeypatch.setattr(extract, "load_teacher", windowed)
        extracted(tiny_teacher, speech, tmp_path / "cache", batch_seconds=12.0, encoding="fp32")
        cache = Cache.open(str(tmp_path / "cache"))
        assert window_of(cache.identity) == cache.identity["teacher"]["window_samples"] == 4 * SAMPLE_RATE
        assert max(sizes) <= 12 * SAMPLE_RATE and len(sizes) >= 10
        cut = [planned(cache.pack_entries(pack), cache.identity, "cpu") for pack in range(cache.packs)]
        assert sum(len(list(batches)) for batches in cut) == len(sizes)
        for task in cache.tasks:  # what is measured again from the shards is measured in the same batches
            again, receipt = from_shards(cache, remains(cache, task, None)), cache.receipt(task)
            assert receipt is not None and again["statistics"] == receipt["statistics"]

    def test_memory_that_does_not_suffice(
        self, tiny_teacher: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The advice is what helps: shorter utterances take as much."""

        def windowed(*args: Any, **options: Any) -> Any:
            teacher = load_teacher(*args, **options)
            teacher.least_samples = 4 * SAMPLE_RATE
            monkeypatch.setattr(teacher, "hidden_states", full)
            return teacher

        def full(*args: Any) -> Iterator[torch.Tensor]:
            raise MemoryError

        monkeypatch.setattr(extract, "load_teacher", windowed)
        for seconds, said, advice in (
            (8.0, "2 utterances, in windows of 4 s", "--batch-seconds 4 --restart"),
            (1.0, "one utterance, in a window of 4 s", "--device cpu --restart"),
        ):
            with pytest.raises(DeviceMemoryError, match=said) as caught:
                extracted(tiny_teacher, speech, tmp_path / f"{seconds}", batch_seconds=seconds, layers="0")
            assert advice in str(caught.value.hint)


def rewritten(cache: Path, framing: Any) -> None:
    """Give a cache another framing; None for none at all, and a hop as there was before."""
    root = json.loads((cache / ROOT).read_bytes())
    identity = root["attributes"]["gdist"]["identity"]
    if framing is None:
        del identity["framing"]
        identity |= {"hop": 320, "receptive_field": 400}
    else:
        identity["framing"] = framing
    (cache / ROOT).write_bytes(seal(root, root["attributes"]["gdist"]))


def test_a_cache_without_a_framing(own_cache: Path, tiny_teacher: Path, speech: Path, gdist: Gdist) -> None:
    """Says of which revision it is, wherever it is opened, and can be replaced."""
    rewritten(own_cache, None)
    out = own_cache.parent / "out"
    for command in (
        ("verify", own_cache), ("inspect", own_cache), ("verify", "--repair", own_cache), ("copy", own_cache, out),
        ("train", "--cache", own_cache, "--out", out),
    ):  # fmt: skip
        result = gdist(*command)
        text = result.stderr.replace("\n", " ")
        assert result.exit_code == 1 and "earlier revision of gdist" in text and "--restart" in text, command
    result = gdist("caches", own_cache.parent)
    assert result.exit_code == 0 and "earlier revision of gdist" in result.stderr.replace("\n", " ")
    assert extracted(tiny_teacher, speech, own_cache, restart=True)["utterances"] == 30


@pytest.mark.parametrize(
    "framing",
    ["320", 320, [], {}, {"hop": 320}, SLOW.to_dict() | {"hop": 0}, SLOW.to_dict() | {"hop": "640"},
     SLOW.to_dict() | {"window": 2.5}, SLOW.to_dict() | {"left": -1}, SLOW.to_dict() | {"extra": {}}],
)  # fmt: skip
def test_nonsense_is_refused(own_cache: Path, gdist: Gdist, framing: Any) -> None:
    rewritten(own_cache, framing)
    out = own_cache.parent / "out"
    for command in (("verify",), ("inspect",), ("verify", "--repair"), ("copy", "--dry-run")):
        result = gdist(*command, own_cache, *[out] * ("copy" in command))
        assert result.exit_code == 1 and "framing that no teacher has" in result.stderr.replace("\n", " "), command
    found = json.loads(gdist("caches", own_cache.parent, "--json").stdout)
    assert not found["caches"] and "framing" in found["problems"][0]["reason"]
