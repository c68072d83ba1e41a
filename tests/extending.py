"""What the tests of extensions share: the examples, files that leave a mark when they are run, and commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from gdist.stages.cli import main

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
STUDENT = f"{EXAMPLES / 'own_student.py'}:LSTMStudent"
LOSS = f"{EXAMPLES / 'own_loss.py'}:huber"
PROBE = f"{EXAMPLES / 'own_probe.py'}:Accent"
TEACHER = f"{EXAMPLES / 'own_teacher.py'}:UniSpeechTeacher"
KIND = f"{EXAMPLES / 'own_manifest.py'}:VoxForge"

# An encoding that differs from fp16 and is equally precise: it stores half of every value.
ENCODING_SOURCE = '''"""Half of everything."""

import torch
from torch import Tensor

from gdist.pipeline.cache.encodings.floats import Float16


class Halved(Float16):
    """fp16 of half the value."""

    name = "halved"

    def to_numbers(self, values: Tensor) -> Tensor:
        return (values / 2).half()

    def typed(self, numbers: Tensor) -> Tensor:
        return numbers.to(torch.float32) * 2
'''
SETTINGS = {
    "train.steps": 4,
    "train.batch_seconds": 8.0,
    "train.warmup_steps": 1,
    "train.lr": 2e-3,
    "train.log_every": 2,
    "train.validate_every": 4,
    "train.checkpoint_every": 2,
    "train.device": "cpu",
}


def invoke(*words: object) -> Result:
    """Run a command in this process; exceptions other than GdistError are raised here."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def done(*words: object) -> Any:
    """Run a command that must succeed, and return what it prints as JSON."""
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*words: object) -> str:
    """Run a command that must fail, and return its error message."""
    result = invoke(*words)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output, result.output
    assert "error: " in result.stderr
    return result.stderr


def train_words(cache: Path, out: Path, *more: object, **settings: object) -> list[object]:
    """The words of a training command that takes a second."""
    fields = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
    flags = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    return ["train", "--cache", cache, "--out", out, *flags, *more]


def extract_words(teacher: Path, manifest: Path, cache: Path, *more: object) -> list[object]:
    words = ["--teacher", teacher, "--manifest", manifest, "--cache", cache, "--pack-frames", 512, "--device", "cpu"]
    return ["extract", *words, *more]


def plant(path: Path, marker: Path) -> Path:
    """Write a file that would write ``marker`` if it were run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"open({str(marker)!r}, 'w').write('I ran')\n")
    return path


def process(*words: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run gdist in a separate process."""
    command = [sys.executable, "-c", "from gdist.stages.cli import main; main()", *map(str, words)]
    inherited = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=inherited | environment, timeout=300
    )
