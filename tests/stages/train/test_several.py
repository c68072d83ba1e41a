"""Students of several teachers, trained from a cache of each; and one teacher whose layers were extracted apart."""

import json
import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import Result
from conftest import contents, extracted, make_teacher
from test_train import Killed, curves, kill_at, short

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError, ConfigError, RunError, UsageError
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.joined import Joined, named_locations
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import usable_entries
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.run import Run
from gdist.stages.evaluate.evaluate import eval_command
from gdist.stages.students import load_student
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.member import Request
from gdist.stages.train.student_store import build_student
from gdist.stages.train.together import train_together
from gdist.stages.train.train import train

Gdist = Callable[..., Result]
WIDE = {"hidden_size": 48, "num_hidden_layers": 2}  # another width and depth than the tiny teacher's 32 and 3
# Frames of 720 samples every 640: half as many as the tiny teacher's.
SLOW = {"conv_dim": [16] * 8, "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2]}


@pytest.fixture(scope="module")
def other_cache(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Path:
    """A cache of a second teacher, over the same speech."""
    folder = tmp_path_factory.mktemp("other")
    extracted(make_teacher(folder / "wide", seed=1, **WIDE), speech, folder / "cache")
    return folder / "cache"


def go(caches: list[str], out: Path, config: TrainConfig, **more: Any) -> dict[str, Any]:
    result = train(caches, out, config, show_progress=False, **more)
    assert result is not None
    return result


def of(*folders: Path) -> Joined:
    return Joined([("", Cache.open(str(folder))) for folder in folders])


def two(first: Path, second: Path) -> list[str]:
    return [f"a={first}", f"b={second}"]


# --- one cache, and one teacher -------------------------------------------------------------------------------------


def test_one_cache_is_what_it_was(tiny_cache: Path, tmp_path: Path) -> None:
    go([str(tiny_cache)], tmp_path / "run", short(train__steps=2))
    train(str(tiny_cache), tmp_path / "again", short(train__steps=2), show_progress=False)
    assert contents(tmp_path / "run" / "student") == contents(tmp_path / "again" / "student")
    run = Run(tmp_path / "run")
    assert run.provenance()["cache_checksum"] == Cache.open(str(tiny_cache)).gdist["checksum"]
    assert not {"caches", "teachers"} & run.provenance().keys()
    assert "teacher_weights" not in run.tables()["loss"]
    assert "other_teachers" not in json.loads((run.student / "config.json").read_text())
    assert "cosine_by_teacher" not in run.read_metrics()[-1]


def test_a_single_location_is_taken_as_typed(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a=b").symlink_to(tiny_cache)
    monkeypatch.chdir(tmp_path)
    assert Cache.open(named_locations(["a=b"])[0][1]).layers == [0, 1, 2, 3]
    assert named_locations(["a=b", "./a=b", "c=s3://b/x=y"]) == [("a", "b"), ("", "./a=b"), ("c", "s3://b/x=y")]


@pytest.mark.parametrize(
    ("student", "fields"),
    [("gendistiller", {"student__history": "mixed"}), ("distilhubert", {"student__frontend": "frozen"})],
)
def test_layers_apart_are_one_cache(
    tiny_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path, student: str, fields: dict[str, Any]
) -> None:
    for layers in ("0,2", "1-3"):  # layer 2 is in both
        extracted(tiny_teacher, speech, tmp_path / layers, layers=layers)
    apart = [str(tmp_path / "0,2"), str(tmp_path / "1-3")]
    config = short(student, **fields, train__steps=5)
    go(apart, tmp_path / "apart", config)
    go([str(tiny_cache)], tmp_path / "whole", config)
    assert contents(tmp_path / "apart" / "student") == contents(tmp_path / "whole" / "student")
    assert curves(tmp_path / "apart") == curves(tmp_path / "whole")
    origin = Run(tmp_path / "apart").provenance()
    assert origin["layers"] == [0, 1, 2, 3] and "teachers" not in origin
    assert [each["layers"] for each in origin["caches"]] == [[0, 2], [1, 3]]
    assert eval_command([tmp_path / "apart"], None, "none", False, as_json=True) == 0


# --- two teachers ---------------------------------------------------------------------------------------------------

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("gendistiller", {"student__history": "mixed", "train__layers_per_step": 2, "loss__teacher_weights": [3.0, 1.0]}),
    ("gendistiller", {"student__history": "all", "student__frontend": "frozen", "train__layers_per_step": 1}),
    ("gendistiller", {"student__history": "teacher", "student__adapter_rank": 2, "train__ema_decay": 0.8}),
    ("distilhubert", {"augment__noise": 0.5, "train__precision": "bf16"}),
    ("fithubert", {"data__crop_seconds": 1.0, "train__accumulate": 2}),
    ("armhubert", {"student__predict_layers": ["a:1", "a:3", "b:2"]}),
]


@pytest.mark.parametrize(("student", "fields"), FORMS)
def test_two_teachers_killed_and_resumed(
    tiny_cache: Path,
    other_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    student: str,
    fields: dict[str, Any],
) -> None:
    config = short(student, **fields, train__steps=4, train__checkpoint_every=2)
    caches = two(tiny_cache, other_cache)
    go(caches, tmp_path / "whole", config)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)
        go(caches, tmp_path / "killed", config)
    go(caches, tmp_path / "killed", config)
    assert contents(tmp_path / "whole" / "student") == contents(tmp_path / "killed" / "student")
    assert curves(tmp_path / "whole") == curves(tmp_path / "killed")
    last = Run(tmp_path / "whole").read_metrics()[-1]
    assert last["cosine_by_teacher"].keys() == {"a", "b"}
    assert {name.partition(":")[0] for name in last["cosine_by_layer"]} == {"a", "b"}
    for name, mean in last["cosine_by_teacher"].items():
        own = [cosine for layer, cosine in last["cosine_by_layer"].items() if layer.startswith(f"{name}:")]
        assert mean == pytest.approx(sum(own) / len(own))
    model = load_student(tmp_path / "whole").eval()
    with torch.no_grad():
        states = {
            name: model(torch.randn(2, 4000), teacher=name, output_hidden_states=True).hidden_states
            for name in (None, "b")
        }
    assert [len(states[None]), len(states["b"])] == [4, 3]
    assert states[None][3].shape == (2, 12, 32) and states["b"][2].shape == (2, 12, 48)
    with pytest.raises(ValueError, match="must be one of b"):
        model(torch.randn(1, 4000), teacher="a")


def test_both_are_learned(tiny_cache: Path, other_cache: Path, tmp_path: Path) -> None:
    for student in ("gendistiller", "distilhubert"):
        config = short(student, train__steps=16, train__validate_every=4)
        go(two(tiny_cache, other_cache), tmp_path / student, config)
        curve = [row["cosine_by_teacher"] for row in Run(tmp_path / student).read_metrics() if row["kind"] == "valid"]
        assert all(curve[-1][name] > curve[0][name] for name in ("a", "b")), curve


def test_trained_together_is_trained_alone(tiny_cache: Path, other_cache: Path, tmp_path: Path) -> None:
    caches = two(tiny_cache, other_cache)
    configs = {"chains": short(data__seed=7, train__steps=3), "heads": short("distilhubert", data__seed=7)}
    for name, config in configs.items():
        go(caches, tmp_path / "alone" / name, config)
    requests = [Request(tmp_path / "both" / name, config) for name, config in configs.items()]
    assert all(isinstance(result, dict) for result in train_together(caches, requests, show_progress=False))
    for name in configs:
        assert contents(tmp_path / "alone" / name / "student") == contents(tmp_path / "both" / name / "student")


def test_weights_are_shares_of_the_teachers(tiny_cache: Path, other_cache: Path) -> None:
    from gdist.stages.train.objective import layer_weights

    caches = of(tiny_cache, other_cache)
    config = short("gendistiller", loss__layer_weights=[1.0, 2.0, 3.0, 1.0, 1.0], loss__teacher_weights=[3.0, 1.0])
    weights = layer_weights(build_student(caches, config), config)
    assert list(weights) == [1, 2, 3, 5, 6]  # the other teacher's layer 0 is number 4
    assert sum(weights[n] for n in (1, 2, 3)) / 5 == pytest.approx(0.75)
    assert sum(weights[n] for n in (5, 6)) / 5 == pytest.approx(0.25)
    assert weights[3] == pytest.approx(3 * weights[1])


def test_layers_of_each_teacher_are_loaded(tiny_cache: Path, other_cache: Path) -> None:
    student = build_student(of(tiny_cache, other_cache), short("gendistiller", student__initialize="layers"))
    for place, folder in enumerate((tiny_cache, other_cache)):
        import safetensors.torch

        given = safetensors.torch.load(Cache.open(str(folder)).document("layers.safetensors"))
        (layer,) = student.layers_of(place)
        own = layer.state_dict()
        assert all(torch.equal(own[name], given[f"0.{name}"]) for name in own)


def test_evaluated_exported_and_reported(
    tiny_cache: Path, other_cache: Path, tmp_path: Path, gdist: Gdist, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "two"
    go(two(tiny_cache, other_cache), out, short("gendistiller", train__steps=3))
    found = json.loads(gdist("eval", out, "--probes", "none", "--json").stdout)
    assert found["teachers"]["a"]["mean_cosine"] == found["mean_cosine"]
    other = found["teachers"]["b"]
    assert [row["layer"] for row in other["layers"]] == [1, 2] and other["predicted_layers"] == [1, 2]
    assert found["mean_cosine_of_all"] == pytest.approx((found["mean_cosine"] + other["mean_cosine"]) / 2)
    assert other["references"]["mean_frame"][0]["cosine"] < 1
    valid = [row for row in Run(out).read_metrics() if row["kind"] == "valid"][-1]
    shown = gdist("eval", out, "--probes", "none")
    assert shown.exit_code == 0 and "students of several teachers" in shown.output
    assert valid["cosine_by_teacher"]["b"] == pytest.approx(other["mean_cosine"], abs=0.1)

    refused = gdist("eval", out, "--cache", tiny_cache, "--probes", "none")
    assert refused.exit_code == 1 and "has 2 teachers" in refused.stderr and f"b={other_cache}" in refused.stderr
    given = [part for each in two(tiny_cache, other_cache) for part in ("--cache", each)]
    assert gdist("eval", out, *given, "--probes", "none").exit_code == 0

    assert gdist("export", out, "--format", "hf", "--out", tmp_path / "hf").exit_code == 0
    card = (tmp_path / "hf" / "README.md").read_text()
    assert 'teacher="b"' in card and "48 wide" in card
    page = gdist("report", out, "--out", tmp_path / "report.html")
    assert page.exit_code == 0, page.stderr
    text = (tmp_path / "report.html").read_text()
    assert "Fidelity to each teacher" in text and f"{other['mean_cosine']:.3f}" in text
    assert f"--cache a={tiny_cache} --cache b={other_cache}" in text


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow_first", [False, True])
def test_teachers_of_other_frame_rates(
    tiny_cache: Path, speech: Path, tmp_path: Path, slow_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame is given the other teacher's frame whose center is nearest."""
    extracted(make_teacher(tmp_path / "slow", seed=2, **SLOW), speech, tmp_path / "cache")
    folders = [tiny_cache, tmp_path / "cache"]
    caches = of(*(reversed(folders) if slow_first else folders))
    entries = usable_entries(caches)
    first, second = caches.teachers
    own, other = first.cache.framing, second.cache.framing
    selection = Selection((first.numbers[1], second.numbers[1]))
    for resident in (True, False):
        monkeypatch.setattr("gdist.pipeline.loading.loader.RESIDENT_BYTES", 2e9 if resident else 0)
        loader = Loader(caches, entries, selection, batch_seconds=6, crop_seconds=1.1, seed=3)
        seen = 0
        for spans, batch in zip(loader.epoch_batches(0), loader.stream(4), strict=False):
            for row, (entry, start, frames) in enumerate(spans):
                theirs = second.cache.layer(entry.id, 1)
                for t in range(frames):
                    center = (start + t) * own.hop - own.left + own.window / 2
                    centers = np.arange(len(theirs)) * other.hop - other.left + other.window / 2
                    far = np.abs(centers - center)
                    assert batch.num_frames_B[row] == frames
                    nearest = np.flatnonzero(far == far.min())[-1]
                    assert torch.equal(batch.hidden(selection.layers[1])[row, t], theirs[nearest])
                    seen += 1
                assert not batch.hidden(selection.layers[1])[row, frames:].any()
        assert seen > 100
    name = "slow" if slow_first else "tiny_wavlm"
    assert first.name == name
    go([str(part.cache.uri) for part in caches.parts], tmp_path / "run", short("gendistiller", train__steps=2))


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_utterances_of_one_cache_alone_are_left_out_and_counted(
    tiny_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(speech)
    teacher = make_teacher(tmp_path / "t", seed=1, **WIDE)
    Manifest(manifest.table.take([3, 9, 1, 20, 16, 25, 8]), manifest.root).write(tmp_path / "some.parquet")
    extracted(teacher, tmp_path / "some.parquet", tmp_path / "some", pack_frames=1024)
    caches = of(tiny_cache, tmp_path / "some")
    found = usable_entries(caches)
    assert [entry.id for entry in found] == [
        row["id"] for i, row in enumerate(manifest.table.to_pylist()) if i in {1, 3, 8, 9, 16, 20, 25}
    ]
    assert "7 utterances are in both caches and used; 23 are only in" in capfd.readouterr().err.replace("\n", " ")
    assert len(caches.unsettled) == 1, "the packs differ, so that samples are compared when they are read"
    go([str(tiny_cache), str(tmp_path / "some")], tmp_path / "run", short("gendistiller", train__steps=2))


def renamed(cache: Path, speech: Path, out: Path, ids: Callable[[list[str]], list[str]]) -> None:
    """A cache of another teacher whose utterances have other names."""
    manifest = Manifest.read(speech)
    table = manifest.table
    names = pa.array(ids(table["id"].to_pylist()))
    Manifest(table.set_column(table.schema.get_field_index("id"), "id", names), manifest.root).write(
        out.with_suffix(".parquet")
    )
    extracted(make_teacher(out.with_suffix(".teacher"), seed=1, **WIDE), out.with_suffix(".parquet"), out)


def swapped(names: list[str]) -> list[str]:
    return [names[1], names[0], *names[2:]]


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        (lambda names: [f"x{name}" for name in names], "no usable utterance of .* has the id of one of"),
        (swapped, "is not the same audio in .*: .* samples are stored in one, .* in the other"),
    ],
)
def test_other_utterances_are_refused(
    tiny_cache: Path, speech: Path, tmp_path: Path, ids: Callable[[list[str]], list[str]], error: str
) -> None:
    renamed(tiny_cache, speech, tmp_path / "other", ids)
    with pytest.raises(CacheMismatchError, match=error) as caught:
        go([str(tiny_cache), str(tmp_path / "other")], tmp_path / "run", short())
    assert caught.value.hint == "extract both from the same manifest" + " and the same files" * (ids is swapped)


def recorded(speech: Path, folder: Path, gain: int) -> Path:
    """A manifest of three recordings; another gain gives the same names and lengths, and other samples."""
    folder.mkdir()
    rows = []
    for place, split in enumerate(("train", "train", "valid")):
        samples_S = np.random.default_rng(place).integers(-999, 999, 16_000 + 777 * place) * gain
        with wave.open(str(folder / f"{place}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(samples_S.astype("<i2").tobytes())
        about = {"path": f"{place}.wav", "start": 0, "num_samples": len(samples_S), "sample_rate": 16_000}
        rows.append({"id": f"u{place}", "split": split} | about)
    out = folder / "manifest.parquet"
    Manifest(pa.Table.from_pylist(rows, schema=Manifest.read(speech).table.schema), str(folder)).write(out)
    return out


def test_other_samples_of_the_same_length_are_refused(tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
    """As of a noisy copy of a corpus. A student that reads no audio is not spared."""
    extracted(tiny_teacher, recorded(speech, tmp_path / "plain", 1), tmp_path / "first")
    other = make_teacher(tmp_path / "wide", seed=1, **WIDE)
    extracted(other, recorded(speech, tmp_path / "loud", 2), tmp_path / "second")
    for frontend in ("trained", "frozen"):
        with pytest.raises(CacheMismatchError, match=r"is not the same audio in .*: their samples differ"):
            go(
                [str(tmp_path / "first"), str(tmp_path / "second")],
                tmp_path / frontend,
                short(student__frontend=frontend),
            )


@pytest.mark.parametrize(
    ("caches", "settings", "error", "message"),
    [
        ("aa", {}, UsageError, "is given twice"),
        ("ac", {}, CacheError, "adds nothing to"),
        ("ab", {"student__predict_layers": ["a:1", "x:2"]}, ConfigError, "x:2, and the teachers are a, b"),
        ("ab", {"student__predict_layers": ["a:1"]}, ConfigError, "has no layer of b"),
        ("ab", {"student__predict_layers": ["a:1", "b:3"]}, ConfigError, "For the teacher b: .* between 1 and 2"),
        ("ab", {"student__predict_layers": [3]}, ConfigError, "For the teacher b: .* between 1 and 2"),
        ("a", {"student__predict_layers": ["a:1"]}, ConfigError, "there is one teacher"),
        ("ab", {"loss__teacher_weights": [1.0]}, ConfigError, "has 1 numbers, and the student has 2 teachers"),
        ("ab", {"loss__layer_weights": [1.0, 1.0, 1.0, 0.0, 0.0]}, ConfigError, "is 0 for all layers of b"),
    ],
)
def test_what_cannot_be_is_refused(
    tiny_cache: Path,
    other_cache: Path,
    tmp_path: Path,
    caches: str,
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    copy = tmp_path / "copy"
    if "c" in caches:
        shutil.copytree(tiny_cache, copy)
    folders = {"a": tiny_cache, "b": other_cache, "c": copy}
    given = [f"{name}={folders[name]}" for name in caches] if len(caches) > 1 else [str(tiny_cache)]
    with pytest.raises(error, match=message):
        go(given, tmp_path / "run", short(**settings))
    assert not (tmp_path / "run").exists()


def test_layers_that_a_cache_lacks_are_named(tiny_cache: Path, speech: Path, tmp_path: Path) -> None:
    extracted(make_teacher(tmp_path / "t", seed=1, **WIDE), speech, tmp_path / "few", layers="0,2")
    with pytest.raises(CacheError, match=r"needs layers b:1, but the caches at .* contain only a:0, a:1.* b:2"):
        go(two(tiny_cache, tmp_path / "few"), tmp_path / "run", short())
    go(
        two(tiny_cache, tmp_path / "few"),
        tmp_path / "run",
        short(student__predict_layers=["a:3", "b:2"], train__steps=2),
    )


def test_two_teachers_of_one_name_need_names(tiny_cache: Path, speech: Path, tmp_path: Path) -> None:
    extracted(make_teacher(tmp_path / "tiny-wavlm", seed=1), speech, tmp_path / "cache")
    with pytest.raises(UsageError, match="would be called tiny_wavlm") as caught:
        of(tiny_cache, tmp_path / "cache")
    assert caught.value.hint and f"--cache NAME={tiny_cache}" in caught.value.hint


def test_a_run_belongs_to_its_caches(tiny_cache: Path, other_cache: Path, tmp_path: Path) -> None:
    go(two(tiny_cache, other_cache), tmp_path / "run", short(train__steps=2))
    for given in (
        [str(tiny_cache)],
        [f"b={other_cache}", f"a={tiny_cache}"],
        [f"a={tiny_cache}", f"c={other_cache}"],
    ):
        with pytest.raises((RunError, ConfigError), match=r"a run of another config.*(.|\n)*not the same content"):
            go(given, tmp_path / "run", short(train__steps=2))


def test_damage_in_the_second_cache(tiny_cache: Path, other_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(other_cache, tmp_path / "other")
    shard = tmp_path / "other" / "layers" / "01" / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[10] ^= 255
    shard.write_bytes(data)
    caches = [f"a={tiny_cache}", f"b={tmp_path / 'other'}"]
    with pytest.raises(CacheDamagedError, match=r"layers/01 of the cache .*other"):
        go(caches, tmp_path / "run", short())
    go(caches, tmp_path / "skipping", short(data__skip_damaged=True, train__steps=3))


def test_a_student_of_ones_own_has_one_teacher(
    tiny_cache: Path, other_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gdist.stages.students import STUDENTS

    monkeypatch.setattr(STUDENTS["distilhubert"], "several_teachers", False)
    with pytest.raises(ConfigError, match="distilhubert learns from one teacher, and the caches are of 2"):
        go(two(tiny_cache, other_cache), tmp_path / "run", short("distilhubert"))
