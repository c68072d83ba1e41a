"""`gdist sweep`: what is missing or changed is run, nothing else, and mistakes are named before anything runs."""

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from conftest import extracted, mounted
from sweeping import LEAST, Gdist, counts, run, same_weights, send, start, weights

from gdist.pipeline import console
from gdist.stages.standings.record import read_failure
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.judge import Judge


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(LEAST)
    return path


def test_only_what_is_missing_or_changed_is_run(
    file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    first = run(gdist, file, tiny_cache, out, "--jobs", 2)
    assert counts(first) == (4, 4, 4, 0, 0)
    assert all(row["value"] is not None for row in first["table"])
    before = weights(first)

    again = run(gdist, file, tiny_cache, out)
    assert counts(again) == (4, 4, 0, 0, 0) and again["table"] == first["table"]

    # Renamed and moved: the same runs, under other names.
    named = (
        LEAST.replace("[grid]", "").replace('"student.history" = ["student", "teacher"]', "")
        + """
[[points]]
name = "forced"
set = {"student.history" = "teacher"}
[[points]]
name = "free"
[points.set.student]
history = "student"
"""
    )
    file.write_text(named)
    renamed = run(gdist, file, tiny_cache, out)
    assert counts(renamed) == (4, 4, 0, 0, 0)
    assert [row["name"] for row in renamed["table"]] == ["forced", "forced", "free", "free"]
    assert {row["run"] for row in renamed["table"]} == {row["run"] for row in first["table"]}

    # How often something is reported does not change what is computed; one more seed is two more runs.
    file.write_text(named.replace("seeds = [0, 1]", "seeds = [0, 1, 2]") + '\n[judge]\nmetric = "loss"\n')
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", 0.0)
    shown = gdist("sweep", file, "--cache", tiny_cache, "--out", out, "--only", "free").stderr
    assert "sweep small: 2/3 points  " in shown, "what was done before says nothing about the time that is left"
    assert counts(run(gdist, file, tiny_cache, out, "--only", "free")) == (3, 3, 0, 0, 0)

    # A changed point is another one; the others stay as they are.
    file.write_text(named.replace('"student.history" = "teacher"}', '"student.history" = "mixed"}'))
    changed = run(gdist, file, tiny_cache, out)
    assert counts(changed) == (4, 4, 2, 0, 0)
    after = weights(changed)
    assert all(
        torch.equal(before[s][name], after[s][name]) for s in before.keys() & after.keys() for name in before[s]
    )


def test_a_point_is_what_its_own_command_gives(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    found = run(gdist, file, tiny_cache, tmp_path / "sweep", "--first")
    assert counts(found) == (1, 1, 1, 0, 0)
    sets = ["train.steps=4", "train.warmup_steps=1", "train.batch_seconds=2", "train.validate_every=4"]
    sets += ["train.validate_seconds=2", "train.checkpoint_every=2", "student.dropout=0.0", "student.history=student"]
    options = [part for setting in [*sets, "train.seed=0"] for part in ("--set", setting)]
    assert gdist("train", "--cache", tiny_cache, "--out", tmp_path / "alone", *options).exit_code == 0
    alone = safetensors.torch.load_file(tmp_path / "alone/student/model.safetensors")
    (swept,) = weights(found).values()
    assert alone.keys() == swept.keys()
    assert all(torch.equal(alone[name], swept[name]) for name in alone)


def test_a_point_with_a_grid_of_its_own(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    more = """
[[points]]
name = "ours"
[[points]]
name = "fixed"
grid = {}
set = {"student.history" = "mixed"}
[[points]]
name = "rates"
grid = {"train.lr" = [1e-3, 2e-3, 3e-3]}
"""
    file.write_text(LEAST + more)
    found = run(gdist, file, tiny_cache, tmp_path / "sweep", "--dry-run")
    names = [
        "ours history=student",
        "ours history=teacher",
        "fixed",
        "rates lr=0.001",
        "rates lr=0.002",
        "rates lr=0.003",
    ]
    assert [row["name"] for row in found["table"]] == [name for name in names for _ in range(2)]


def test_a_dry_run_runs_nothing(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    found = run(gdist, file, tiny_cache, tmp_path / "sweep", "--dry-run")
    assert counts(found) == (4, 0, 0, 0, 4) and not (tmp_path / "sweep").exists()
    assert [row["state"] for row in found["table"]] == ["new"] * 4


def test_a_point_that_fails_leaves_the_others_alone(
    file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    """A rate that makes the loss infinite is only known when it runs."""
    out = tmp_path / "sweep"
    file.write_text(LEAST.replace("[grid]", '"train.clip_norm" = 1e30\n[grid]\n"train.lr" = [1e-3, 1e30]'))
    options = ["--cache", tiny_cache, "--out", out, "--json"]
    result = gdist("sweep", file, *options)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert counts(found) == (8, 4, 4, 4, 0)
    failed = [row for row in found["table"] if row["state"] == "failed"]
    assert all(row["varied"]["train.lr"] == 1e30 for row in failed)
    assert all(any("is nan" in line or "is inf" in line for line in row["log"]) for row in failed)
    left_alone = json.loads(gdist("sweep", file, *options).stdout)
    assert counts(left_alone) == (8, 4, 0, 4, 0)
    again = json.loads(gdist("sweep", file, *options, "--retry-failed", "--fail-fast").stdout)
    assert (again["failed"], again["left"]) == (1, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"train.steps" = 4', '"train.stepps" = 4'), "train.stepps"),
        (('"train.steps" = 4', '"steps" = 4'), "`steps` is not a field"),
        (('["student", "teacher"]', "[]"), "is empty"),
        (('["student", "teacher"]', '"student"'), "must be a list"),
        (('["student", "teacher"]', '["student", "student"]'), "are the same run"),
        (('["student", "teacher"]', '["student", "nobody"]'), "history=nobody"),
        (("seeds = [0, 1]", "seeds = []"), "seeds = []"),
        (("seeds = [0, 1]", "seeds = [0, 0]"), "twice"),
        (("seeds = [0, 1]", 'seeds = "0"'), "seeds = '0'"),
        (("seeds = [0, 1]", "sedes = [0, 1]"), "did you mean `seeds`"),
        (("[grid]", '[grid]\n"train.seed" = [3]'), "`train.seed` is what `seeds` sets"),
        (("[grid]", '[grid]\n"train.steps" = [3]'), "under [set] and under [grid]"),
        (("[grid]", '[grid]\n"cache" = ["other"]'), "cache = 'other' is not one of those given"),
        (("[grid]", '[grid]\n"student.predict_layers" = [[9]]'), "predict_layers"),
        (("seeds = [0, 1]", 'seeds = [0, 1]\nrecipe = "demo-gendistller"'), "did you mean `demo-gendistiller`"),
        (("[grid]", '[judge]\nmetric = ""\n[grid]'), "judge.metric is empty"),
        (("[grid]", '[judge]\nsplit = "train"\n[grid]'), "judge.split"),
        (("[grid]", '[judge]\nmetric = "kss"\n[grid]'), "judge.metric = 'kss'"),
        (("[grid]", "[grid"), "not valid TOML"),
        (('"train.steps" = 4', '"train.steps" = 2026-01-01'), "train.steps = '2026-01-01'"),
        (('"train.steps" = 4', '"train.lr" = inf'), "train.lr"),
        (("[grid]", '[grid]\n"cache" = [["a"]]'), "cache = ['a'] is not one of those given"),
        (("[grid]", '[[points]]\nname = "a"\ngrid = {"train.lr" = []}\n[grid]'), "is empty"),
        (("[grid]", '[[points]]\nname = "a"\nset = {"student.history" = "mixed"}\n[grid]'), "grid = {}"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    change: tuple[str, str], message: str, file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    file.write_text(LEAST.replace(*change))
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "sweep")
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert not (tmp_path / "sweep").exists()


def test_a_folder_of_another_sweep_is_refused(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    out = tmp_path / "sweep"
    run(gdist, file, tiny_cache, out, "--first")
    file.write_text('name = "other"\n' + LEAST)
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", out)
    assert result.exit_code == 1 and "contains the sweep 'small'" in result.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "full")
    assert result.exit_code == 1 and "contains no sweep" in result.stderr


def test_killed_anywhere(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    """Real processes, killed five times: what is finished is not done again, the table and the students are those of
    a sweep never killed."""
    file.write_text(LEAST.replace('"train.steps" = 4', '"train.steps" = 24').replace('every" = 4', 'every" = 24'))
    whole, out, seed = run(gdist, file, tiny_cache, tmp_path / "whole"), tmp_path / "killed", time.time_ns()
    rng, done = random.Random(seed), dict[Path, int]()
    for number in (*[signal.SIGKILL] * 3, signal.SIGINT, *[signal.SIGKILL] * 2):
        process = start(file, tiny_cache, out, "--jobs", 2)
        # Killed at one of the things that happen, the first of which is that it begins: no time is waited for.
        # (Ctrl-C not before that: what Python does while it starts is not gdist's.)
        before, events = happened(out), rng.randint(int(number == signal.SIGINT), 6)
        while len(happened(out) - before) < events and process.is_alive():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        assert send(process, number) in (-signal.SIGKILL, 130, 0), (seed, number, process.exitcode)
        for path in out.glob("runs/*/student/model.safetensors"):
            assert done.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    again = run(gdist, file, tiny_cache, out)
    # A process of a killed sweep may have finished its point after the last look.
    assert again["done"] == 4 and again["ran"] <= 4 - len(done), seed
    for path, written in done.items():
        assert path.stat().st_mtime_ns == written
    assert [row | {"run": ""} for row in again["table"]] == [row | {"run": ""} for row in whole["table"]], seed
    assert same_weights(whole, again), seed


@pytest.mark.parametrize("together", [1, 4])
def test_cut_off_between_the_last_step_and_the_student(
    together: int, file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    """Nothing but the student is left to write, and it is the same."""
    before = weights(run(gdist, file, tiny_cache, tmp_path / "sweep", "--together", together))
    for folder in sorted((tmp_path / "sweep").glob("runs/*/student"))[:3]:
        shutil.rmtree(folder)
    again = run(gdist, file, tiny_cache, tmp_path / "sweep", "--together", together)
    assert counts(again) == (4, 4, 3, 0, 0)
    after = weights(again)
    assert all(torch.equal(tensor, after[key][name]) for key in before for name, tensor in before[key].items())


def happened(out: Path) -> set[Path]:
    """What a sweep has written that stays: its folder, its runs, their checkpoints and students."""
    return {out for _ in range(out.exists())} | set(out.glob("runs/*")) | set(out.glob("runs/*/*/step-*"))


def test_a_damaged_student_is_saved_again(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    file.write_text(LEAST.replace("seeds = [0, 1]", "seeds = [0]"))
    out = tmp_path / "sweep"
    run(gdist, file, tiny_cache, out)
    students = sorted((out / "runs").glob("*/student/model.safetensors"))
    before = [path.read_bytes() for path in students]
    students[0].write_bytes(before[0][:-1] + bytes([before[0][-1] ^ 1]))
    assert counts(run(gdist, file, tiny_cache, out)) == (2, 2, 1, 0, 0)
    assert [path.read_bytes() for path in students] == before


def test_a_budget_begins_nothing_that_ends_later(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    """Where no step is measured, nothing is known, so the first point begins; after it the others are too long."""
    file.write_text(LEAST + '[judge]\nmetric = "mean_cosine"\n')
    out = tmp_path / "sweep"
    found = run(gdist, file, tiny_cache, out, "--budget", "0.0001s")
    assert (found["points"], found["ran"], found["left"]) == (4, 1, 4)  # also not evaluated
    assert [row["state"] for row in found["table"]] == ["trained", "new", "new", "new"]
    assert found["seconds_left"] > 0
    again = run(gdist, file, tiny_cache, out, "--budget", "0.0001s")
    assert (again["ran"], again["left"]) == (0, 4)
    sweep = json.loads((out / "sweep.json").read_text())
    assert len(sweep["wall"]) == 2 and sweep["wall"][0]["seconds"] > 0
    assert sweep["judge"] == {"metric": "mean_cosine", "split": "valid", "probes": "none", "minutes": 0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "["), "is not a regular expression"),
        (("--only", "studnet"), "no point is called like that"),
        (("--budget", "2 hours"), "is not a time"),
        (("--cache", "int8=elsewhere", "--cache", "int8=there"), "there is already one called int8"),
    ],
)
def test_bad_options(
    options: tuple[str, ...], message: str, file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "sweep", *options)
    assert result.exit_code == 2 and message in result.stderr
    assert not (tmp_path / "sweep").exists()


def test_a_layer_that_the_cache_lacks(
    file: Path, tiny_teacher: Path, speech: Path, tmp_path: Path, gdist: Gdist
) -> None:
    extracted(tiny_teacher, speech, tmp_path / "few", layers="0,1,3")
    file.write_text(LEAST.replace("[grid]", '[grid]\n"student.predict_layers" = [[1, 3], [1, 2, 3]]'))
    result = gdist("sweep", file, "--cache", tmp_path / "few", "--out", tmp_path / "sweep")
    assert result.exit_code == 1, result.stderr
    assert "the point" in result.stderr and "predict_layers=[1, 2, 3]" in result.stderr
    assert not (tmp_path / "sweep").exists()


def test_a_full_disk(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    """A real one, too small for two students: a clear error, and once there is space the sweep goes on."""
    with mounted(tmp_path / "disk", "size=1400k") as disk:
        options = ["--cache", tiny_cache, "--out", disk / "sweep", "--json"]
        result = gdist("sweep", file, *options)
        assert result.exit_code == 1
        told = result.stderr + result.stdout
        assert "of disk left, and a run that keeps 2 checkpoints" in told and "free some space" in told, told
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        found = json.loads(gdist("sweep", file, *options, "--retry-failed").stdout)
        assert (found["done"], found["failed"], found["left"]) == (4, 0, 0)


def test_a_call_killed_before_it_wrote_anything(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    out = tmp_path / "sweep"
    out.mkdir()
    (out / ".sweep.json.77.tmp").write_text("{")
    assert run(gdist, file, tiny_cache, out, "--first")["done"] == 1


@pytest.mark.parametrize("damage", ["", "[]", '{"points": 7}'])
def test_a_damaged_record_is_written_anew_as_its_hint_says(
    file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist, damage: str
) -> None:
    out = tmp_path / "sweep"
    sweep = ("sweep", file, "--cache", tiny_cache, "--out", out)
    assert gdist(*sweep).exit_code == 0
    whole = {path: path.read_bytes() for path in out.glob("runs/*/student/*.safetensors")}
    (out / "sweep.json").write_text(damage)
    for command in (sweep, ("best", out), ("report", out, "--out", tmp_path / "page.html")):
        result = gdist(*command)
        assert result.exit_code == 1 and f"try: rm -f {out / 'sweep.json'}; then the same" in result.stderr
    (out / "sweep.json").unlink()
    result = gdist(*sweep)
    assert result.exit_code == 0, result.stderr
    assert gdist("best", out).exit_code == 0 and whole
    assert {path: path.read_bytes() for path in out.glob("runs/*/student/*.safetensors")} == whole


def test_folders_of_other_people_are_no_sweep(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    for name in ("runs", "logs"):
        (tmp_path / "theirs" / name).mkdir(parents=True)
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "theirs")
    assert result.exit_code == 1 and "is not empty and contains no sweep" in result.stderr


def test_a_log_with_lines_without_end_is_recorded(tiny_cache: Path, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "sweep", "sweep", Judge())
    folder.folder.mkdir()
    folder.begin()
    point = SimpleNamespace(signature="abc", folder="one-abc", label="one")
    folder.log(point).write_text("x" * 10**6 + "\nerror: it failed\n")  # type: ignore[arg-type]
    folder.fail(point, 1)  # type: ignore[arg-type]
    failure = read_failure(folder.folder, "abc")
    assert failure is not None and failure["log"][-1] == "error: it failed" and len(failure["log"][0]) == 4096
