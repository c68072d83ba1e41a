"""Training needs only the cache, and ends with the same bits however often it is interrupted."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import Result
from conftest import contents, extracted

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import CacheError, ConfigError, RunError
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.run import Run
from gdist.stages.train.config import OptimConfig, TrainConfig, load_config
from gdist.stages.train.learner import Learner
from gdist.stages.train.member import Member
from gdist.stages.train.schedule import forced_share
from gdist.stages.train.stopping import ASKED, finish_step
from gdist.stages.train.student_store import build_student, require_layers
from gdist.stages.train.train import train

SHORT = {
    "train.steps": 9,
    "train.batch_seconds": 8.0,
    "train.warmup_steps": 2,
    "train.lr": 2e-3,
    "train.log_every": 2,
    "train.validate_every": 4,
    "train.checkpoint_every": 3,
    "train.device": "cpu",
}


def short(student: str = "gendistiller", **fields: Any) -> TrainConfig:
    """A run of a second or two; dropout stays on, because a resumed run may draw it wrongly."""
    settings = SHORT | {name.replace("__", "."): value for name, value in fields.items()}
    return load_config(None, student, tuple(f"{name}={json.dumps(value)}" for name, value in settings.items()))


def run(cache: Path, out: Path, config: TrainConfig) -> dict[str, Any]:
    result = train(str(cache), out, config, show_progress=False)
    assert result is not None
    return result


def curves(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the fields that depend on the clock."""
    timed = {"seconds", "step_seconds", "step_cpu_seconds", "data_wait_fraction", "audio_seconds_per_second"}
    return [{key: row[key] for key in row if key not in timed} for row in Run(folder).read_metrics()]


class Killed(BaseException):
    """Stands for SIGKILL inside the process: nothing may catch it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = Learner.begin

    def dying(self: Learner, number: int, *rest: Any) -> None:
        if number == step:
            raise Killed
        original(self, number, *rest)

    monkeypatch.setattr(Learner, "begin", dying)


@pytest.mark.parametrize(
    ("student", "fields"),
    [
        ("gendistiller", {}),
        ("gendistiller", {"student__history": "mixed"}),
        ("gendistiller", {"student__history": "teacher", "train__accumulate": 2}),
        ("gendistiller", {"student__frontend": "frozen", "data__crop_seconds": 1.0}),
        ("distilhubert", {"student__initialize": "layers", "train__precision": "bf16"}),
        ("gendistiller", {"student__history": "all", "train__layers_per_step": 2, "train__ema_decay": 0.8}),
        ("gendistiller", {"train__layers_per_step": 1, "train__accumulate": 2, "train__forcing_steps": 6}),
        ("gendistiller", {"student__frontend": "frozen", "train__thaw_step": 4, "augment__noise": 0.7}),
        ("armhubert", {"loss__name": "mse", "loss__layer_weights": [0.1, 0.1, 1.0], "augment__speech": 0.5}),
    ],
)
def test_killed_and_resumed_equals_never_killed(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: str, fields: dict[str, Any]
) -> None:
    config = short(student, **fields)
    run(tiny_cache, tmp_path / "whole", config)
    for step in (2, 5, 8):  # before the first checkpoint, between two, and after the last but one
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, step)
            run(tiny_cache, tmp_path / "killed", config)
    run(tiny_cache, tmp_path / "killed", config)
    whole, resumed = contents(tmp_path / "whole" / "student"), contents(tmp_path / "killed" / "student")
    assert whole.keys() == resumed.keys()
    assert whole == resumed
    last = [contents(tmp_path / name / "checkpoints" / "step-0000009") for name in ("whole", "killed")]
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert last[0][name] == last[1][name]
    assert curves(tmp_path / "whole") == curves(tmp_path / "killed")


def test_paused_anywhere_equals_never_paused(tiny_cache: Path, tmp_path: Path) -> None:
    config = short("gendistiller", student__frontend="frozen", train__thaw_step=4)
    run(tiny_cache, tmp_path / "whole", config)
    for until in (2, 5, 5, 50):
        paused = train(str(tiny_cache), tmp_path / "paused", config, show_progress=False, until=until)
        assert paused is not None and paused["steps"] == min(until, 9)
        assert [row["step"] for row in Run(tmp_path / "paused").read_metrics() if row["kind"] == "valid"][-1] == min(
            until, 9
        )
        assert (tmp_path / "paused" / "student").exists() == (until == 50)
    assert contents(tmp_path / "whole" / "student") == contents(tmp_path / "paused" / "student")


COMMAND = [sys.executable, "-c", "from gdist.stages.cli import main; main()"]


def started(cache: Path, out: Path, steps: int) -> subprocess.Popen[str]:
    settings = SHORT | {"train.steps": steps, "train.log_every": 1}
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return subprocess.Popen(
        [*COMMAND, "train", "--cache", str(cache), "--out", str(out), *flags],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while max((row["step"] for row in Run(out).read_metrics()), default=0) < step:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.thorough
def test_a_real_process_killed_and_interrupted(tiny_cache: Path, tmp_path: Path) -> None:
    steps = 24
    settings = tuple(
        f"{name}={value}" for name, value in (SHORT | {"train.steps": steps, "train.log_every": 1}).items()
    )
    run(tiny_cache, tmp_path / "whole", load_config(None, None, settings))

    out = tmp_path / "killed"
    process = started(tiny_cache, out, steps)
    wait_for_step(out, 4, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = started(tiny_cache, out, steps)
    wait_for_step(out, 9, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again" in stderr
    stopped = Run(out).steps()[-1]
    assert stopped >= 9, "Ctrl-C saves where it stopped"
    process = started(tiny_cache, out, steps)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0 and f"resuming {out} after step {stopped}" in stderr
    assert contents(tmp_path / "whole" / "student") == contents(out / "student")


@pytest.fixture
def hang_up() -> Iterator[None]:
    """A lost terminal ends processes, even where `nohup make test` had switched that off."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
@pytest.mark.parametrize("number", ASKED)
def test_asked_to_stop(number: int, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a person, a scheduler or a lost terminal: the step is kept, and the same command goes on from there."""
    settings = short(train__log_every=1)
    run(tiny_cache, tmp_path / "whole", settings)
    report = Member.report_steps

    def ask(self: Member) -> None:
        report(self)
        if self.step == 3:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Member, "report_steps", ask)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_cache, tmp_path / "run", settings)
    assert Run(tmp_path / "run").steps()[-1] == 3, "no other step is begun"
    run(tiny_cache, tmp_path / "run", settings)
    assert contents(tmp_path / "whole" / "student") == contents(tmp_path / "run" / "student")


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with finish_step() as stopping:
            signal.raise_signal(signal.SIGHUP)
            assert not stopping
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_student_learns_only_from_its_split(tiny_cache: Path, tmp_path: Path) -> None:
    result = run(tiny_cache, tmp_path / "run", short(train__steps=60, train__log_every=10))
    rows = [row for row in Run(tmp_path / "run").read_metrics() if row["kind"] == "train"]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert result["steps"] == 60 and result["loss"] == rows[-1]["loss"]
    assert 0 <= result["data_wait_fraction"] <= 1 and result["audio_seconds_per_second"] > 0
    assert Run(tmp_path / "run").provenance()["utterances"] == {"train": 14, "valid": 8, "test": 8}
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_finished_run_does_not_change(tiny_cache: Path, tmp_path: Path) -> None:
    first = run(tiny_cache, tmp_path / "run", short())
    before = contents(tmp_path / "run" / "student") | contents(tmp_path / "run" / "checkpoints")
    assert run(tiny_cache, tmp_path / "run", short()) == first
    assert contents(tmp_path / "run" / "student") | contents(tmp_path / "run" / "checkpoints") == before


def test_the_saved_config_repeats_the_run(tiny_cache: Path, tmp_path: Path) -> None:
    run(tiny_cache, tmp_path / "first", short("distilhubert", student__num_layers=1))
    run(tiny_cache, tmp_path / "again", load_config(str(tmp_path / "first" / "config.toml"), None, ()))
    assert contents(tmp_path / "first" / "student") == contents(tmp_path / "again" / "student")


def test_noise_on_a_front_end_that_never_reads_audio_is_refused() -> None:
    with pytest.raises(ConfigError, match="starts from cached layer 0") as caught:
        load_config(None, None, ("student.frontend=frozen", "augment.noise=0.5"))
    assert caught.value.hint and "train.thaw_step" in caught.value.hint


def test_checkpoints_are_kept_by_number(tiny_cache: Path, tmp_path: Path) -> None:
    run(tiny_cache, tmp_path / "run", short(train__checkpoint_every=2, train__keep_checkpoints=3))
    assert Run(tmp_path / "run").steps() == [6, 8, 9]
    run(
        tiny_cache,
        tmp_path / "other",
        short(train__checkpoint_every=1, train__keep_checkpoints=1, train__keep_every=4),
    )
    assert Run(tmp_path / "other").steps() == [4, 8, 9]


def test_another_config_is_refused_with_the_difference(tiny_cache: Path, tmp_path: Path) -> None:
    run(tiny_cache, tmp_path / "run", short())
    with pytest.raises(RunError, match=r"train\.lr: 0\.002 → 0\.5"):
        run(tiny_cache, tmp_path / "run", short(train__lr=0.5))
    run(tiny_cache, tmp_path / "run", short(train__checkpoint_every=5))  # what is computed stays the same


def test_another_cache_is_refused_and_a_moved_one_is_not(
    tiny_teacher: Path, speech: Path, tiny_cache: Path, own_cache: Path, tmp_path: Path
) -> None:
    run(tiny_cache, tmp_path / "run", short())
    run(own_cache, tmp_path / "run", short())  # a copy
    extracted(tiny_teacher, speech, tmp_path / "fp32", encoding="fp32")
    with pytest.raises(RunError, match=r"cache: .* → .*fp32"):
        run(tmp_path / "fp32", tmp_path / "run", short())


def test_a_frozen_front_end_needs_no_audio(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_audio(self: Cache, spans: Any) -> Any:
        raise AssertionError("audio was read")

    config = short(student__frontend="frozen")
    with monkeypatch.context() as patch:
        patch.setattr(Cache, "waveform", no_audio)
        run(tiny_cache, tmp_path / "run", config)
    cache = Cache.open(str(tiny_cache))
    begun, trained = build_student(cache, config), build_student(cache, config)
    trained.load_state_dict(Run(tmp_path / "run").load(9)[0]["model"])
    for (name, before), after in zip(begun.named_parameters(), trained.parameters(), strict=True):
        assert torch.equal(before, after) == name.startswith("frontend."), name


def weights_at(out: Path, step: int) -> dict[str, torch.Tensor]:
    return Run(out).load(step)[0]["model"]


def test_the_front_end_thaws_at_its_step(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then no audio is read and its weights do not change: the run equals a frozen one's, bit for bit."""
    settings: dict[str, Any] = {
        "student__frontend": "frozen",
        "train__checkpoint_every": 1,
        "train__keep_checkpoints": 9,
    }
    spans_read: list[int] = []
    original = Cache.waveform

    def counting_audio(self: Cache, spans: Any) -> Any:
        spans_read.append(len(spans))
        return original(self, spans)

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "waveform", counting_audio)
        run(tiny_cache, tmp_path / "frozen", short(**settings))
        assert not spans_read
        run(tiny_cache, tmp_path / "thawed", short(**settings, train__thaw_step=5))
        assert spans_read
    begun, frozen, thawed = (
        weights_at(tmp_path / name, step) for name, step in (("thawed", 4), ("frozen", 9), ("thawed", 9))
    )
    same = weights_at(tmp_path / "frozen", 4)
    assert all(torch.equal(weight, same[name]) for name, weight in begun.items())
    frontend_names = [name for name in begun if name.startswith("frontend.")]
    assert all(torch.equal(begun[name], frozen[name]) for name in frontend_names)
    assert any(not torch.equal(begun[name], thawed[name]) for name in frontend_names)


def test_few_layers_are_read_and_few_computed(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step on one layer reads that layer and the one it starts from, and audio only if that is layer 0."""
    monkeypatch.setattr("gdist.pipeline.loading.loader.RESIDENT_BYTES", 0)
    read: list[str] = []
    original = Cache._read

    def counting(self: Cache, name: str, *rest: Any) -> Any:
        read.append(name)
        return original(self, name, *rest)

    monkeypatch.setattr(Cache, "_read", counting)
    cache, config = Cache.open(str(tiny_cache)), short(train__layers_per_step=1, student__dropout=0.0)
    learner = Learner(build_student(cache, config), config)
    loader = Loader(cache, cache.entries, learner.objective.training_selection, 8.0)
    by_answer = {1: {"layers/01", "waveform"}, 2: {"layers/01", "layers/02"}, 3: {"layers/02", "layers/03"}}
    seen = set()
    for place, spans in enumerate(list(loader.epoch_batches(0)) * 3):
        selection = learner.objective.training_selection(0, place)
        read.clear()
        learner.step(1, [loader.read(spans, selection)])
        (answer,) = selection.plan.answers
        assert set(read) == by_answer[answer] and len(read) == 2
        seen.add(answer)
    assert seen == {1, 2, 3}


def test_the_average_is_what_is_validated_and_kept(tiny_cache: Path, tmp_path: Path) -> None:
    """By hand: the average starts at the first weights and moves a tenth of the way at each step."""
    config = short(train__ema_decay=0.9, train__checkpoint_every=1, train__keep_checkpoints=9)
    run(tiny_cache, tmp_path / "run", config)
    kept = safetensors.torch.load_file(tmp_path / "run" / "student" / "model.safetensors")
    expected = weights_at(tmp_path / "run", 1)
    for step in range(2, 10):
        for name, weight in weights_at(tmp_path / "run", step).items():
            expected[name] = 0.9 * expected[name] + 0.1 * weight
    for name, weight in kept.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4)
        if "steps" in name and weight.ndim > 1:
            assert not torch.equal(weight, weights_at(tmp_path / "run", 9)[name])


def test_forcing_goes_from_the_teacher_to_the_student() -> None:
    """Over ten steps: 1, 0.9, … and from the eleventh on, the share that the history implies."""
    shares = [forced_share(OptimConfig(forcing_steps=10), step, 0.0) for step in (1, 2, 10, 11, 500)]
    assert shares == pytest.approx([1.0, 0.9, 0.1, 0.0, 0.0])
    assert forced_share(OptimConfig(forcing_steps=10), 6, 0.5) == pytest.approx(0.75)
    assert forced_share(OptimConfig(), 1, 0.3) == 0.3


def test_forcing_every_layer_equals_teacher_forcing(tiny_cache: Path) -> None:
    """A share of 1 gives what teacher forcing gives, although the batches are read differently."""
    cache = Cache.open(str(tiny_cache))
    losses = []
    for fields in (
        {"student__history": "teacher"},
        {"student__history": "mixed", "student__mixed_teacher_ratio": 1.0},
    ):
        config = short(student__dropout=0.0, **fields)
        learner = Learner(build_student(cache, config), config)
        losses.append([learner.step(k + 1, [b])[0] for k, b in enumerate(itertools.islice(
            Loader(cache, cache.entries, learner.objective.training_selection, 8.0), 4
        ))])  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_layer_weights_scale_the_loss(tiny_cache: Path) -> None:
    cache = Cache.open(str(tiny_cache))
    rows = []
    for weights in ([], [1.0, 1.0, 1.0], [0.0, 0.0, 3.0]):
        config = short(student__dropout=0.0, loss__layer_weights=weights)
        objective = Learner(build_student(cache, config), config).objective
        selection = objective.validation_selection()
        loss_K, _ = objective(next(Loader(cache, cache.entries, selection, 8.0).once(selection)))
        rows.append(loss_K.detach())
    assert torch.equal(rows[0], rows[1])
    torch.testing.assert_close(rows[2], rows[0] * torch.tensor([0.0, 0.0, 3.0]))
    with pytest.raises(ConfigError, match="2 numbers for the 3 predicted layers"):
        config = short(loss__layer_weights=[1.0, 2.0])
        Learner(build_student(cache, config), config)


def test_audio_is_augmented_in_training_only(tiny_cache: Path) -> None:
    """Targets stay clean, validation uses clean speech, and the same step gets the same noise."""
    cache = Cache.open(str(tiny_cache))
    config = short(augment__noise=1.0, student__dropout=0.0)
    learner, clean = (Learner(build_student(cache, c), c) for c in (config, short(student__dropout=0.0)))
    selection = learner.objective.validation_selection()
    batch = next(Loader(cache, cache.entries, selection, 8.0).once(selection))
    held = batch.hidden_BLTD.clone(), batch.waveform_BS.clone()  # type: ignore[union-attr]
    assert learner.validate([batch]) == clean.validate([batch])
    first = learner.step(1, [learner.augmented(1, 0, batch)])[0]
    assert first != clean.step(1, [batch])[0]
    again = Learner(build_student(cache, config), config)
    assert first == again.step(1, [again.augmented(1, 0, batch)])[0]
    assert torch.equal(batch.hidden_BLTD, held[0]) and torch.equal(batch.waveform_BS, held[1])  # type: ignore[arg-type]


def test_gradients_of_several_batches_add_up(tiny_cache: Path) -> None:
    """The same batch twice gives the same step as once, when nothing is random."""
    cache, config = Cache.open(str(tiny_cache)), short(student__dropout=0.0)
    weights = []
    for times in (1, 2):
        learner = Learner(build_student(cache, config), config)
        selection = learner.objective.validation_selection()
        batch = next(Loader(cache, cache.entries, selection, 8.0).once(selection))
        learner.step(1, [batch] * times)
        weights.append(learner.student.state_dict())
    for name in weights[0]:
        assert torch.allclose(weights[0][name], weights[1][name], atol=1e-6), name


def test_a_loss_that_is_not_finite_stops_and_names_the_utterances(tiny_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss at step \d+ is (nan|inf); utterances: (digit|prompt)-"):
        run(tiny_cache, tmp_path / "run", short(train__lr=1e30, train__clip_norm=1e30, train__warmup_steps=0))


def test_training_needs_a_complete_cache(own_cache: Path, tmp_path: Path) -> None:
    (own_cache / "receipts" / "00001.json").unlink()
    with pytest.raises(CacheError, match=r"1 of \d+ packs are missing") as caught:
        run(own_cache, tmp_path / "run", short())
    assert caught.value.hint and "gdist extract" in caught.value.hint
    run(own_cache, tmp_path / "run", short(data__skip_missing=True))
    assert Run(tmp_path / "run").provenance()["utterances"]["train"] < 14


def test_layers_that_are_not_cached_are_named(tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
    extracted(tiny_teacher, speech, tmp_path / "cache", layers="0,3")
    with pytest.raises(CacheError, match=r"needs layers \[1, 2\]"):
        run(tmp_path / "cache", tmp_path / "run", short())
    run(tmp_path / "cache", tmp_path / "other", short("distilhubert", student__predict_layers=[3]))


def test_the_next_command_is_one_that_works(
    tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    """Also where the cache lacks layers: those that it has are judged."""
    extracted(tiny_teacher, speech, tmp_path / "cache", layers="0,3")
    settings = SHORT | {"train.steps": 2, "student.predict_layers": [3]}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    for cache, out, follows in (
        (tmp_path / "cache", tmp_path / "a b", f"next: gdist eval '{tmp_path}/a b'"),
        (tiny_cache, tmp_path / "c", f"next: gdist eval {tmp_path}/c"),
    ):
        result = gdist("train", "--cache", cache, "--out", out, "--student", "distilhubert", *options)
        assert result.exit_code == 0 and follows in result.stderr
        assert gdist("eval", out, "--probes", "none").exit_code == 0
    shutil.rmtree(tmp_path / "cache" / "receipts")
    unfinished = gdist("eval", tmp_path / "a b")
    assert unfinished.exit_code == 1 and "--set" not in unfinished.stderr


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("train.stps=3", "unknown field `train.stps`", "train.steps"),
        ("trian.steps=3", r"unknown table \[trian\]", "train"),
        ("student.hisotry='mixed'", "hisotry", "history"),
        ("student.name=gendistller", "gendistller", "gendistiller"),
        ("loss.name=huber", "huber", "known: l1, l1_cos, l1_logcos, mse"),
        ("train.steps=0", "1 or more", None),
        ("train.steps=many", "expected int, got str", None),
        ("train.precision=fp8", "fp32, bf16", None),
        ("train.device=tpu", "no such kind of device|runs on cpu or cuda", "train.device = auto"),
        ("student.frontend=thawed", "trained, frozen", None),
        ("steps=3", r"table\.field=value", "--set train.steps"),
        ("augment.speed=0.5", "would move frames relative to the cached targets", None),
        ("train.thaw_step=5", "for a frozen front-end", "student.frontend=frozen"),
        ("train.ema_decay=1.0", "below 1", None),
    ],
)
def test_mistakes_in_a_config(tiny_cache: Path, tmp_path: Path, setting: str, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run(tiny_cache, tmp_path / "run", load_config(None, None, (setting,)))
    assert caught.value.exit_code == 2
    assert hint is None or hint in str(caught.value.hint)
    assert not (tmp_path / "run").exists(), "a mistake leaves nothing behind"


def test_a_folder_of_something_else_is_left_alone(tiny_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="contains no run"):
        run(tiny_cache, tmp_path, short())
    assert contents(tmp_path) == {"thesis.tex": b"mine"}


def test_the_command(tiny_cache: Path, tmp_path: Path, gdist: Callable[..., Result]) -> None:
    flags = [part for name, value in SHORT.items() for part in ("--set", f"{name}={value}")]
    result = gdist("train", "--cache", tiny_cache, "--out", tmp_path / "run", *flags, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout).keys() == {
        "steps", "loss", "step_seconds", "step_cpu_seconds", "data_wait_fraction", "audio_seconds_per_second",
        "bytes_fetched", "bytes_local",
    }  # fmt: skip
    result = gdist("train", "--cache", tmp_path / "nowhere", "--out", tmp_path / "other")
    assert result.exit_code == 1 and "no such folder" in result.stderr


def test_layers_of_another_kind_start_no_student(tiny_cache: Path) -> None:
    """A cache of such a teacher, for example a conformer, has a file of layers without tensors."""
    cache = Cache.open(str(tiny_cache))
    require_layers({"0.layer_norm.weight": torch.ones(1)}, cache)
    with pytest.raises(ConfigError, match=r"the layers of wavlm, .* are not made of") as caught:
        require_layers({}, cache)
    assert caught.value.hint is not None and "student.initialize=frontend" in caught.value.hint
