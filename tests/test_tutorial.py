"""The site's tutorial and its first page: every block is run, in order, in an empty folder."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import Block, blocks, run

DOCS = Path(__file__).parent.parent / "docs"
# Students of four steps are no good, but all else is as a reader has it.
FEWER = {
    "steps = 120": "steps = 4",
    "warmup_steps = 10": "warmup_steps = 1",
    "validate_every = 40": "validate_every = 4",
    "$ pip install onnx onnxruntime onnxscript\n": "$ echo they are installed\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH on which this interpreter's gdist and python come first."""
    programs = tmp_path_factory.mktemp("bin")
    for name, before in (("python", ""), ("gdist", ' -c "from gdist.stages.cli import main; main()"')):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable}{before} "$@"\n')
        (programs / name).chmod(0o755)
    return f"{programs}:{os.environ['PATH']}"


def test_the_tutorial(folder: Path, path: str) -> None:
    for block in blocks(DOCS / "tutorial.md", FEWER):
        run(block, folder, path)
    assert (folder / "report.html").stat().st_size > 50_000
    assert (folder / "exports" / "student" / "model.safetensors").exists()


@pytest.fixture(scope="module")
def after_demo(folder: Path) -> Path:
    """A folder that is as `gdist demo` leaves it, made of what the tutorial has left."""
    (folder / "gdist-demo").mkdir()
    (folder / "gdist-demo" / "cache").symlink_to(folder / "cache")
    (folder / "gdist-demo" / "gendistiller").symlink_to(folder / "runs" / "gendistiller")
    return folder


def test_ten_lines_of_python(after_demo: Path) -> None:
    sessions = [block for block in blocks(DOCS / "start.md") if block.language == "python"]
    assert sessions
    for block in sessions:
        run(block, after_demo, "")


def test_the_notebook(after_demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cells, one after another. That they print what they should is seen by the last one."""
    monkeypatch.chdir(after_demo)
    cells = json.loads((DOCS / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    shared: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "it is kept without outputs"
            exec("".join(cell["source"]), shared)
    printed = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in printed[-12:]] == [f"layer {layer:2}:" for layer in range(1, 13)]
    assert all(float(line[10:]) > 0.4 for line in printed[-12:])


def test_hidden_states_by_onnx_runtime(after_demo: Path, path: str) -> None:
    """The program on the page about deploying, on the student of the tutorial."""
    theirs = {
        "exports/first-int8 speech.wav": "exports/student-int8 recordings/allison/prompt-en-your.wav",
        "$ pip install 'gdist[onnx]'      # where you export\n": "",
        "$ gdist export runs/first --format onnx --quantize int8 --out exports/first-int8\n": "",
        "$ pip install onnxruntime        # where it runs: no PyTorch, no gdist\n": "",
    }
    found = [block for block in blocks(DOCS / "onnx.md", theirs) if block.text]
    assert [block.language for block in found] == ["python", "console"]
    for block in found:
        run(block, after_demo, path)
    assert np.load(after_demo / "layer-12.npy").shape == (30, 192)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Block("console", "$ false\n"), r"\$ false"),
        (Block("console", "$ echo one\ntwo\n"), "and not\ntwo"),
        (Block("console", "$ echo one two\none …\nmore\n"), "and not"),
        (Block("python", ">>> 1 + 1\n3\n"), "Expected:\n *3\nGot:\n *2"),
        (Block("toml", "a = 1\n"), "a file without a name"),
        (Block("console", "echo one\n"), "echo one"),
    ],
)
def test_what_is_not_as_the_page_says_is_found(tmp_path: Path, block: Block, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run(block, tmp_path, os.environ["PATH"])


def test_what_is_as_the_page_says_passes(tmp_path: Path) -> None:
    run(Block("toml", "# a.toml\n[a]\n"), tmp_path, os.environ["PATH"])
    run(
        Block("console", "$ cat a.toml \\\n  a.toml\n# a.toml\n…\n$ echo some words\nsome w…\n"),
        tmp_path,
        os.environ["PATH"],
    )
    run(Block("python", ">>> open('a.toml').read()\n'# a.toml\\n[a]\\n'\n"), tmp_path, "")
