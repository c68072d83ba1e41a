"""Your own student, loss, probe, teacher, kind of manifest and encoding, in every command that uses it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import safetensors.torch
import soundfile
import torch
from conftest import WITHOUT_GDIST, contents
from extending import (
    ENCODING_SOURCE,
    EXAMPLES,
    KIND,
    LOSS,
    PROBE,
    SETTINGS,
    STUDENT,
    TEACHER,
    done,
    extract_words,
    invoke,
    plant,
    process,
    refused,
    train_words,
)
from ranked import torchrun
from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

from gdist.pipeline import extensions
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import ConfigError, RunError
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.run import Run
from gdist.stages.students import STUDENTS, load_student
from gdist.stages.teachers import FAMILIES, load_teacher


@pytest.fixture(scope="module")
def lstm(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of docs/examples/own_student.py with docs/examples/own_loss.py."""
    folder = tmp_path_factory.mktemp("own") / "lstm"
    done(*train_words(tiny_cache, folder, "--student", STUDENT, "--set", f"loss.name={LOSS}"))
    return folder


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoding in a file."""
    path = tmp_path_factory.mktemp("encoding") / "own_halves.py"
    path.write_text(ENCODING_SOURCE)
    return f"{path}:Halved"


@pytest.fixture(scope="module")
def halved_cache(halved: str, tiny_teacher: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halved") / "cache"
    done(*extract_words(tiny_teacher, speech, folder, "--encoding", halved))
    return folder


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with files named like the examples, which must never run: they would write the marker."""
    folder = tmp_path / "here"
    for name in (*(path.name for path in EXAMPLES.glob("*.py")), "own_halves.py"):
        plant(folder / name, tmp_path / "marker")
    monkeypatch.chdir(folder)
    return tmp_path / "marker"


def with_accents(speech: Path, out: Path) -> None:
    """The manifest with one more column; of one accent there is a single example, which is left out, and no error."""
    manifest = Manifest.read(speech)
    accents = [("north", "south")[len(str(row["id"])) % 2] for row in manifest.table.to_pylist()]
    accents[0] = "of one"
    Manifest(manifest.table.append_column("accent", pa.array(accents)), manifest.root).write(out)


class TestExamples:
    """Each example does what its docstring says, with the command that its docstring shows."""

    @pytest.mark.parametrize("path", sorted(EXAMPLES.glob("own_*.py")), ids=lambda path: path.name)
    def test_each_shows_its_command(self, path: Path) -> None:
        head = path.read_text(encoding="utf-8").split('"""')[1]
        assert "\ngdist " in head and f"{path.name}:" in head and len(head.splitlines()) < 15

    def test_a_student_and_a_loss(self, lstm: Path, tiny_cache: Path, tmp_path: Path) -> None:
        run = json.loads((lstm / "run.json").read_text())
        assert run["student"] == "own_student.py:LSTMStudent"
        assert run["extensions"].keys() == {"own_student.py:LSTMStudent", "own_loss.py:huber"}
        for name, reference in (("own_student.py:LSTMStudent", STUDENT), ("own_loss.py:huber", LOSS)):
            path = Path(reference.rpartition(":")[0])
            assert run["extensions"][name]["path"] == str(path)
            assert len(run["extensions"][name]["sha256"]) == 64
            assert (lstm / "extensions" / path.name).read_bytes() == path.read_bytes()
        rows = done("students", "--use", STUDENT)
        assert [row["name"] for row in rows][-1] == "own_student.py:LSTMStudent"
        evaluated = done("eval", lstm, "--use", STUDENT, "--probes", "label:speaker")
        assert evaluated["student"] == "own_student.py:LSTMStudent" and evaluated["probes"].keys() == {
            "label:speaker",
        }
        # The student's own fields are set in the same way as the fields of gdist's students.
        words = [*train_words(tiny_cache, tmp_path / "deep", "--student", STUDENT), "--set"]
        done(*words, "student.num_lstm_layers=3")
        assert "num_lstm_layers = 3" in (tmp_path / "deep" / "config.toml").read_text()
        wrong = refused(*words, "student.num_lstm_layer=3")
        assert "did you mean `num_lstm_layers`" in wrong

    def test_the_loss_computes_what_it_says(self) -> None:
        from gdist.stages.train.losses import LOSSES

        extensions.forget()
        loss = LOSSES[LOSSES.use(LOSS)]
        prediction_BKTD, target_BKTD = (
            torch.tensor([[[[1.2, 0.0], [9.0, 9.0]]]]),
            torch.tensor([[[[0.0, 0.2], [0, 0]]]]),
        )
        expected = (0.5 * (1.2 - 0.25) + 0.5 * 0.2**2) / 2 + 0.5 * (1 - 0)
        found = loss(prediction_BKTD, target_BKTD, torch.tensor([[True, False]]), 0.5)
        torch.testing.assert_close(found, torch.tensor([expected]))

    def test_a_probe(self, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        with_accents(speech, tmp_path / "m.parquet")
        done(*extract_words(tiny_teacher, tmp_path / "m.parquet", tmp_path / "cache"))
        done(*train_words(tmp_path / "cache", tmp_path / "run"))
        evaluated = done("eval", tmp_path / "run", "--probes", f"label:accent,{PROBE}")
        assert evaluated["probes"].keys() == {"label:accent", "own_probe.py:Accent"}
        assert evaluated["probes"]["own_probe.py:Accent"]["classes"] == 2
        assert evaluated["extensions"]["own_probe.py:Accent"]["path"] == PROBE.rpartition(":")[0]
        assert len(evaluated["extensions"]["own_probe.py:Accent"]["sha256"]) == 64
        assert invoke("report", tmp_path / "run", "--out", tmp_path / "page.html").exit_code == 0
        assert "accent" in (tmp_path / "page.html").read_text()
        assert "no utterance has a `dialect`" in refused("eval", tmp_path / "run", "--probes", "label:dialect")

    def test_a_kind_of_manifest(self, tmp_path: Path) -> None:
        data = tmp_path / "data"
        prompts = voxforge(data, "ann-2009-x", a="one two", b="three")
        found = done("manifest", "build", data, "--kind", KIND, "--out", tmp_path / "m.parquet")
        assert found["utterances"] == 2 and found["columns"][-1] == "text" and not found["problems"]
        a, b = Manifest.read(tmp_path / "m.parquet").utterances()
        assert (a.id, a.path, a.num_samples, a.labels["text"]) == (
            "ann-2009-x/a",
            f"{data}/ann-2009-x/wav/a.wav",
            8_000,
            "one two",
        )
        assert (b.id, b.labels["speaker"]) == ("ann-2009-x/b", "ann")
        prompts.write_text("ann-2009-x/mfc/a\n")
        said = refused("manifest", "build", data, "--kind", KIND, "--out", tmp_path / "m.parquet")
        assert "PROMPTS, line 1" in said and "the text that was read" in said
        said = refused("manifest", "build", prompts, "--kind", KIND, "--out", tmp_path / "m.parquet")
        assert "is not what --kind own_manifest.py:VoxForge reads" in said


@pytest.fixture(scope="module")
def unispeech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random checkpoint of docs/examples/own_teacher.py's family, in which every parameter matters."""
    folder = tmp_path_factory.mktemp("teacher") / "unispeech"
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "conv_dim": [16] * 7,
    }
    shape |= {"intermediate_size": 64, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        model = AutoModel.from_config(AutoConfig.for_model("unispeech", **shape))
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder


def test_a_probe_that_gives_no_number(lstm: Path, tmp_path: Path) -> None:
    file = tmp_path / "own_probe.py"
    text = (EXAMPLES / "own_probe.py").read_text().replace('label: str = "accent"', 'label: str = "speaker"')
    text += "\n    def run(self, *_, **__):\n        from types import SimpleNamespace\n\n"
    file.write_text(text + "        return SimpleNamespace(value=float('nan'))\n")
    said = refused("eval", lstm, "--use", STUDENT, "--probes", f"{file}:Accent")
    assert "`own_probe.py:Accent` gives no number for" in said


class TestTeacher:
    def test_it_is_exact(self, unispeech: Path) -> None:
        """A padded batch gives the same as transformers does for each utterance alone."""
        extensions.forget()
        assert FAMILIES.use(TEACHER) == "unispeech"
        teacher, reference = load_teacher(str(unispeech)), AutoModel.from_pretrained(unispeech).eval()
        lengths = [400, 719, 16_000, 12_345]
        waveform_BS = torch.randn(4, max(lengths), generator=torch.Generator().manual_seed(1)) / 10
        layers = list(teacher.hidden_states(waveform_BS, torch.tensor(lengths)))
        assert len(layers) == 4
        for row, samples in enumerate(lengths):
            with torch.inference_mode():
                alone = reference(waveform_BS[row : row + 1, :samples], output_hidden_states=True).hidden_states
            for hidden_BTD, alone_1TD in zip(layers, alone, strict=True):
                frames = alone_1TD.shape[1]
                torch.testing.assert_close(hidden_BTD[row, :frames], alone_1TD[0], atol=1e-4, rtol=1e-5)
                assert not hidden_BTD[row, frames:].any()

    def test_a_cache_of_it(self, unispeech: Path, speech: Path, tmp_path: Path, marker: Path) -> None:
        cache = tmp_path / "cache"
        words = extract_words(unispeech, speech, cache)
        assert "'unispeech', which is not a family" in refused(*words)
        assert "--use FILE.py:CLASS" in refused(*words)
        done(*words, "--use", TEACHER)
        identity = Cache.open(str(cache)).identity["teacher"]
        assert identity["family"] == "unispeech" and len(identity["sha256"]) == 64
        source = Path(TEACHER.rpartition(":")[0]).read_bytes()
        assert (cache / "teacher" / "own_teacher.py").read_bytes() == source
        assert done(*words, "--use", TEACHER)["packs_resumed"] == 9
        # A command that only reads the cache needs neither the teacher nor its file.
        assert done("verify", cache)["ok"] and done("inspect", cache)["packs_done"] == 9
        done(*train_words(cache, tmp_path / "run"))
        assert done("teachers", "--use", TEACHER)[-1] == {
            "family": "unispeech",
            "model": "UniSpeechModel",
            "frontend": "convolutions",
        }
        assert done("plan", "--use", TEACHER, "--teacher", unispeech, "--hours", 1)["layers"] == [0, 1, 2, 3]
        # A different file with the same name is a different teacher.
        other = tmp_path / "changed" / "own_teacher.py"
        other.parent.mkdir()
        other.write_bytes(source + b"# changed\n")
        said = refused(*words, "--use", f"{other}:UniSpeechTeacher")
        assert "was made from other inputs" in said and "teacher.sha256: " in said
        # A lost pack is only extracted again by the same code.
        shard = next(path for path in (cache / "layers").rglob("*") if path.is_file() and path.name != "zarr.json")
        before = contents(cache)
        shard.write_bytes(b"damage")
        (cache / "teacher" / "own_teacher.py").unlink()
        repair = ["verify", cache, "--repair", "--teacher", unispeech, "--device", "cpu"]
        assert "not a family that gdist reads" in refused(*repair)
        said = refused(*repair, "--use", f"{other}:UniSpeechTeacher")
        assert "not run by the code" in said and "teacher/" in said
        assert done(*repair, "--use", TEACHER)["ok"] and contents(cache) == before
        assert not marker.exists()


def test_a_recipe_of_your_own_names_files(tiny_cache: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'[student]\nname = "{STUDENT}"\n[loss]\nname = "{LOSS}"\n')
    done(*train_words(tiny_cache, tmp_path / "run", "--recipe", recipe))
    tables = Run.open(tmp_path / "run").tables()
    assert tables["student"]["name"] == "own_student.py:LSTMStudent" and tables["loss"]["name"] == "own_loss.py:huber"
    assert {path.name for path in (tmp_path / "run" / "extensions").iterdir()} == {"own_student.py", "own_loss.py"}


class TestNothingRunsUnasked:
    """Files are placed where names might be looked up, and write a marker if they are run."""

    def test_by_what_a_run_names(self, lstm: Path, tiny_cache: Path, tmp_path: Path, marker: Path) -> None:
        run = Path(shutil.copytree(lstm, tmp_path / "run"))
        done("eval", run, "--use", STUDENT, "--probes", "none")  # for the report
        for path in (run / "extensions").iterdir():
            plant(path, marker)
        plant(run / "student" / "own_student.py", marker)
        document = json.loads((run / "student" / "config.json").read_text())
        document["auto_map"] = {"AutoModel": "own_student.LSTMStudent", "AutoConfig": "own_student.LSTMStudentConfig"}
        (run / "student" / "config.json").write_text(json.dumps(document))
        origin = json.loads((run / "run.json").read_text())
        del origin["student_files"], origin["checksum"]  # or: they are those of the changed files
        (run / "run.json").write_text(json.dumps(origin))
        said = refused("eval", run)
        assert "gdist runs a file only when you name it" in said
        assert f"--use {run}/extensions/own_student.py:LSTMStudent" in said
        for form in ("hf", "s3prl", "onnx"):
            assert "--use " in refused("export", run, "--format", form, "--out", tmp_path / "out")
        assert invoke("report", run, "--out", tmp_path / "page.html").exit_code == 0
        for out in (run, tmp_path / "new"):
            assert "--use " in refused("train", "--cache", tiny_cache, "--out", out, "--recipe", run / "config.toml")
        assert "--use " in refused(*train_words(tiny_cache, run, "--recipe", run / "config.toml", "--use", STUDENT))
        # The student is named, and the code that the folder lists next to its weights is ignored.
        done("eval", run, "--use", STUDENT, "--probes", "none")
        assert not marker.exists() and not (tmp_path / "new").exists()

    def test_by_what_a_cache_names(self, halved: str, halved_cache: Path, tmp_path: Path, marker: Path) -> None:
        cache = Path(shutil.copytree(halved_cache, tmp_path / "cache"))
        plant(cache / "teacher" / "own_halves.py", marker)
        for words in (["inspect"], ["verify"], ["verify", "--repair"]):
            said = refused(words[0], cache, *words[1:])
            assert "gdist runs a file only when you name it" in said
            assert f"--use {cache}/teacher/own_halves.py:Halved" in said
        assert "--use " in refused(*train_words(cache, tmp_path / "run"))
        assert not marker.exists()
        # Naming the file in the cache runs it; it is then not the file that the cache was made with.
        (cache / "teacher" / "own_halves.py").write_text(ENCODING_SOURCE + "# changed\n")
        named = f"{cache}/teacher/own_halves.py:Halved"
        assert "own_halves.py is not the file that the cache" in refused("inspect", cache, "--use", named)

    def test_by_an_export_that_is_taken_for_a_teacher(
        self, lstm: Path, speech: Path, tmp_path: Path, marker: Path
    ) -> None:
        out = tmp_path / "export"
        done("export", lstm, "--format", "hf", "--out", out, "--use", STUDENT)
        for path in out.glob("*.py"):
            plant(path, marker)
        for model_type in ("lstm-student", "hubert"):
            document = json.loads((out / "config.json").read_text()) | {"model_type": model_type}
            (out / "config.json").write_text(json.dumps(document))
            assert refused(*extract_words(out, speech, tmp_path / "cache"))
        assert not marker.exists()

    def test_by_a_name_without_a_path(self, tiny_cache: Path, tmp_path: Path, marker: Path) -> None:
        """A module name finds nothing in the current folder; a path does."""
        for name in ("own_student", "own_student:LSTMStudent", "own_student.LSTMStudent"):
            assert "there is no such student" in refused(*train_words(tiny_cache, tmp_path / "r", "--student", name))
        assert not marker.exists()
        refused(*train_words(tiny_cache, tmp_path / "r", "--student", "own_student.py:LSTMStudent"))
        assert marker.read_text() == "I ran"

    def test_by_an_earlier_command_of_this_process(self, lstm: Path) -> None:
        done("eval", lstm, "--use", STUDENT, "--probes", "none")
        assert "gdist runs a file only when you name it" in refused("eval", lstm, "--probes", "none")


class TestTheSameFile:
    """A run continues, and is evaluated, with the file that it was started with."""

    @pytest.fixture
    def mine(self, tmp_path: Path) -> str:
        """A student that its author is still changing."""
        return f"{shutil.copy(EXAMPLES / 'own_student.py', tmp_path)}:LSTMStudent"

    def test_a_run_refuses_another_and_resumes_with_its_copy_to_the_same_bits(
        self, mine: str, tiny_cache: Path, tmp_path: Path
    ) -> None:
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        done(*train_words(tiny_cache, whole, "--student", mine))
        done(*train_words(tiny_cache, cut, "--student", mine))
        shutil.rmtree(cut / "student")
        shutil.rmtree(cut / "checkpoints" / "step-0000004")
        signature = json.loads((cut / "run.json").read_text())["signature"]
        file = Path(mine.rpartition(":")[0])
        file.write_text(file.read_text() + "\n# a thought\n")
        kept = f"{cut}/extensions/own_student.py:LSTMStudent"
        said = refused(*train_words(tiny_cache, cut, "--student", mine))
        assert "own_student.py is not the file" in said and "it has changed since" in said and kept in said
        with pytest.raises(RunError, match=r"no finished student \(step 2 of 4\)") as caught:
            load_student(cut)
        assert caught.value.hint and f"--use {kept}" in caught.value.hint
        for words in (["--student", kept], ["--recipe", cut / "config.toml", "--use", kept]):
            done(*train_words(tiny_cache, cut, *words))
            assert contents(cut / "student") == contents(whole / "student")
            assert json.loads((cut / "run.json").read_text())["signature"] == signature
        elsewhere = json.loads(process(*train_words(tiny_cache, whole, "--student", kept), "--json").stdout)
        assert elsewhere["steps"] == 4
        # The changed file makes a different run, even if it computes the same.
        done(*train_words(tiny_cache, tmp_path / "new", "--student", mine))
        assert json.loads((tmp_path / "new" / "run.json").read_text())["signature"] != signature

    def test_eval_and_export_refuse_another(self, mine: str, lstm: Path, tmp_path: Path) -> None:
        file = Path(mine.rpartition(":")[0])
        file.write_text(file.read_text() + "\n# a thought\n")
        kept = f"{lstm}/extensions/own_student.py:LSTMStudent"
        for words in (["eval", lstm], ["export", lstm, "--format", "hf", "--out", tmp_path / "out"]):
            said = refused(*words, "--use", mine)
            assert "own_student.py is not the file" in said and kept in said
        done("eval", lstm, "--use", kept, "--probes", "none")
        assert not (tmp_path / "out").exists()

    def test_a_loss_that_changed(self, lstm: Path, tiny_cache: Path, tmp_path: Path) -> None:
        file = tmp_path / "own_loss.py"
        file.write_text((EXAMPLES / "own_loss.py").read_text().replace("DELTA = 0.5", "DELTA = 0.6"))
        said = refused(*train_words(tiny_cache, lstm, "--student", STUDENT, "--set", f"loss.name={file}:huber"))
        assert "own_loss.py is not the file" in said and f"{lstm}/extensions/own_loss.py:huber" in said
        # A different name is a different config, and a run without the loss differs from one with it.
        assert "loss.name: own_loss.py:huber → l1" in refused(
            *train_words(tiny_cache, lstm, "--student", STUDENT, loss__name="l1")
        )

    def test_two_files_of_one_name_in_one_command(self, tiny_cache: Path, tmp_path: Path) -> None:
        for folder, example in (("a", "own_student.py"), ("b", "own_loss.py")):
            (tmp_path / folder).mkdir()
            shutil.copy(EXAMPLES / example, tmp_path / folder / "own.py")
        words = ["--student", f"{tmp_path}/a/own.py:LSTMStudent", "--set", f"loss.name={tmp_path}/b/own.py:huber"]
        said = refused(*train_words(tiny_cache, tmp_path / "run", *words))
        assert "two different files with the same name" in said and not (tmp_path / "run").exists()

    def test_one_file_may_hold_several_things(self, tiny_cache: Path, tmp_path: Path) -> None:
        file = tmp_path / "own.py"
        texts = [(EXAMPLES / name).read_text() for name in ("own_student.py", "own_loss.py")]
        file.write_text("\n".join(texts))
        done(
            *train_words(tiny_cache, tmp_path / "run", "--student", f"{file}:LSTMStudent", loss__name=f"{file}:huber")
        )
        assert [path.name for path in (tmp_path / "run" / "extensions").iterdir()] == ["own.py"]
        assert Run(tmp_path / "run").provenance()["extensions"].keys() == {"own.py:LSTMStudent", "own.py:huber"}


class TestEncoding:
    def test_a_cache_keeps_it_and_requires_it(
        self, halved: str, halved_cache: Path, tiny_cache: Path, tmp_path: Path
    ) -> None:
        path = Path(halved.rpartition(":")[0])
        assert (halved_cache / "teacher" / "own_halves.py").read_bytes() == path.read_bytes()
        identity = done("inspect", halved_cache, "--use", halved)["identity"]
        assert identity["encoding"] == "own_halves.py:Halved" and len(identity["encoding_sha256"]) == 64
        assert "encoding_sha256" not in done("inspect", tiny_cache)["identity"], "other caches do not change"
        assert done("verify", halved_cache, "--use", f"{halved_cache}/teacher/own_halves.py:Halved")["ok"]
        said = refused(*train_words(halved_cache, tmp_path / "run"))
        assert f"--use {halved_cache}/teacher/own_halves.py:Halved" in said and "only when you name it" in said
        done(*train_words(halved_cache, tmp_path / "run", "--use", halved))
        assert (tmp_path / "run" / "extensions" / "own_halves.py").read_bytes() == path.read_bytes()
        done("eval", tmp_path / "run", "--use", halved, "--probes", "none")
        done("export", tmp_path / "run", "--format", "hf", "--out", tmp_path / "out", "--use", halved)
        assert invoke("report", tmp_path / "run", "--out", tmp_path / "page.html").exit_code == 0
        assert done("encodings", "--use", halved)[-1]["name"] == "own_halves.py:Halved"
        other = tmp_path / "own_halves.py"
        other.write_text(ENCODING_SOURCE.replace("/ 2", "/ 4").replace("* 2", "* 4"))
        said = refused("inspect", halved_cache, "--use", f"{other}:Halved")
        assert "own_halves.py is not the file that the cache" in said and "/teacher/own_halves.py" in said

    def test_extraction_only_continues_with_the_same_file(
        self, halved: str, halved_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path
    ) -> None:
        words = extract_words(tiny_teacher, speech, halved_cache)
        assert done(*words, "--encoding", halved)["packs_resumed"] == 9
        other = tmp_path / "own_halves.py"
        other.write_text(ENCODING_SOURCE + "# changed\n")
        said = refused(*words, "--encoding", f"{other}:Halved")
        assert "own_halves.py is not the file" in said or "encoding_sha256: " in said
        assert "only when you name it" in refused(*words)

    @pytest.mark.thorough
    def test_a_cluster_sends_it_to_the_workers(
        self, halved: str, halved_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path
    ) -> None:
        words = extract_words(tiny_teacher, speech, tmp_path / "cache", "--encoding", halved, "--cluster", "local:2")
        ended = process(*words)
        assert ended.returncode == 0, ended.stderr
        assert contents(tmp_path / "cache") == contents(halved_cache)

    @pytest.mark.thorough
    def test_a_cluster_sends_a_teacher_to_the_workers(self, unispeech: Path, speech: Path, tmp_path: Path) -> None:
        done(*extract_words(unispeech, speech, tmp_path / "one", "--use", TEACHER))
        words = extract_words(unispeech, speech, tmp_path / "two", "--use", TEACHER, "--cluster", "local:2")
        ended = process(*words)
        assert ended.returncode == 0, ended.stderr
        assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.thorough
def test_ranks_of_torchrun(tiny_cache: Path, tmp_path: Path) -> None:
    ended = torchrun(2, tiny_cache, tmp_path / "run", SETTINGS, "--student", STUDENT, "--set", f"loss.name={LOSS}")
    _, said = ended.communicate(timeout=300)
    assert ended.returncode == 0, said[-3000:]
    found = Run(tmp_path / "run").provenance()
    assert found["ranks"] == 2 and len(found["extensions"]) == 2


ALONE = (
    WITHOUT_GDIST
    + """
import safetensors.torch, torch
_, folder, upstream, inputs, out = sys.argv
from transformers import AutoModel, AutoModelForAudioClassification
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
head = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True, num_labels=3).eval()
given = safetensors.torch.load_file(inputs)
with torch.no_grad():
    states = model(given["waveform"], attention_mask=given["mask"], output_hidden_states=True).hidden_states
    logits = head(given["waveform"], attention_mask=given["mask"]).logits
    s3prl = torch.hub.load(upstream, "gdist", source="local", verbose=False).eval()
    upstream_states = s3prl([w[: int(m.sum())] for w, m in zip(given["waveform"], given["mask"])])["hidden_states"]
assert logits.shape == (2, 3) and type(head).__name__ == "LSTMStudentForSequenceClassification"
found = {f"hf{k}": h.contiguous() for k, h in enumerate(states)}
found |= {f"s3{k}": h.contiguous() for k, h in enumerate(upstream_states)}
safetensors.torch.save_file(found, out)
"""
)


def assert_exports_work_without_gdist(hf: Path, s3prl: Path, student: Any, folder: Path) -> None:
    """Both exports, in a process without gdist, return the student's hidden states."""
    samples_B = torch.tensor([16_001, 5_517])
    mask_BS = (torch.arange(16_001) < samples_B[:, None]).long()
    waveform_BS = torch.randn(2, 16_001, generator=torch.Generator().manual_seed(1)) * mask_BS
    safetensors.torch.save_file({"waveform": waveform_BS, "mask": mask_BS}, folder / "inputs")
    words = [sys.executable, "-c", ALONE, hf, s3prl, folder / "inputs", folder / "states"]
    environment = os.environ | {"HF_HOME": str(folder / "hf-home")}
    ended = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, cwd="/", env=environment
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    with torch.no_grad():
        expected = student.eval()(waveform_BS, attention_mask=mask_BS, output_hidden_states=True).hidden_states
    seen = safetensors.torch.load_file(folder / "states")
    for k, expected_BTD in enumerate(expected):
        torch.testing.assert_close(seen[f"hf{k}"], expected_BTD, atol=1e-5, rtol=0)
        frames = student.frontend.num_frames(samples_B)
        for row, count in enumerate(frames.tolist()):
            torch.testing.assert_close(seen[f"s3{k}"][row, :count], expected_BTD[row, :count], atol=1e-5, rtol=0)


class TestExports:
    def test_they_include_the_file(self, lstm: Path, tmp_path: Path) -> None:
        for form in ("hf", "s3prl"):
            found = done("export", lstm, "--format", form, "--out", tmp_path / form, "--use", STUDENT)
            assert found["max_difference"] <= 1e-5 and found["student"] == "own_student.py:LSTMStudent"
            (exported,) = (tmp_path / form).rglob("own_student.py")
            lines = exported.read_text().splitlines()
            assert "from .base import Student, StudentConfig" in lines
            own = Path(STUDENT.rpartition(":")[0]).read_text().splitlines()
            changed = [line for line, mine in zip(lines, own, strict=True) if line != mine]
            assert all(line.startswith("from .") for line in changed), "only imports differ"
        extensions.forget()
        STUDENTS.use(STUDENT)
        assert_exports_work_without_gdist(tmp_path / "hf", tmp_path / "s3prl", load_student(lstm), tmp_path)

    @pytest.mark.thorough
    @pytest.mark.parametrize("quantize", ["none", "int8"])
    def test_onnx(self, lstm: Path, tmp_path: Path, quantize: str) -> None:
        words = ["export", lstm, "--format", "onnx", "--out", tmp_path / "out", "--quantize", quantize]
        assert done(*words, "--use", STUDENT)["files"]

    @pytest.mark.parametrize(
        ("name", "taken"),
        [
            ("config.py", ("hf", "s3prl")),
            ("__init__.py", ("hf", "s3prl")),
            ("with_heads.py", ("hf",)),
            ("standalone.py", ("s3prl",)),
        ],
    )
    def test_a_name_that_gdist_also_has(
        self, name: str, taken: tuple[str, ...], tiny_cache: Path, tmp_path: Path
    ) -> None:
        """An export is one flat folder, so the file is renamed in it; the run does not fail. The command itself loads
        each export back."""
        use = f"{shutil.copy(EXAMPLES / 'own_student.py', tmp_path / name)}:LSTMStudent"
        done(*train_words(tiny_cache, tmp_path / "run", "--student", use))
        for form in ("hf", "s3prl"):
            found = done("export", tmp_path / "run", "--format", form, "--out", tmp_path / form, "--use", use)
            files = {Path(path).name for path in found["files"]}
            assert (f"own_{name}" in files) == (form in taken) and (name in files or form == "hf")

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            (
                "import torch\n",
                "import torch\nimport gdist.stages.students\n",
                ["says `import gdist.stages.students`"],
            ),
            (
                "import torch\n",
                "import torch\nfrom gdist.stages.students import layer\n",
                ["says `from gdist.stages.students import layer`", "from gdist.stages.students.layer import …"],
            ),
            (
                "import torch\n",
                "import torch\nfrom transformers import WavLMModel\n",
                ["own_student.py needs WavLMModel from transformers"],
            ),
        ],
    )
    def test_imports_that_cannot_be_made_relative(
        self, old: str, new: str, words: list[str], tiny_cache: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "own_student.py"
        file.write_text((EXAMPLES / "own_student.py").read_text().replace(old, new, 1))
        use = f"{file}:LSTMStudent"
        done(*train_words(tiny_cache, tmp_path / "run", "--student", use))
        said = refused("export", tmp_path / "run", "--format", "s3prl", "--out", tmp_path / "out", "--use", use)
        assert all(word in said for word in words), said
        assert not (tmp_path / "out").exists()

    def test_every_form_of_import(self, tiny_cache: Path, tmp_path: Path) -> None:
        """Re-exported names, several lines, renamed imports, and imports inside a function."""
        text = (EXAMPLES / "own_student.py").read_text()
        text = text.replace(
            "from gdist.stages.frontend.padding import frame_mask, zero_padding\n"
            "from gdist.stages.students.base import Student, StudentConfig\n",
            "from gdist.stages.students import (  # both\n    Student as Base,\n    StudentConfig,\n)\n"
            "from  gdist.stages.frontend.padding import \\\n    zero_padding\n\x0c\n",
        )
        text = text.replace("class LSTMStudent(Student)", "class LSTMStudent(Base)")
        start = "        mask_BT = "
        text = text.replace(start, f"        from gdist.stages.frontend.padding import frame_mask\n\n{start}")
        file = tmp_path / "config.py"  # gdist also has one
        file.write_text(text)
        use = f"{file}:LSTMStudent"
        done(*train_words(tiny_cache, tmp_path / "run", "--student", use))
        for form in ("hf", "s3prl"):
            found = done("export", tmp_path / "run", "--format", form, "--out", tmp_path / form, "--use", use)
            assert not {"students.py", "gendistiller.py", "extensions.py"} & {Path(p).name for p in found["files"]}
        extensions.forget()
        STUDENTS.use(use)
        assert_exports_work_without_gdist(
            tmp_path / "hf", tmp_path / "s3prl", load_student(tmp_path / "run"), tmp_path
        )


def test_what_a_command_cannot_use(lstm: Path, tiny_cache: Path) -> None:
    said = refused("eval", lstm, "--use", LOSS)
    assert "this command cannot use own_loss.py:huber" in said and "not a valid student: " in said
    assert "not a valid loss: " in refused(*train_words(tiny_cache, lstm, "--use", PROBE))
    with pytest.raises(ConfigError, match="is not a valid probe: LSTMStudent"):
        from gdist.stages.evaluate.probes import probes_named

        extensions.forget()
        probes_named(STUDENT)


def voxforge(folder: Path, session: str, **texts: str) -> Path:
    """Write a session of VoxForge, and return its PROMPTS."""
    for name in ("etc", "wav"):
        (folder / session / name).mkdir(parents=True)
    for name in texts:
        soundfile.write(folder / session / "wav" / f"{name}.wav", torch.zeros(8_000).numpy(), 16_000)
    prompts = folder / session / "etc" / "PROMPTS"
    prompts.write_text("".join(f"{session}/mfc/{name} {text}\n" for name, text in texts.items()))
    return prompts


SECTIONS = ("A loss", "A probe", "A family of teachers", "A kind of manifest")


def test_the_commands_of_the_documentation(
    tiny_teacher: Path, unispeech: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/extending.md, from top to bottom; its capitals are places, and a run of a second is enough."""
    text = (EXAMPLES.parent / "extending.md").read_text(encoding="utf-8")
    wanted = [
        part for part in text.split("\n## ") if part.startswith(tuple(f"{name} of your own" for name in SECTIONS))
    ]
    lines = [line for part in wanted for line in re.findall(r"^\$ gdist (.*)$", part, re.MULTILINE)]
    assert len(wanted) == len(SECTIONS) and len(lines) >= 6
    (tmp_path / "docs").symlink_to(EXAMPLES.parent)
    monkeypatch.chdir(tmp_path)
    with_accents(speech, tmp_path / "M.parquet")
    done(*extract_words(tiny_teacher, tmp_path / "M.parquet", tmp_path / "CACHE"))
    Path("UNISPEECH").symlink_to(unispeech)
    voxforge(Path("VOXFORGE"), "ann-2009-x", a="one two")
    for line in lines:
        words = shlex.split(line)
        more: dict[str, list[Any]] = {
            "train": train_words(Path(), Path())[5:],
            "extract": ["--pack-frames", "512", "--device", "cpu"],
        }
        result = invoke(*words, *more.get(words[0], []))
        assert result.exit_code == 0, (line, result.stderr)
