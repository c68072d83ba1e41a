"""Students that learn from one stream of batches end with the bits that each would have ended with alone."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import contents
from test_train import Killed, curves, kill_at, run, short

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import CacheDamagedError, ConfigError, RunError
from gdist.pipeline.run import Run
from gdist.stages.train.config import TrainConfig, load_config
from gdist.stages.train.learner import Learner
from gdist.stages.train.member import Request
from gdist.stages.train.stream import stream_key
from gdist.stages.train.together import train_together

# Four students that differ in everything that may differ.
FOUR: dict[str, TrainConfig] = {
    "own": short("gendistiller", train__seed=3, data__seed=7, augment__noise=0.6, train__checkpoint_every=2),
    "frozen": short(
        "gendistiller", student__frontend="frozen", train__layers_per_step=1, train__thaw_step=5, data__seed=7
    ),
    "baseline": short("distilhubert", loss__name="mse", train__lr=7e-4, data__seed=7, train__ema_decay=0.9),
    "longer": short("armhubert", train__steps=13, train__accumulate=2, train__precision="bf16", data__seed=7),
}


def together(
    cache: Path, folder: Path, configs: dict[str, TrainConfig], **until: int
) -> dict[str, dict[str, Any] | Exception]:
    requests = [Request(folder / name, config, until.get(name)) for name, config in configs.items()]
    return dict(zip(configs, train_together(str(cache), requests, show_progress=False), strict=True))


def require_same(folder: Path, alone: Path, names: Any, paused: bool = False) -> None:
    """Students, the last checkpoints' tensors, configs and curves are equal, bit for bit.

    A pause adds rows to the curves, so that only students and tensors are compared after one.
    """
    for name in names:
        for part in ("student", "config.toml"):
            own, other = folder / name / part, alone / name / part
            assert (contents(own) or own.read_bytes()) == (contents(other) or other.read_bytes()), (name, part)
        last = max(Run(alone / name).steps())
        files = [Run(each / name).load(last)[0] for each in (folder, alone)]
        for file, tensors in files[0].items():
            assert all(torch.equal(tensor, files[1][file][key]) for key, tensor in tensors.items()), (name, file)
        assert paused or curves(folder / name) == curves(alone / name), name


@pytest.fixture(scope="module")
def alone(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four, each trained alone."""
    folder = tmp_path_factory.mktemp("alone")
    for name, config in FOUR.items():
        run(tiny_cache, folder / name, config)
    return folder


def test_four_students_are_what_they_are_alone(
    alone: Path, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, int]] = []
    original = Cache.hidden

    def counting(self: Cache, layer: int, spans: Any, *rest: Any) -> Any:
        read.extend((entry.id, layer) for entry, _, _ in spans)
        return original(self, layer, spans, *rest)

    monkeypatch.setattr(Cache, "hidden", counting)
    assert len({stream_key(config) for config in FOUR.values()}) == 1
    found = together(tiny_cache, tmp_path, FOUR)
    require_same(tmp_path, alone, FOUR)
    assert len(read) == len(set(read)), "what fits into memory is read once for all"
    for name, result in found.items():
        assert isinstance(result, dict) and result["steps"] == FOUR[name].train.steps
        assert not (tmp_path / name / "training.json").exists()


def test_without_memory_they_are_the_same(
    alone: Path, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gdist.pipeline.loading.loader.RESIDENT_BYTES", 0)
    together(tiny_cache, tmp_path, FOUR)
    require_same(tmp_path, alone, FOUR)


def test_paused_killed_and_failed_at_different_steps(
    alone: Path, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members that have come to different steps go on together, each exactly from where it was."""
    together(tiny_cache, tmp_path, FOUR, own=5, baseline=2, longer=7, frozen=3)
    assert [max(Run(tmp_path / name).steps()) for name in FOUR] == [5, 3, 2, 7]
    rng = random.Random(0)
    for step in (4, 8, rng.randint(6, 12)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, step)
            together(tiny_cache, tmp_path, FOUR)
    some = dict(list(FOUR.items())[:2])
    together(tiny_cache, tmp_path, some)
    before = contents(tmp_path / "own" / "student")
    together(tiny_cache, tmp_path, FOUR)
    require_same(tmp_path, alone, FOUR, paused=True)
    assert contents(tmp_path / "own" / "student") == before


def test_one_that_fails_leaves_the_others_alone(
    alone: Path, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is not finite, a folder that holds something else, a bug in one student."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    endless = short(train__lr=1e30, train__clip_norm=1e30, train__warmup_steps=0, data__seed=7)
    broken = short("fithubert", data__seed=7)
    original = Learner.begin

    def begin(self: Learner, step: int, *rest: Any) -> None:
        if self.config is broken and step == 4:
            raise KeyError("a bug")
        original(self, step, *rest)

    monkeypatch.setattr(Learner, "begin", begin)
    told: list[str] = []
    configs = {"endless": endless, **FOUR, "full": short(data__seed=7), "broken": broken}
    requests = [Request(tmp_path / name, config) for name, config in configs.items()]
    found = train_together(
        str(tiny_cache), requests, show_progress=False, failed=lambda request, error: told.append(request.out.name)
    )
    assert isinstance(found[0], RunError) and "the loss at step" in found[0].message
    assert isinstance(found[5], RunError) and "contains no run" in found[5].message
    assert isinstance(found[6], KeyError)
    assert sorted(told) == ["broken", "endless", "full"]
    assert Run(tmp_path / "broken").steps() == [3]
    require_same(tmp_path, alone, FOUR)


def test_seeds_on_one_order(tiny_cache: Path, tmp_path: Path) -> None:
    """``data.seed`` decides the order alone: weights, plans and draws are still those of ``train.seed``."""
    fields: dict[str, Any] = {"train__layers_per_step": 1, "train__forcing_steps": 4}
    configs = {str(seed): short(train__seed=seed, data__seed=2, **fields) for seed in (0, 1, 2)}
    for name, config in configs.items():
        run(tiny_cache, tmp_path / "alone" / name, config)
    together(tiny_cache, tmp_path / "shared", configs)
    require_same(tmp_path / "shared", tmp_path / "alone", configs)
    run(tiny_cache, tmp_path / "plain", short(train__seed=2, **fields))
    assert contents(tmp_path / "plain" / "student") == contents(tmp_path / "shared" / "2" / "student")
    students = [contents(tmp_path / "shared" / name / "student")["model.safetensors"] for name in configs]
    assert len(set(students)) == 3


def test_a_seed_of_the_order_that_equals_the_runs_is_the_same_run() -> None:
    assert short(train__seed=4, data__seed=4) == short(train__seed=4)
    assert short(train__seed=4, data__seed=5).order_seed == 5
    assert short(train__seed=4).order_seed == 4
    for wrong in (-1, 2**31):
        with pytest.raises(ConfigError, match=r"data\.seed"):
            short(data__seed=wrong)


def test_what_may_share_a_stream() -> None:
    base = short()
    same = ["train.lr=0.1", "train.steps=20", "train.seed=1|data.seed=0", "train.accumulate=3", "loss.name=mse"]
    same += ["student.name=distilhubert", "student.frontend=frozen", "train.precision=bf16", "augment.noise=0.5"]
    other = ["train.seed=1", "train.batch_seconds=9", "data.crop_seconds=1", "data.valid_fraction=0.1"]
    settings = tuple(f"{key}={value}" for key, value in {"train.batch_seconds": 8, "train.device": "cpu"}.items())
    key = stream_key(load_config(None, None, settings))
    assert key == stream_key(base)
    for setting in same:
        assert stream_key(load_config(None, None, (*settings, "train.warmup_steps=2", *setting.split("|")))) == key
    for setting in other:
        assert stream_key(load_config(None, None, (*settings, setting))) != key
    left_out = (*settings, "data.skip_damaged=true")
    reads = [stream_key(load_config(None, None, (*left_out, more))) for more in ("train.lr=1", "student.rollout=2")]
    assert len({stream_key(load_config(None, None, left_out)), *reads}) == 2


def test_several_streams_follow_one_another(tiny_cache: Path, tmp_path: Path) -> None:
    configs = {str(seed): short(train__seed=seed, train__steps=3) for seed in (0, 1)}
    together(tiny_cache, tmp_path / "shared", configs)
    for name, config in configs.items():
        run(tiny_cache, tmp_path / "alone" / name, config)
    require_same(tmp_path / "shared", tmp_path / "alone", configs)


def test_damage_ends_all(own_cache: Path, tmp_path: Path) -> None:
    shard = sorted((own_cache / "layers/02").rglob("c/*/*"))[0]
    shard.write_bytes(bytes(shard.stat().st_size))
    found = together(own_cache, tmp_path, {"a": short(), "b": short(train__lr=1e-3)})
    assert all(isinstance(error, CacheDamagedError) for error in found.values())


HERE = Path(__file__).parent
SCRIPT = """
import sys, torch
from pathlib import Path
sys.path += sys.argv[1:3]
torch.set_num_threads(1)
from test_together import FOUR, together
try:
    for outcome in together(Path(sys.argv[3]), Path(sys.argv[4]), FOUR).values():
        if isinstance(outcome, Exception):
            raise outcome
except KeyboardInterrupt:
    sys.exit(130)  # Python's own code for it depends on what libraries do at the end of the process
"""


@pytest.mark.thorough
def test_a_real_process_killed_and_interrupted(alone: Path, tiny_cache: Path, tmp_path: Path) -> None:
    rng = random.Random()
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, None):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *map(str, (HERE, HERE.parents[1], tiny_cache, tmp_path))],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if number is not None:
            seen = len(list(tmp_path.glob("*/checkpoints/*")))
            deadline = time.monotonic() + 240
            while len(list(tmp_path.glob("*/checkpoints/*"))) <= seen and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(number)
        _, stderr = process.communicate(timeout=240)
        assert process.returncode in (0, 130 if number == signal.SIGINT else -(number or 0)), stderr
        if number == signal.SIGINT:
            for name in FOUR:
                assert not (tmp_path / name / "training.json").exists()
    for name in FOUR:
        assert contents(tmp_path / name / "student") == contents(alone / name / "student")
