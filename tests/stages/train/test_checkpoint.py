"""A checkpoint of which any part does not belong to this run is named and refused before any of it is used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_train import Killed, kill_at, run, short

from gdist.pipeline.errors import RunError
from gdist.pipeline.run import Run
from gdist.stages.train.config import TrainConfig

STEP = "step-0000006"


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return short(train__ema_decay=0.9)


@pytest.fixture(scope="module")
def stopped(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory, config: TrainConfig) -> Path:
    """A run with checkpoints at 3 and 6 of 9 steps, for reading only."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 8)
        run(tiny_cache, folder, config)
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    """The only checkpoint of a run that the test may damage: with others, it continues from the one before it. It has
    no digests, its state.json included, which would say less of what is wrong."""
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "step-0000003")
    state = json.loads((run / "checkpoints" / STEP / "state.json").read_text())
    assert set(state.pop("sha256")) == {f"{name}.safetensors" for name in ("model", "optimizer", "average")}
    del state["checksum"]
    (run / "checkpoints" / STEP / "state.json").write_text(json.dumps(state))
    return run / "checkpoints" / STEP


def refused(cache: Path, folder: Path, config: TrainConfig, *words: str) -> None:
    """Training refuses the checkpoint with a message that contains ``words``, and says what to do."""
    with pytest.raises(RunError) as caught:
        run(cache, folder.parent.parent, config)
    for word in words:
        assert word in caught.value.message
    assert str(folder) in caught.value.message
    assert caught.value.hint == f"delete {folder.parent} to begin anew, or choose another --out"
    assert not (folder.parent.parent / "student").exists()


def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def moment(tensors: dict[str, torch.Tensor], kind: str) -> str:
    """The optimizer's tensor of the first matrix that was trained."""
    return next(name for name, t in tensors.items() if name.endswith(f".{kind}") and (t.ndim > 1 or kind == "step"))


def change(kind: str, how: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({moment(tensors, kind): how(tensors[moment(tensors, kind)]).contiguous()})


def poisoned(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor.index_fill(0, torch.tensor([0]), value)


@pytest.mark.parametrize("kind", ["exp_avg", "exp_avg_sq", "step"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda t: t.reshape(-1)[:1], "[1] of float32, not ["),
        (lambda t: torch.cat([t[None]] * 2), "of float32, not ["),
        (lambda t: t.double(), "of float64, not ["),
        (lambda t: t * float("nan"), "not finite"),
        (lambda t: t * float("inf") + float("inf"), "not finite"),
        (lambda t: -t - 1, ""),
    ],
)
def test_moments_of_another_shape_or_dtype(
    tiny_cache: Path, folder: Path, config: TrainConfig, kind: str, how: Any, words: str
) -> None:
    """Of the wrong size, they would crash the process or be read beyond their end."""
    if kind == "exp_avg" and not words:
        return  # a mean may be negative
    edit(folder / "optimizer.safetensors", change(kind, how))
    refused(tiny_cache, folder, config, f".{kind} in optimizer.safetensors", words)


@pytest.mark.parametrize("count", [0.0, 2.5, 7.0])
def test_an_impossible_count_of_steps(tiny_cache: Path, folder: Path, config: TrainConfig, count: float) -> None:
    edit(folder / "optimizer.safetensors", change("step", lambda t: torch.full_like(t, count)))
    refused(
        tiny_cache, folder, config, f".step in optimizer.safetensors is {count:g}, not a whole number from 1 to 6"
    )


@pytest.mark.parametrize("kind", ["exp_avg", "exp_avg_sq", "step"])
def test_some_moments_are_missing(tiny_cache: Path, folder: Path, config: TrainConfig, kind: str) -> None:
    edit(folder / "optimizer.safetensors", lambda tensors: tensors.pop(moment(tensors, kind)))
    refused(tiny_cache, folder, config, "optimizer.safetensors lacks", f".{kind}")


def test_a_parameter_without_moments_was_never_used(tiny_cache: Path, folder: Path, config: TrainConfig) -> None:
    """An unused parameter lacks all three moments. But at least one parameter must have some."""

    def forget(tensors: dict[str, torch.Tensor]) -> None:
        name = moment(tensors, "step").removesuffix(".step")
        for kind in ("step", "exp_avg", "exp_avg_sq"):
            del tensors[f"{name}.{kind}"]

    edit(folder / "optimizer.safetensors", forget)
    kept = shutil.copytree(folder.parent.parent, folder.parent.parent.with_name("kept"))
    assert run(tiny_cache, kept, config)["steps"] == 9
    edit(folder / "optimizer.safetensors", dict.clear)
    refused(tiny_cache, folder, config, "optimizer.safetensors is empty after 6 steps")


@pytest.mark.parametrize("name", ["nobody.exp_avg", "exp_avg", "extra", "frontend.exp_avg_max"])
def test_optimizer_tensors_of_no_parameter(tiny_cache: Path, folder: Path, config: TrainConfig, name: str) -> None:
    edit(folder / "optimizer.safetensors", lambda tensors: tensors.update({name: torch.zeros(3)}))
    refused(tiny_cache, folder, config, f"optimizer.safetensors has {name}, which this run does not have")


@pytest.mark.parametrize("file", ["model", "average"])
def test_weights_of_another_shape_or_dtype(tiny_cache: Path, folder: Path, config: TrainConfig, file: str) -> None:
    path = folder / f"{file}.safetensors"
    whole = path.read_bytes()
    name = next(name for name, t in safetensors.torch.load_file(path).items() if t.ndim > 1)
    changes: list[tuple[Callable[[dict[str, torch.Tensor]], object], str]] = [
        (lambda t: t.update({name: t[name][:1]}), f"{name} in {file}.safetensors is [1, "),
        (lambda t: t.update({name: t[name].half()}), "of float16, not ["),
        (
            lambda t: t.update({name: poisoned(float("nan"))(t[name])}),
            f"{name} in {file}.safetensors contains numbers",
        ),
        (lambda t: t.pop(name), f"{file}.safetensors lacks {name}"),
        (lambda t: t.update({"more": torch.zeros(1)}), f"{file}.safetensors has more, which this run"),
    ]
    for damage, words in changes:
        path.write_bytes(whole)
        edit(path, damage)
        refused(tiny_cache, folder, config, words)


def test_an_average_of_another_count(tiny_cache: Path, folder: Path, config: TrainConfig) -> None:
    edit(folder / "average.safetensors", lambda t: t.update({"n_averaged": torch.tensor(0)}))
    refused(tiny_cache, folder, config, "n_averaged in average.safetensors is 0, not 6")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"])
def test_files_that_are_missing_or_truncated(tiny_cache: Path, folder: Path, config: TrainConfig, name: str) -> None:
    whole = (folder / name).read_bytes()
    for data in (None, b"", whole[: len(whole) // 2], b"\xff" * 100, b"[" * 100_000):
        (folder / name).unlink()
        if data is not None:
            (folder / name).write_bytes(data)
        refused(tiny_cache, folder, config)
        (folder / name).write_bytes(whole)
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(tiny_cache, folder, config)


def test_an_extra_file(tiny_cache: Path, folder: Path, config: TrainConfig) -> None:
    shutil.copy(folder / "model.safetensors", folder / "more.safetensors")
    refused(tiny_cache, folder, config, "its folder has more, which this run does not have")


STATE = {"loader": {"epoch": 1, "position": 2}, "seconds": 3.5, "step": 6}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([], "state.json: it is not a table, but a list"),
        (None, "state.json: it is not a table, but nothing"),
        ({}, "state.json lacks loader and 2 more"),
        (STATE | {"extra": 1}, "state.json has extra"),
        (STATE | {"step": 5}, "step in state.json is 5, not 6"),
        (STATE | {"step": "6"}, "step in state.json is '6'"),
        (STATE | {"step": 6.0}, "step in state.json is 6.0"),
        (STATE | {"seconds": None}, "seconds in state.json is None"),
        (STATE | {"seconds": float("nan")}, "state.json: it has NaN, which is no number"),
        (STATE | {"seconds": -1}, "seconds in state.json is -1"),
        (STATE | {"seconds": True}, "seconds in state.json is True"),
        (STATE | {"loader": 7}, "loader in state.json is 7"),
        (STATE | {"loader": {"epoch": 1}}, "loader in state.json lacks position"),
        (STATE | {"loader": {"epoch": 1, "position": -1}}, "loader.position in state.json is -1"),
        (STATE | {"loader": {"epoch": 1.5, "position": 0}}, "loader.epoch in state.json is 1.5"),
        (STATE | {"loader": {"epoch": True, "position": 0}}, "loader.epoch in state.json is True"),
        (STATE | {"loader": {"epoch": 0, "position": 9999}}, "loader.position in state.json is 9999"),
    ],
)
def test_impossible_fields(tiny_cache: Path, folder: Path, config: TrainConfig, state: object, words: str) -> None:
    (folder / "state.json").write_text(json.dumps(state))
    refused(tiny_cache, folder, config, words)


def test_continuing_from_the_one_before_ends_in_the_same_weights(
    tiny_cache: Path, folder: Path, tmp_path: Path, config: TrainConfig
) -> None:
    edit(folder / "optimizer.safetensors", change("exp_avg", lambda t: t.reshape(-1)[:1]))
    refused(tiny_cache, folder, config)
    shutil.rmtree(folder)
    run(tiny_cache, tmp_path / "run", config)
    run(tiny_cache, tmp_path / "whole", config)
    files = [Run(tmp_path / name).load(9)[0] for name in ("run", "whole")]
    assert all(torch.equal(tensor, files[1]["model"][name]) for name, tensor in files[0]["model"].items())
