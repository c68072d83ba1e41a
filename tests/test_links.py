"""Links inside a cache, a run or an export may lead to other people's files: those are never written or deleted."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from conftest import contents, extracted
from inotify import watched
from test_train import Killed, kill_at, run, short

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.planning import FOLDERS, LOCK, PLANNING, is_ours
from gdist.pipeline.errors import CacheError, RunError
from gdist.pipeline.files import foreign
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.run import Run
from gdist.pipeline.staging import write_atomically
from gdist.pipeline.storage.objects import Storage
from gdist.stages.extract.repair import repair
from gdist.stages.extract.sources import Sources
from gdist.stages.report.page import RunSummary, write_report

Gdist = Callable[..., Result]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Another person's folder, with files of the same names as in a cache and a run."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("config.json", "frontend.safetensors", "zarr.json", "00000.json", "thesis.tex", "model.safetensors"):
        (folder / name).write_text(f"somebody's {name}")
    (folder / "c" / "0").mkdir(parents=True)
    (folder / "c" / "0" / "0").write_text("somebody's")
    return folder


def swap_for_link(path: Path, target: Path) -> None:
    """Put a link to ``target`` in the place of a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


class TestCache:
    @pytest.mark.parametrize("name", sorted(FOLDERS))
    def test_restart_deletes_nothing_behind_a_link(
        self, tiny_teacher: Path, speech: Path, own_cache: Path, elsewhere: Path, name: str
    ) -> None:
        (own_cache / name).mkdir(exist_ok=True)  # fp16 has no scales
        swap_for_link(own_cache / name, elsewhere)
        before, left = contents(elsewhere), contents(own_cache)
        with pytest.raises(CacheError, match=f"cache/{name} is a link \\(to .*elsewhere\\)") as caught:
            extracted(tiny_teacher, speech, own_cache, restart=True)
        assert "link the whole folder" in str(caught.value.hint)
        assert contents(elsewhere) == before and contents(own_cache) == left

    @pytest.mark.parametrize(
        "name", ["layers/01", "layers/01/c", "layers/01/c/0", "receipts/00001.json", "zarr.json"]
    )
    def test_restart_deletes_nothing_behind_a_deeper_link(
        self, tiny_teacher: Path, speech: Path, own_cache: Path, elsewhere: Path, name: str
    ) -> None:
        kept = elsewhere / "kept"
        shutil.move(own_cache / name, kept)
        (own_cache / name).symlink_to(kept)
        before = contents(elsewhere)
        with pytest.raises(CacheError, match=f"{name} is a link"):
            extracted(tiny_teacher, speech, own_cache, restart=True)
        assert contents(elsewhere) == before
        assert Cache.open(str(own_cache)).done(), "and reading follows it"

    @pytest.mark.parametrize("name", sorted(FOLDERS))
    def test_a_plan_that_was_interrupted_clears_nothing_behind_a_link(
        self, tiny_teacher: Path, speech: Path, tmp_path: Path, elsewhere: Path, name: str
    ) -> None:
        cache = tmp_path / "cache"
        storage = Storage(str(cache), create=True)
        storage.put(PLANNING, b"gdist is at work here; without a zarr.json beside it, this is not a cache yet\n")
        (cache / name).symlink_to(elsewhere)
        before = contents(elsewhere)
        with pytest.raises(CacheError, match=f"{name} is a link"):
            extracted(tiny_teacher, speech, cache)
        assert contents(elsewhere) == before and LOCK not in contents(cache)

    def test_a_foreign_planning_file_does_not_permit_deleting(
        self, tiny_teacher: Path, speech: Path, tmp_path: Path, own_cache: Path
    ) -> None:
        folder = tmp_path / "papers"
        for name in (PLANNING, "index.parquet", "teacher/config.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("what I plan")
        before = contents(folder)
        for restart in (False, True):
            with pytest.raises(CacheError, match="planning is not the file that gdist writes"):
                extracted(tiny_teacher, speech, folder, restart=restart)
            assert contents(folder) == before
        (own_cache / PLANNING).write_text("mine")
        with pytest.raises(CacheError, match="planning is not the file"):
            extracted(tiny_teacher, speech, own_cache)
        assert (own_cache / PLANNING).read_text() == "mine"

    def test_other_files_and_links_next_to_a_cache_stay(
        self, tiny_teacher: Path, speech: Path, own_cache: Path, tiny_cache: Path, elsewhere: Path
    ) -> None:
        (own_cache / "notes").symlink_to(elsewhere)
        (own_cache / "teacher" / "notes.txt").write_text("mine")
        before = contents(elsewhere)
        extracted(tiny_teacher, speech, own_cache, restart=True)
        assert contents(elsewhere) == before and (own_cache / "notes").is_symlink()
        assert (own_cache / "teacher" / "notes.txt").read_text() == "mine"
        assert {key: data for key, data in contents(own_cache).items() if is_ours(key)} == contents(tiny_cache)

    def test_the_folder_itself_may_be_a_link(
        self, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "big").mkdir()
        (tmp_path / "cache").symlink_to(tmp_path / "big")
        for restart in (False, True):
            extracted(tiny_teacher, speech, tmp_path / "cache", restart=restart)
            assert contents(tmp_path / "big") == contents(tiny_cache)
        assert (tmp_path / "cache").is_symlink()

    @pytest.mark.parametrize("name", ["teacher", "layers/02", "plans"])
    def test_repair_writes_nothing_behind_a_link(
        self, tiny_teacher: Path, own_cache: Path, elsewhere: Path, name: str
    ) -> None:
        swap_for_link(own_cache / name, elsewhere)
        before = contents(elsewhere)
        with pytest.raises(CacheError, match=f"{name} is a link"):
            repair(str(own_cache), Sources(teacher=str(tiny_teacher)), show_progress=False)
        assert contents(elsewhere) == before

    def test_a_layer_on_another_disk_is_read(
        self, tiny_teacher: Path, speech: Path, own_cache: Path, tmp_path: Path
    ) -> None:
        shutil.move(own_cache / "layers" / "02", tmp_path / "other-disk")
        (own_cache / "layers" / "02").symlink_to(tmp_path / "other-disk")
        assert repair(str(own_cache), Sources(teacher=str(tiny_teacher)), show_progress=False)[1] == []
        run(own_cache, tmp_path / "run", short(train__steps=2))
        (own_cache / "receipts" / "00000.json").unlink()
        with pytest.raises(CacheError, match="layers/02 is a link"):
            extracted(tiny_teacher, speech, own_cache)

    def test_the_lock_is_not_written_through_a_link(
        self, tiny_teacher: Path, speech: Path, own_cache: Path, elsewhere: Path
    ) -> None:
        (own_cache / LOCK).symlink_to(elsewhere / "new")
        with pytest.raises(CacheError, match=f"{LOCK} is a link"):
            extracted(tiny_teacher, speech, own_cache, restart=True)
        assert not (elsewhere / "new").exists()

    def test_the_sweep_leaves_links(self, own_cache: Path, elsewhere: Path) -> None:
        (own_cache / "index.parquet#1").symlink_to(elsewhere / "thesis.tex")
        (own_cache / "zarr.json#2").write_text("half")
        assert Storage(str(own_cache)).sweep_staged(is_ours) == 1
        assert (own_cache / "index.parquet#1").is_symlink()


@pytest.fixture
def killed(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was killed at its eighth step of nine, with checkpoints at 3 and 6."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 8)
        run(tiny_cache, tmp_path / "run", short())
    return tmp_path / "run"


class TestRun:
    @pytest.mark.parametrize(
        "name",
        ["checkpoints", "tensorboard", "student", "student.tmp", "metrics.jsonl", "run.json", "config.toml",
         "eval.json", "training.json"],
    )  # fmt: skip
    @pytest.mark.parametrize("to", ["file", "folder", "nothing"])
    def test_a_link_in_it_is_refused_before_the_first_step(
        self, tiny_cache: Path, killed: Path, elsewhere: Path, name: str, to: str
    ) -> None:
        if name in ("run.json", "config.toml") and to != "file":
            pytest.skip("then there is no run")
        target = {"file": elsewhere / "t", "folder": elsewhere, "nothing": elsewhere / "new"}[to]
        if to == "file":
            shutil.copy(killed / name, target) if (killed / name).is_file() else target.write_text("somebody's")
        swap_for_link(killed / name, target)
        before = contents(elsewhere)
        with pytest.raises(RunError, match=f"run/{name} is a link"):
            run(tiny_cache, killed, short())
        assert contents(elsewhere) == before

    def test_temporary_files_are_not_written_through_links(
        self, tiny_cache: Path, killed: Path, elsewhere: Path
    ) -> None:
        before = contents(elsewhere)
        names = ("metrics.jsonl", "run.json", "config.toml")
        for name in names:
            (killed / f"{name}.tmp").symlink_to(elsewhere / "thesis.tex")
            (killed / f".{name}.{os.getpid()}.tmp").symlink_to(elsewhere / "thesis.tex")
        run(tiny_cache, killed, short())
        assert contents(elsewhere) == before

    def test_a_checkpoint_that_is_a_link_is_neither_read_nor_deleted(
        self, tiny_cache: Path, killed: Path, elsewhere: Path
    ) -> None:
        shutil.move(killed / "checkpoints" / "step-0000006", elsewhere / "six")
        (killed / "checkpoints" / "step-0000006").symlink_to(elsewhere / "six")
        before = contents(elsewhere)
        with watched(elsewhere / "six") as seen, pytest.raises(RunError, match="step-0000006 is a link"):
            run(tiny_cache, killed, short(train__keep_checkpoints=1))
        assert contents(elsewhere) == before and not seen
        (killed / "checkpoints" / "step-0000006").unlink()
        (killed / "checkpoints" / "step-0000009.tmp").symlink_to(elsewhere)
        with pytest.raises(RunError, match=r"step-0000009.tmp is a link"):
            run(tiny_cache, killed, short())
        assert contents(elsewhere) == before

    def test_the_folder_itself_may_be_a_link(self, tiny_cache: Path, tmp_path: Path) -> None:
        (tmp_path / "big").mkdir()
        (tmp_path / "run").symlink_to(tmp_path / "big")
        run(tiny_cache, tmp_path / "run", short())
        run(tiny_cache, tmp_path / "run", short())
        assert (tmp_path / "run").is_symlink() and (tmp_path / "big" / "student" / "model.safetensors").exists()

    def test_what_gdist_did_not_write_stays(
        self, tiny_cache: Path, killed: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        notes = [killed / "checkpoints" / name / "notes.txt" for name in ("step-0000003", "step-0000009.tmp")]
        for note in notes:
            note.parent.mkdir(exist_ok=True)
            note.write_text("mine")
        (killed / "checkpoints" / "step-0000006-copy2").mkdir()
        with pytest.raises(RunError, match=r"step-0000009\.tmp contains notes\.txt, which gdist did not write"):
            run(tiny_cache, killed, short())
        shutil.rmtree(notes[1].parent)
        run(tiny_cache, killed, short(train__keep_checkpoints=1))
        assert notes[0].read_text() == "mine" and Run(killed).steps() == [3, 9], "with what makes it a checkpoint"
        assert "step-0000003 contains notes.txt" in capsys.readouterr().err
        finished = contents(killed / "student")
        (killed / "student" / "notes.txt").write_text("mine")
        run(tiny_cache, killed, short())
        assert contents(killed / "student") == finished | {"notes.txt": b"mine"}

    def test_what_a_kill_before_the_config_left_is_no_obstacle(self, tiny_cache: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        for name in ("run.json", "training.json", ".run.json.77.tmp", ".config.toml.77.tmp"):
            (tmp_path / "run" / name).write_text("{}")
        run(tiny_cache, tmp_path / "run", short(train__steps=2))

    def test_eval_is_not_written_through_a_link(
        self, tiny_cache: Path, tmp_path: Path, elsewhere: Path, gdist: Gdist
    ) -> None:
        run(tiny_cache, tmp_path / "run", short(train__steps=2))
        (tmp_path / "run" / "eval.json").symlink_to(elsewhere / "thesis.tex")
        result = gdist("eval", tmp_path / "run", "--probes", "none")
        assert result.exit_code == 1 and "eval.json is a link" in result.stderr
        (tmp_path / "run" / "eval.json").unlink()
        (tmp_path / "run" / "eval.json.tmp").symlink_to(elsewhere / "thesis.tex")
        assert gdist("eval", tmp_path / "run", "--probes", "none").exit_code == 0
        out = tmp_path / "report.html"
        for name in (out.name, f"{out.name}.tmp", f".{out.name}.{os.getpid()}.tmp"):
            (tmp_path / name).symlink_to(elsewhere / "thesis.tex")
        write_report([RunSummary.read(tmp_path / "run")], out)
        assert not out.is_symlink() and "<html" in out.read_text()
        assert (elsewhere / "thesis.tex").read_text() == "somebody's thesis.tex"


class TestExport:
    @pytest.fixture
    def exported(self, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> Callable[..., Result]:
        run(tiny_cache, tmp_path / "run", short(train__steps=2))
        return lambda out, name="s3prl": gdist("export", tmp_path / "run", "--format", name, "--out", out)

    def test_files_of_others_in_an_export_are_not_deleted(
        self, exported: Callable[..., Result], tmp_path: Path, elsewhere: Path
    ) -> None:
        out = tmp_path / "out"
        assert exported(out).exit_code == 0
        told = json.loads((out / "gdist-export.json").read_text())["files"]
        assert sorted(contents(out)) == told, "by name"
        cache = next(out.glob("gdist_student_*")) / "__pycache__"
        cache.mkdir()
        (cache / "upstream.cpython-312.pyc").write_bytes(b"")  # as Python does when it is used
        assert exported(out, "hf").exit_code == 0
        for name in (".git/config", "notes.txt"):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text("mine")
        (out / "link").symlink_to(elsewhere)
        before = contents(tmp_path)
        result = exported(out, "hf")
        assert result.exit_code == 1 and ".git/config, link, notes.txt, which gdist did not write" in result.stderr
        assert contents(tmp_path) == before

    def test_its_folder_may_be_a_link(self, exported: Callable[..., Result], tmp_path: Path) -> None:
        (tmp_path / "big").mkdir()
        (tmp_path / "out").symlink_to(tmp_path / "big")
        for _ in range(2):
            assert exported(tmp_path / "out").exit_code == 0
        assert (tmp_path / "out").is_symlink() and (tmp_path / "big" / "hubconf.py").exists()


def test_a_manifest_is_not_written_through_a_link(speech: Path, tmp_path: Path, elsewhere: Path) -> None:
    out = tmp_path / "m.parquet"
    for name in (out.name, f".{out.name}.{os.getpid()}", f".{out.name}.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to(elsewhere / "thesis.tex")
    Manifest.read(speech).write(out)
    assert not out.is_symlink() and len(Manifest.read(out).table) == 30
    assert (elsewhere / "thesis.tex").read_text() == "somebody's thesis.tex"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OSError, match="there"):
        write_atomically(tmp_path / "there", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_foreign_files_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "ours").write_text("")
    assert foreign(tmp_path, "a/ours") == []
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    assert foreign(tmp_path, "a/ours|a/link") == ["a/link", "empty"]
