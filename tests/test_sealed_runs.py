"""A changed digit in a document of a run is another setting, another score, or another curve: it is noticed."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from test_train import run, short

from gdist.pipeline.errors import RunError
from gdist.pipeline.run import Run, metrics
from gdist.pipeline.run.documents import text_of, unsealed
from gdist.pipeline.run.evaluation import read_evaluation
from gdist.pipeline.run.schema import About
from gdist.pipeline.schema import SchemaError

Gdist = Callable[..., Result]


@pytest.fixture(scope="module")
def made(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory, gdist: Gdist) -> Path:
    """A run, finished and evaluated, for reading only."""
    folder = tmp_path_factory.mktemp("made") / "run"
    run(tiny_cache, folder, short(train__steps=4))
    assert gdist("eval", folder, "--probes", "none").exit_code == 0
    return folder


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(made, tmp_path / "run")))


def digits(path: Path) -> list[int]:
    """The places of all digits in a file."""
    return [match.start() for match in re.finditer(r"\d", path.read_text())]


def change(path: Path, place: int) -> None:
    """Make a digit another one."""
    data = bytearray(path.read_bytes())
    data[place] = ord("0") + (data[place] - ord("0") + 1) % 10
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["config.toml", "run.json", "eval.json", "metrics.jsonl", "checkpoint", "student"])
def test_every_changed_digit_is_noticed(
    mine: Run, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = mine.steps()[-1]
    paths = {"checkpoint": mine.checkpoint(step) / "state.json", "student": mine.student / "config.json"}
    path = paths.get(name, mine.folder / name)
    read: Callable[[], object] = {
        "config.toml": mine.tables,
        "run.json": mine.provenance,
        "eval.json": lambda: read_evaluation(path),
        "checkpoint": lambda: mine.load(step),
        "student": mine.require_student,
    }.get(name, mine.read_metrics)
    whole = path.read_bytes()
    places = digits(path)
    assert len(places) > 5
    read()
    for place in places[:: max(1, len(places) // 150)]:
        change(path, place)
        try:
            if path.suffix == ".json" and json.loads(path.read_bytes()) == json.loads(whole):
                continue  # a number with more digits than it is precise
            if name == "metrics.jsonl":
                monkeypatch.setattr(metrics, "_said", set())  # else it is said once
                read()
                said = capsys.readouterr().err
                assert f"{path} is not as it was" in said or f"{path}: line" in said
            else:
                with pytest.raises(RunError, match=f"{path.name}"):
                    read()
        finally:
            path.write_bytes(whole)


@pytest.mark.parametrize("command", [["eval"], ["export", "--format", "hf"], ["report"]])
def test_commands_say_what_to_type(mine: Run, tmp_path: Path, gdist: Gdist, command: list[str]) -> None:
    config = mine.folder / "config.toml"
    config.write_text(config.read_text().replace("steps = 4", "steps = 3"))
    out = [] if command == ["eval"] else ["--out", tmp_path / "out"]
    result = gdist(command[0], mine.folder, *command[1:], *out)
    assert result.exit_code == 1 and "config.toml is not the config that the run was begun with" in result.stderr
    assert "once more, writes it anew" in result.stderr and not (tmp_path / "out").exists()


def test_training_it_once_more_mends_it(mine: Run, made: Path, tiny_cache: Path) -> None:
    config = mine.folder / "config.toml"
    config.write_text(config.read_text().replace("steps = 4", "steps = 3"))
    change(mine.student / "config.json", digits(mine.student / "config.json")[0])
    run(tiny_cache, mine.folder, short(train__steps=4))
    assert config.read_bytes() == (made / "config.toml").read_bytes()
    mine.require_student()
    assert (mine.student / "config.json").read_bytes() == (made / "student/config.json").read_bytes()


def test_documents_without_a_checksum_are_read(mine: Run) -> None:
    """Those of earlier versions have none."""
    for name in ("run.json", "eval.json"):
        path = mine.folder / name
        (document := json.loads(path.read_text())).pop("checksum")
        path.write_text(json.dumps(document))
    assert mine.provenance()["student"] == "gendistiller"
    assert read_evaluation(mine.folder / "eval.json")["split"] == "test"


def test_comments_in_a_config_are_no_damage(mine: Run) -> None:
    config = mine.folder / "config.toml"
    config.write_text("# the one of Tuesday\n" + config.read_text())
    assert mine.tables()["train"]["steps"] == 4


def test_a_seal_covers_what_was_measured() -> None:
    text = text_of("it", {"params": 3, "also": float("inf"), "odd": "\N{SNOWMAN}"}, About, measured=True)
    found = unsealed(text.encode(), measured=True)
    assert found["params"] == 3 and found["odd"] == "\N{SNOWMAN}" and found["also"] != found["also"]
    with pytest.raises(SchemaError, match="does not match its checksum"):
        unsealed(text.replace("3", "4", 1).encode(), measured=True)
    with pytest.raises(RunError, match="cannot write it: its params is not an integer"):
        text_of("it", {"params": -3}, About)


def test_notes_beside_a_student_belong_to_who_wrote_them(
    made: Path, tmp_path: Path, gdist: Gdist, tiny_cache: Path
) -> None:
    mine = Run(Path(shutil.copytree(made, tmp_path / "run")))
    for number in range(20):
        (mine.student / f"note-{number}.md").write_text("mine")
    (tmp_path / "elsewhere.md").write_text("mine")
    (mine.student / "link.md").symlink_to(tmp_path / "elsewhere.md")
    run(tiny_cache, mine.folder, short(train__steps=4))
    assert set(mine.provenance()["student_files"]) == {"config.json", "preprocessor_config.json"}
    (mine.student / "note-0.md").write_text("changed")
    (mine.student / "note-1.md").unlink()
    assert gdist("eval", mine.folder, "--probes", "none").exit_code == 0
