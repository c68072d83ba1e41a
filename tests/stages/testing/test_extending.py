"""Everything in docs/extending.md works as described, and the suites find the faults that they are for.

Axes: B batch, T frames, K predicted layers, D features.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import Tensor, nn

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import ConfigError, ExportError
from gdist.pipeline.extensions import Extension
from gdist.stages.students import STUDENTS, Student, StudentConfig
from gdist.stages.testing import StudentSuite
from gdist.stages.train.config import load_config
from gdist.stages.train.student_store import build_student

DOCS = Path(__file__).parents[3] / "docs"


def blocks(page: str) -> dict[str, str]:
    """The Python files that a page shows: those whose first line is their name."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


@pytest.mark.thorough
def test_the_pages_own_student_and_encoding_pass_their_suites(tmp_path: Path) -> None:
    """In a separate folder, in a process that uses the installed package and not the checkout."""
    files = blocks("extending.md")
    assert {"my_student.py", "test_mine.py"} <= files.keys()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    shutil.copy(DOCS / "examples" / "own_encoding.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE) and "skipped" not in done.stdout


@pytest.mark.thorough
def test_the_suites_need_no_pytest_to_be_imported() -> None:
    script = "import sys; sys.modules['pytest'] = None; import gdist.stages.testing"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class TestOwnStudent(StudentSuite):
    """docs/examples/own_student.py, as `--student FILE.py:CLASS` loads it. It has no Transformer layer."""

    student: type[Student] = Extension.read(f"{DOCS / 'examples' / 'own_student.py'}:LSTMStudent").load()
    formats = ("hf", "s3prl")  # the page's student is exported to ONNX


def test_an_encoding_with_two_arrays_of_frames_is_extracted_verified_and_trained_on(
    tiny_teacher: Path, speech: Path, tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    cache, run = tmp_path / "cache", tmp_path / "run"
    fp8 = f"{shutil.copy(DOCS / 'examples' / 'own_encoding.py', tmp_path)}:Fp8"
    made = gdist("extract", "--teacher", tiny_teacher, "--manifest", speech, "--cache", cache, "--encoding", fp8)
    assert made.exit_code == 0, made.output
    assert gdist("verify", cache, "--use", fp8).exit_code == 0
    opened = Cache.open(str(cache))
    entry = opened.entries[0]
    (decoded_TD,) = opened.hidden(3, [(entry, 0, entry.num_frames)])
    assert decoded_TD.isfinite().all() and decoded_TD.shape == (entry.num_frames, 32)
    short = ("steps=4", "warmup_steps=1", "batch_seconds=8", "validate_every=4", "checkpoint_every=4")
    settings = [part for setting in short for part in ("--set", f"train.{setting}")]
    done = gdist("train", "--cache", cache, "--out", run, "--use", fp8, *settings, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads((run / "run.json").read_text())["encoding"] == "own_encoding.py:Fp8"


class FaultyConfig(StudentConfig):
    model_type = "faulty-student"


class Faulty(Student):
    """A student that passes the suite; subclasses break it."""

    config_class = FaultyConfig

    def __init__(self, config: FaultyConfig) -> None:
        super().__init__(config)
        self.scale_KD = nn.Parameter(torch.ones(len(self.predicted_layers), config.hidden_size))
        self.post_init()

    def predict(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        places = [self.predicted_layers.index(layer) for layer in layers or self.predicted_layers]
        return h0_BTD[:, None] * self.scale_KD[places][None, :, None].to(h0_BTD.dtype)


class Leaky(Faulty):
    def predict(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        return super().predict(h0_BTD, num_frames_B, layers) + h0_BTD.mean()


class Idle(Faulty):
    def __init__(self, config: FaultyConfig) -> None:
        super().__init__(config)
        self.unused = nn.Parameter(torch.zeros(3))
        self.post_init()


class Untraceable(Faulty):
    def predict(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        loud = float(h0_BTD.abs().max()) > 1e6
        return super().predict(-h0_BTD if loud else h0_BTD, num_frames_B, layers)


class Forgetful(Faulty):
    def __init__(self, config: FaultyConfig) -> None:
        super().__init__(config)
        self.late = nn.Linear(3, 3)


def suite_of(kind: type[Student]) -> StudentSuite:
    suite = StudentSuite()
    suite.student = kind
    return suite


class TestFaultsAreFound:
    def test_a_correct_student_passes(self, tmp_path: Path) -> None:
        suite = suite_of(Faulty)
        suite.test_gdist_can_build_it("base")
        suite.test_a_batch_equals_its_utterances_alone("base")
        suite.test_a_step_predicts_its_plan_and_trains_every_parameter("base")
        suite.test_takes_the_teachers_front_end_and_layers_if_they_fit("base")

    def test_one_utterance_affects_another(self) -> None:
        with pytest.raises(AssertionError):
            suite_of(Leaky).test_a_batch_equals_its_utterances_alone("base")

    def test_a_parameter_that_never_learns(self) -> None:
        with pytest.raises(AssertionError, match="unused gets no gradient"):
            suite_of(Idle).test_a_step_predicts_its_plan_and_trains_every_parameter("base")

    def test_a_module_made_after_post_init(self, tiny_cache: Path) -> None:
        with pytest.raises(TypeError, match=r"must end with self\.post_init"):
            suite_of(Forgetful).test_gdist_can_build_it("base")
        with (
            STUDENTS.lent("forgetful", Forgetful),
            pytest.raises(ConfigError, match=r"forgetful cannot be trained: Forgetful\.__init__ must end"),
        ):
            build_student(Cache.open(str(tiny_cache)), load_config(None, "forgetful", ()))

    def test_a_student_that_cannot_be_exported_to_onnx(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match=r"Untraceable cannot be exported to ONNX: (.|\n)*no \.item\(\)"):
            suite_of(Untraceable).test_exports("onnx", tmp_path)

    def test_a_class_without_a_source_that_could_be_exported(self, tmp_path: Path) -> None:
        module = type(sys)("typed_at_a_prompt")
        made: dict[str, Any] = {"__module__": module.__name__}
        config = type("PromptedConfig", (FaultyConfig,), {"model_type": "prompted-student", **made})
        kind = type("Prompted", (Faulty,), {"config_class": config, **made})
        sys.modules[module.__name__] = module
        try:
            with pytest.raises(ExportError, match="typed_at_a_prompt has no source"):
                suite_of(kind).test_exports("hf", tmp_path)
        finally:
            del sys.modules[module.__name__]
