"""Installed packages that announce students, losses and more: real packages, in separate processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from extending import ENCODING_SOURCE, EXAMPLES, extract_words, train_words

from gdist.pipeline.errors import ClusterError
from gdist.stages.extract.cluster import Extraction

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.2.3"

[tool.setuptools]
packages = ["{module}"]
"""
ANNOUNCED = """
[project.entry-points."gdist.students"]
lstm = "gdist_lstm:LSTMStudent"
distilhubert = "gdist_lstm:LSTMStudent"
[project.entry-points."gdist.losses"]
huber = "gdist_lstm.losses:huber"
[project.entry-points."gdist.probes"]
accent = "gdist_lstm.probes:Accent"
[project.entry-points."gdist.encodings"]
halved = "gdist_lstm.encodings:Halved"
[project.entry-points."gdist.teachers"]
unispeech = "gdist_lstm.teachers:UniSpeechTeacher"
[project.entry-points."gdist.manifests"]
voxforge = "gdist_lstm.manifests:VoxForge"
"""
BROKEN = """
[project.entry-points."gdist.students"]
broken = "gdist_broken:Student"
twice = "gdist_broken:Student"
[project.entry-points."gdist.losses"]
gone = "gdist_another.gone:loss"
number = "math:pi"
[project.entry-points."gdist.teachers"]
sat = "gdist_lstm.teachers:UniSpeechTeacher"
"""
ANOTHER = """
[project.entry-points."gdist.students"]
twice = "gdist_another:Student"
"""
# Runs commands in one process, since each start takes seconds: a list of lists of words → a list of results.
DRIVER = """
import json, sys
from click.testing import CliRunner
from gdist.stages.cli import main
results = []
for words in json.loads(sys.stdin.read()):
    result = CliRunner().invoke(main, words)
    bug = None if result.exception is None or isinstance(result.exception, SystemExit) else repr(result.exception)
    results.append({"code": result.exit_code, "out": result.stdout, "err": result.stderr, "bug": bug})
print(json.dumps(results))
"""


def install(folder: Path, name: str, entry_points: str, sources: dict[str, str]) -> Path:
    """Build a package and install it into ``folder / "site"``, as pip does for any user."""
    module = name.replace("-", "_")
    (folder / name / module).mkdir(parents=True)
    (folder / name / "pyproject.toml").write_text(PROJECT.format(name=name, module=module) + entry_points)
    for file, text in sources.items():
        (folder / name / module / file).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([*pip, "--target", folder / "site", folder / name], check=True, env=environment)
    return folder / "site"


def commands(site: Path, *all_words: list[object]) -> list[dict[str, Any]]:
    """The results of commands, with the packages in ``site`` installed."""
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([[str(word) for word in words] for words in all_words]),
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])
    assert not [result["bug"] for result in found if result["bug"]]
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of several modules that import each other."""
    example = (EXAMPLES / "own_student.py").read_text()
    config_at, student_at = example.index("class LSTMStudentConfig"), example.index("class LSTMStudent(Student)")
    head = example[:config_at].replace('"""A student', '"""Part of a student', 1)
    sources = {
        "__init__.py": '"""LSTMs."""\n\nfrom .student import LSTMStudent as LSTMStudent\n',
        "config.py": example[:student_at],
        "student.py": head + "from .config import LSTMStudentConfig\n\n\n" + example[student_at:],
        "losses.py": (EXAMPLES / "own_loss.py").read_text(),
        "probes.py": (EXAMPLES / "own_probe.py").read_text(),
        "encodings.py": ENCODING_SOURCE,
        "teachers.py": (EXAMPLES / "own_teacher.py").read_text(),
        "manifests.py": (EXAMPLES / "own_manifest.py").read_text(),
    }
    return install(tmp_path_factory.mktemp("package"), "gdist-lstm", ANNOUNCED, sources)


@pytest.mark.thorough
def test_a_package_is_listed_used_recorded_and_exported(
    site: Path, tiny_teacher: Path, speech: Path, tmp_path: Path
) -> None:
    cache, run = tmp_path / "cache", tmp_path / "run"
    found = commands(
        site,
        ["students", "--json"],
        ["teachers", "--json"],
        ["encodings", "--json"],
        ["eval", "--help"],
        ["manifest", "build", "--help"],
        extract_words(tiny_teacher, speech, cache, "--encoding", "halved", "--json"),
        train_words(cache, run, "--student", "lstm", "--set", "loss.name=huber", "--json"),
        ["eval", run, "--probes", "accent", "--json"],
        ["eval", run, "--probes", "none", "--json"],
        ["export", run, "--format", "hf", "--out", tmp_path / "hf", "--json"],
        ["export", run, "--format", "s3prl", "--out", tmp_path / "s3prl", "--json"],
        ["report", run, "--out", tmp_path / "page.html"],
        ["train", "--cache", cache, "--out", tmp_path / "again", "--recipe", run / "config.toml", "--json"],
    )
    students, teachers, encodings, probes_help, kinds_help, *rest = found
    names = [row["name"] for row in json.loads(students["out"])]
    assert names[-1] == "lstm" and names.count("distilhubert") == 1, "a package cannot replace gdist's own rows"
    assert json.loads(teachers["out"])[-1] == {
        "family": "unispeech",
        "model": "UniSpeechModel",
        "frontend": "convolutions",
    }
    assert json.loads(encodings["out"])[-1]["name"] == "halved"
    assert "accent" in probes_help["out"] and "voxforge" in kinds_help["out"]
    extracted, trained, accents, evaluated, hf, s3prl, report, again = rest
    assert extracted["code"] == trained["code"] == evaluated["code"] == 0, trained["err"] + evaluated["err"]
    assert accents["code"] == 1 and "no utterance has a `accent`" in accents["err"]
    assert hf["code"] == s3prl["code"] == report["code"] == again["code"] == 0, (
        hf["err"] + s3prl["err"] + again["err"]
    )
    about = json.loads((cache / "zarr.json").read_text())["attributes"]["gdist"]["about"]
    assert about["gdist-lstm"] == "1.2.3"
    provenance = json.loads((run / "run.json").read_text())
    assert provenance["extensions"] == {}
    record = {"package": "gdist-lstm", "version": "1.2.3"}
    assert provenance["packages"] == {"lstm": record, "huber": record, "halved": record}
    files = json.loads(hf["out"])["files"]
    # Its config.py is renamed, because gdist has one; its __init__.py only re-exports, and is not included.
    assert {"student.py", "gdist_lstm_config.py", "config.py"} <= set(files) and "gdist_lstm.py" not in files
    alone = "\n".join([
        "import sys",
        "class Absent:",
        "    def find_spec(self, name, path=None, target=None):",
        "        if name.partition('.')[0] in ('gdist', 'gdist_lstm'): raise ModuleNotFoundError(name)",
        "sys.meta_path.insert(0, Absent())",
        "import torch",
        "from transformers import AutoModel, AutoModelForAudioClassification",
        "for kind in AutoModel, AutoModelForAudioClassification:",
        "    model = kind.from_pretrained(sys.argv[1], trust_remote_code=True)",
        "    model(torch.randn(1, 5000))",
        "torch.hub.load(sys.argv[2], 'gdist', source='local', verbose=False)([torch.randn(5000)])",
    ])  # fmt: skip
    words = [sys.executable, "-c", alone, str(tmp_path / "hf"), str(tmp_path / "s3prl")]
    ended = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=os.environ | {"HF_HOME": str(tmp_path / "home")},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_a_worker_without_the_package_says_so() -> None:
    job = Extraction("c", "", "", "t", "", "fp32", False, None, "cpu", [], {"gdist-lstm": "1.2.3"})
    with pytest.raises(ClusterError, match=r"has other versions: gdist-lstm none \(here 1.2.3\)"):
        job.open()
    job.close()


def test_a_broken_package_affects_only_commands_that_use_it(
    site: Path, tiny_cache: Path, speech: Path, tmp_path: Path
) -> None:
    shutil.copytree(site, tmp_path / "site")
    install(tmp_path, "gdist-broken", BROKEN, {"__init__.py": "1 / 0\n"})
    install(tmp_path, "gdist-another", ANOTHER, {"__init__.py": ""})
    run = tmp_path / "run"
    fine, broken, twice, gone, number, unknown, listed, families, helped, evaluated = commands(
        tmp_path / "site",
        train_words(tiny_cache, run, "--student", "lstm", "--json"),
        train_words(tiny_cache, tmp_path / "r", "--student", "broken"),
        train_words(tiny_cache, tmp_path / "r", "--student", "twice"),
        train_words(tiny_cache, tmp_path / "r", "--set", "loss.name=gone"),
        train_words(tiny_cache, tmp_path / "r", "--set", "loss.name=number"),
        train_words(tiny_cache, tmp_path / "r", "--student", "lsmt"),
        ["students"],
        ["teachers"],
        ["train", "--help"],
        ["eval", run, "--probes", "none", "--json"],
    )
    assert fine["code"] == helped["code"] == evaluated["code"] == 0, fine["err"]
    for result in (broken, twice, gone, number, unknown, listed, families):
        assert result["code"] == 2 and "Traceback" not in result["err"]
    assert "the student 'broken' of the package gdist-broken cannot be loaded: ZeroDivisionError" in broken["err"]
    assert "reinstall or uninstall gdist-broken" in broken["err"]
    assert "several installed packages announce the student 'twice': gdist-another and gdist-broken" in twice["err"]
    assert "uninstall all but one" in twice["err"]
    assert "ModuleNotFoundError" in gone["err"]
    assert "'number' of the package gdist-broken is not a valid loss: a loss is a function of" in number["err"]
    assert "did you mean `lstm`?" in unknown["err"]
    assert "gdist-broken" in listed["err"]
    assert "announces the family of teachers 'unispeech' as 'sat'" in families["err"]
    assert not (tmp_path / "r").exists()
