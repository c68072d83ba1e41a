"""`gdist sweep --together`: points that learn from one stream of batches are those of a sweep one by one."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from sweeping import LEAST, Gdist, counts, points_in, run, send, start, weights

from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.options import SweepConfig, Tally
from gdist.stages.sweep.spec import read_spec
from gdist.stages.sweep.training import grouped, train_points

SHARED = LEAST.replace("[grid]", '"data.seed" = 0\n[grid]').replace('"train.steps" = 4', '"train.steps" = 8')


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SHARED)
    return path


@pytest.fixture(scope="module")
def alone(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory, gdist: Gdist) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("alone")
    (folder / "small.toml").write_text(SHARED)
    return run(gdist, folder / "small.toml", tiny_cache, folder / "sweep", "--jobs", 2)


def require_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    for identity, tensors in expected.items():
        assert all(torch.equal(tensor, found[identity][name]) for name, tensor in tensors.items())
    assert {row["signature"]: row["value"] for row in one["table"]} == {
        row["signature"]: row["value"] for row in other["table"]
    }


def test_four_together_are_four_alone(
    alone: dict[str, Any], file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    out = tmp_path / "shared"
    shared = run(gdist, file, tiny_cache, out, "--together", 4)
    assert counts(shared) == (4, 4, 4, 0, 0)
    assert len(list(out.glob("logs/together-*.json"))) == 1
    require_same(alone, shared)
    assert counts(run(gdist, file, tiny_cache, out, "--together", 4)) == (4, 4, 0, 0, 0)


def test_one_that_fails_leaves_its_group_alone(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    out = tmp_path / "sweep"
    file.write_text(SHARED.replace("[grid]", '"train.clip_norm" = 1e30\n[grid]\n"train.lr" = [1e-3, 1e30]'))
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", out, "--json", "--together", 8)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert counts(found) == (8, 4, 4, 4, 0)
    for row in found["table"]:
        assert (row["state"] == "failed") == (row["varied"]["train.lr"] == 1e30)
        assert any("the loss at step" in line for line in row["log"]) == (row["state"] == "failed")
        assert not any("resuming" in line for line in row["log"])
    again = gdist("sweep", file, "--cache", tiny_cache, "--out", out, "--json", "--together", 8, "--retry-failed")
    assert counts(json.loads(again.stdout)) == (8, 4, 0, 4, 0)


def test_a_process_that_is_lost_fails_all_of_its_points(
    file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    student = tmp_path / "mine.py"
    student.write_text(
        "import os\n"
        "from gdist.stages.students.distilhubert import DistilHubertConfig, DistilHubertModel\n"
        "class LostConfig(DistilHubertConfig):\n    model_type = 'lost'\n"
        "class Lost(DistilHubertModel):\n    config_class = LostConfig\n"
        "    def predict(self, *args, **kwargs):\n        os._exit(9)\n"
    )
    file.write_text(
        SHARED.split("[grid]")[0] + f'"student.name" = "{student}:Lost"\n[grid]\n"train.lr" = [1e-3, 2e-3]\n'
    )
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "sweep", "--json", "--together", 2)
    assert result.exit_code == 1, result.stderr
    assert counts(json.loads(result.stdout))[3] == 4


def test_killed_and_interrupted_anywhere(
    alone: dict[str, Any], file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    out, seed = tmp_path / "killed", time.time_ns()
    rng = random.Random(seed)
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        seen = len(list(out.glob("runs/*/checkpoints/step-*")))
        process = start(file, tiny_cache, out, "--together", 4)
        while len(list(out.glob("runs/*/checkpoints/step-*"))) <= seen and process.is_alive():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        assert send(process, number) in (-signal.SIGKILL, 130, 0), seed
    again = run(gdist, file, tiny_cache, out, "--together", 4)
    assert counts(again)[:2] == (4, 4)
    require_same(alone, again)


def test_who_shares_a_process(file: Path, tiny_cache: Path, tmp_path: Path) -> None:
    def sizes(text: str, together: int, jobs: int) -> list[int]:
        file.write_text(text)
        points = points_in(file, tiny_cache)
        return [len(work.points) for work in grouped(points, {}, together, jobs)]

    assert sizes(SHARED, 1, 1) == [1, 1, 1, 1]
    assert sizes(SHARED, 4, 1) == [4] and sizes(SHARED, 3, 1) == [2, 2]
    assert sizes(SHARED, 4, 2) == [2, 2] and sizes(SHARED, 4, 8) == [1, 1, 1, 1]
    assert sizes(LEAST, 4, 1) == [2, 2], "each seed has an order of its own"
    assert sizes(SHARED.replace("seeds = [0, 1]", "seeds = [0, 1, 2, 3, 4]"), 4, 1) == [3, 3, 4]


def test_paused_at_different_steps(
    alone: dict[str, Any], file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    """As early stopping does it: some points are trained further than others, and all to the end later."""
    config = SweepConfig(file, tmp_path / "sweep", {"": str(tiny_cache)}, together=4)
    spec = read_spec(file)
    points = points_in(file, tiny_cache)
    folder = SweepFolder(config.out, spec.name, spec.judge)
    config.out.mkdir()
    folder.begin()
    folder.record(points, [])
    steps = {point.signature: step for point, step in zip(points, (3, 5, 3, 8), strict=True)}
    tally = Tally()
    train_points(folder, points, config, tally, lambda *_: None, until=steps)
    assert [folder.standing(point).step for point in points] == [3, 5, 3, 8]
    assert tally.ran == {points[3].signature} and not tally.failed_now
    require_same(alone, run(gdist, file, tiny_cache, config.out, "--together", 4))
