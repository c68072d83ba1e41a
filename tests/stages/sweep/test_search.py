"""`[search]`: the same trials, whatever was killed and however many ran at the same time."""

import json
import math
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from sweeping import Gdist, run, same_weights, send, start

from gdist.pipeline.folder import OwnFolder
from gdist.stages.sweep.ranges import Search, Space, read_space
from gdist.stages.sweep.trials import JOURNAL, Journal, Outcome, Study

SPACE: Space = read_space(
    {
        "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "student": {"adapter_rank": {"low": 8, "high": 30, "step": 8}},
        "student.history": ["student", ["a", "list"]],
    },
    "search",
)
SEARCHED = """
[set]
"train.steps" = 2
"train.warmup_steps" = 1
"train.batch_seconds" = 2.0
"train.validate_every" = 2
"train.validate_seconds" = 2.0
"student.dropout" = 0.0
[search]
trials = 5
batch = 2
startup = 2
"train.lr" = {low = 1e-3, high = 1e-1, log = true}
"student.history" = ["student", "teacher"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "searched.toml"
    path.write_text(SEARCHED)
    return path


def goodness(values: dict[str, Any], number: int) -> Outcome:
    """What stands for training: some trials fail, some are stopped early."""
    if number % 5 == 4:
        return Outcome(None)
    value = -abs(math.log(values["train.lr"] / 2e-3)) + values["student.adapter_rank"] / 100
    return Outcome(value, step=10 if number % 3 == 2 else None)


def searched(
    folder: Path,
    search: Search,
    rng: random.Random | None = None,
    result: Callable[[dict[str, Any], int], Outcome] = goodness,
) -> list[dict[str, Any]]:
    """All trials of a search. With ``rng``, it is killed again and again: opened anew, with the end of its journal
    torn off anywhere."""
    folder.mkdir(exist_ok=True)
    kills = 10 if rng else 0
    while True:
        study = Study(Journal(OwnFolder(folder), writes=True), "search", search, SPACE, True)
        outcomes = [result(study.settings(number), number) for number in range(len(study.params))]
        for number, outcome in enumerate(outcomes[: study.batch_begins]):
            study.tell(number, outcome)
        if study.left:
            study.propose(outcomes[: study.batch_begins])
        elif not kills:
            return [study.settings(number) for number in range(search.trials)]
        if rng and kills and rng.random() < 0.7:
            kills -= 1
            content = (folder / JOURNAL).read_bytes()
            (folder / JOURNAL).write_bytes(content[: rng.randint(len(content) * 2 // 3, len(content))])


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_same_trials_whatever_is_killed(sampler: Any, tmp_path: Path) -> None:
    search = Search(sampler, trials=14, seed=3, batch=3, startup=4)
    whole = searched(tmp_path / "whole", search)
    seed = time.time_ns()
    assert searched(tmp_path / "killed", search, random.Random(seed)) == whole, seed
    assert searched(tmp_path / "other", Search(sampler, 14, seed=4, batch=3, startup=4)) != whole
    assert searched(tmp_path / "more", Search(sampler, 16, seed=3, batch=3, startup=4))[:14] == whole
    for values in whole:
        assert 1e-4 <= values["train.lr"] <= 1e-2
        assert values["student.adapter_rank"] in (8, 16, 24) and type(values["student.adapter_rank"]) is int
        assert values["student.history"] in ("student", ["a", "list"])


def test_random_trials_do_not_depend_on_batches(tmp_path: Path) -> None:
    at_once = searched(tmp_path / "one", Search("random", trials=7))
    assert searched(tmp_path / "two", Search("random", trials=7, batch=2)) == at_once


def test_tpe_learns(tmp_path: Path) -> None:
    """After its random trials it proposes rates nearer to the best one; the mean of three searches."""

    def distance(values: dict[str, Any]) -> float:
        return abs(math.log(values["train.lr"] / 2e-3))

    def plain(values: dict[str, Any], number: int) -> Outcome:
        return Outcome(-distance(values))

    found = [searched(tmp_path / str(seed), Search(trials=40, seed=seed), result=plain) for seed in range(3)]
    early, late = (
        sum(distance(values) for trials in found for values in trials[part]) for part in (slice(10), slice(30, 40))
    )
    assert late < 0.8 * early


@pytest.mark.thorough
def test_the_journal_is_read_by_optuna(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    """Killed at any moment and in one process or two, it is the same search; and Optuna reads what it did."""
    dry = run(gdist, file, tiny_cache, tmp_path / "whole", "--dry-run")
    assert (dry["points"], dry["left"], dry["to_come"]) == (5, 5, 3) and not (tmp_path / "whole").exists()
    whole = run(gdist, file, tiny_cache, tmp_path / "whole")
    assert (whole["done"], whole["ran"], whole["left"], whole["to_come"]) == (5, 5, 0, 0)
    assert dry["table"][0]["signature"] == whole["table"][0]["signature"]
    assert [row["trial"] for row in whole["table"]] == [0, 1, 2, 3, 4]
    seed, out = time.time_ns(), tmp_path / "killed"
    rng = random.Random(seed)
    for _ in range(2):
        process = start(file, tiny_cache, out, "--jobs", 2)
        seen = len(list(out.glob("runs/*/student/model*")))
        while len(list(out.glob("runs/*/student/model*"))) <= seen and process.is_alive():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))
        send(process, signal.SIGKILL)
    again = run(gdist, file, tiny_cache, out)
    assert [row | {"run": ""} for row in again["table"]] == [row | {"run": ""} for row in whole["table"]], seed
    assert same_weights(whole, again)
    known = run(gdist, file, tiny_cache, out)
    assert (known["ran"], known["table"]) == (0, again["table"])

    (study,) = optuna.get_all_study_summaries(storage=stored(out))
    trials = optuna.load_study(study_name=study.study_name, storage=stored(out)).get_trials()
    assert [trial.value for trial in trials] == [row["value"] for row in again["table"]]
    points = json.loads((out / "sweep.json").read_text())["points"]
    assert [point["trial"] for point in points] == [0, 1, 2, 3, 4]


def stored(out: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / JOURNAL)))


def test_equal_trials_are_one_run_and_a_failed_one_is_told(
    file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    """Five trials of two values, one of which fails, beside a point that is not searched."""
    a = SEARCHED.index('"train.lr"')
    points = '[[points]]\nname = "searched"\n[[points]]\nname = "fixed"\nsearch = {}\n'
    space = SEARCHED[:a].replace("[search]", '"train.clip_norm" = 1e30\n[search]') + '"train.lr" = [1e-3, 1e30]\n'
    file.write_text(space.replace("trials = 5", "trials = 8") + points)
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "sweep", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    states = {row["name"]: row["state"] for row in found["table"]}
    assert states == {"fixed": "done", "searched lr=0.001": "done", "searched lr=1e+30": "failed"}
    assert (found["points"], found["done"], found["failed"], found["left"]) == (3, 2, 1, 0)
    storage = stored(tmp_path / "sweep")
    (study,) = optuna.get_all_study_summaries(storage=storage)
    trials = optuna.load_study(study_name=study.study_name, storage=storage).get_trials()
    assert len(trials) == 8
    assert all((trial.state.name == "FAIL") == (trial.params["train.lr"] == "1e+30") for trial in trials)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("low = 1e-3, high = 1e-1", "low = 1e-1, high = 1e-3"), "is upside down"),
        (("low = 1e-3", "low = 0.0"), "a logarithm needs more than 0"),
        (("low = 1e-3, ", ""), "has no low"),
        (("high = 1e-1", "high = inf"), "not a number up to"),
        (("log = true", "logs = true"), "did you mean `log`"),
        (("log = true", "log = 1"), "neither true nor false"),
        (("log = true", "step = 0.2"), "is larger than the range"),
        (("log = true", "step = 0"), "step = 0 must be more than 0"),
        (("log = true", "log = true, step = 0.01"), "both log and step"),
        (('["student", "teacher"]', "[]"), "is empty"),
        (('["student", "teacher"]', '["student", "student"]'), "twice"),
        (('["student", "teacher"]', '["student", "nobody"]'), "history=nobody"),
        (('["student", "teacher"]', '"student"'), "is no range"),
        (("trials = 5", "trials = 0"), "search.trials = 0"),
        (("trials = 5", ""), "search.trials = 0"),
        (("trials = 5", "trails = 5"), "did you mean `trials`"),
        (("trials = 5", 'trials = 5\nsampler = "grid"'), "not one of random, tpe"),
        (("batch = 2", "batch = -1"), "search.batch = -1"),
        (('"train.lr" =', '"train.rate" ='), "train.rate"),
        (('"train.lr" =', '"train.steps" ='), "`train.steps` is under [set] and under [search]"),
        (('"train.lr" =', '"train.seed" ='), "`train.seed` is what `seeds` sets"),
        (('"train.lr" =', '"train.accumulate" ='), "train.accumulate"),
        (("low = 1e-3", "low = -1"), "a logarithm needs more than 0"),
        (("low = 1e-3, high = 1e-1, log = true", "low = -1.0, high = 1.0"), "train.lr = -1.0"),
        (("[search]", '[grid]\n"student.history" = ["student"]\n[search]'), "under [grid] and under [search]"),
        (("[search]", '[judge]\nmetric = "kss"\n[search]'), "kss"),
        (("[search]", '[judge]\nmetric = "ks"\nprobes = "asv"\n[search]'), "is not measured by probes = 'asv'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    change: tuple[str, str], message: str, file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    file.write_text(SEARCHED.replace(*change))
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "sweep")
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert not (tmp_path / "sweep").exists()


def test_without_optuna(
    file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "sweep")
    assert result.exit_code == 2 and "pip install 'gdist[search]'" in result.stderr
