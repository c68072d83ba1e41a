"""docs/examples/pruned_student.py: a student that begins as its teacher, without most heads and units.

Axes: B batch, S samples, T frames.
"""

import ast
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import Result
from test_students import TEACHERS
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from gdist.pipeline.extensions import Extension
from gdist.stages.students import STUDENTS, Student, student_config
from gdist.stages.teachers import Teacher, load_teacher
from gdist.stages.testing import StudentSuite
from gdist.stages.testing.student import sound

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "pruned_student.py"
Pruned: type[Student] = Extension.read(f"{EXAMPLE}:PrunedStudent").load()


class TestPrunedStudent(StudentSuite):
    student = Pruned
    teachers = TEACHERS
    formats = ("hf", "s3prl")

    @pytest.mark.thorough
    def test_exports_to_onnx(self, tmp_path: Path) -> None:
        self.test_exports("onnx", tmp_path)


@pytest.fixture(scope="module", params=["base", "large", "large, with its last norm"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """A HuBERT of random weights."""
    folder = tmp_path_factory.mktemp("teacher")
    small = {name: TEACHERS["base"][name] for name in ("hidden_size", "intermediate_size", "conv_dim")}
    large = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
    fields = small | (large if request.param != "base" else {})
    torch.manual_seed(0)
    config = HubertConfig(
        **fields,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        initializer_range=0.2,
    )
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return load_teacher(str(folder), final_norm="norm" in request.param)


def pruned(teacher: Teacher, folder: Path, **fields: Any) -> Any:
    """The student, as training builds it from the file that the example's head tells to write."""
    layers = teacher.layer_tensors(teacher.num_layers) | teacher.norm_tensors()
    safetensors.torch.save_file(layers, folder / "layers.safetensors")
    with STUDENTS.lent("Pruned", Pruned) as row:
        student = row(
            student_config("Pruned", teacher.config, weights=str(folder / "layers.safetensors"), **fields)
        ).eval()
    student.initialize_from_teacher(teacher.frontend_tensors())
    return student


def test_with_everything_kept_it_is_the_teacher(teacher: Teacher, tmp_path: Path) -> None:
    student = pruned(teacher, tmp_path, keep=1.0)
    waveform_BS, samples_B = sound([4000, 2500])
    mask_BS = (torch.arange(4000) < samples_B[:, None]).long()
    with torch.no_grad():
        found = student(waveform_BS, mask_BS, output_hidden_states=True).hidden_states
    expected = list(teacher.hidden_states(waveform_BS, samples_B))
    assert len(found) == len(expected) == 4
    for own_BTD, theirs_BTD in zip(found, expected, strict=True):
        torch.testing.assert_close(own_BTD, theirs_BTD, atol=1e-4, rtol=1e-4)


def test_what_is_kept_is_the_teachers_largest(teacher: Teacher, tmp_path: Path) -> None:
    student, whole = pruned(teacher, tmp_path, keep=0.5), pruned(teacher, tmp_path, keep=1.0)
    assert student.num_parameters() < whole.num_parameters()
    for block, full in zip(student.blocks, whole.blocks, strict=True):
        kept_UD, all_UD = (b.feed_forward.intermediate_dense.weight for b in (block, full))
        out_DU = full.feed_forward.output_dense.weight
        score_U = all_UD.norm(dim=1) * out_DU.norm(dim=0)
        expected = sorted(score_U.topk(24).indices.tolist())
        assert torch.equal(kept_UD, all_UD[expected])
        assert torch.equal(block.feed_forward.output_dense.weight, out_DU[:, expected])
        assert block.attention.num_heads == 2 and block.attention.q_proj.weight.shape == (16, 32)
        rows = [
            row
            for row in full.attention.q_proj.weight
            if any(torch.equal(row, own) for own in block.attention.q_proj.weight)
        ]
        assert len(rows) == 16, "whole heads of the teacher's"
    assert student.config.weights == "", "the path is no part of what is saved"
    student.save_pretrained(tmp_path / "student")
    whole.save_pretrained(tmp_path / "whole")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("student", "whole")]
    assert sizes[1] - sizes[0] > 3 * 4 * (32 * 16 * 4 + 32 * 24 * 2)


def test_a_file_that_is_not_this_teachers_layers_is_refused(teacher: Teacher, tmp_path: Path) -> None:
    for content in ({}, {"0.attention.v_proj.weight": torch.zeros(32, 32)}):
        safetensors.torch.save_file(content, tmp_path / "other.safetensors")
        with STUDENTS.lent("Pruned", Pruned) as row:
            student = row(student_config("Pruned", teacher.config, weights=str(tmp_path / "other.safetensors")))
        with pytest.raises(ValueError, match=r"student.weights = .*other.safetensors: not this teacher's layers"):
            student.initialize_from_teacher(teacher.frontend_tensors())


def test_trained_and_exported_by_the_commands_of_its_head(
    tiny_cache: Path,
    tiny_teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gdist: Callable[..., Result],
) -> None:
    """The exported folder is without the file's path, and smaller than that of the student that keeps everything."""
    head = ast.get_docstring(ast.parse(EXAMPLE.read_text(encoding="utf-8"))) or ""
    write, train = re.findall(r"^(python -c .*?|gdist train .*?)(?=\ngdist|\n\n)", head, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    _, _, code = shlex.split(write)
    exec(code.replace("'TEACHER'", repr(str(tiny_teacher))), {})
    sizes = {}
    for keep in ("0.5", "1"):
        words = train.replace("CACHE", str(tiny_cache)).replace("runs/pruned", f"runs/{keep}").split()[1:]
        words[words.index("pruned_student.py:PrunedStudent")] = f"{EXAMPLE}:PrunedStudent"
        words[-1] = f"student.keep={keep}"
        short = {"steps": 2, "warmup_steps": 1, "batch_seconds": 4.0, "validate_every": 2, "checkpoint_every": 2}
        settings = [word for name, value in short.items() for word in ("--set", f"train.{name}={value}")]
        result = gdist(*words, *settings)
        assert result.exit_code == 0, result.stderr
        use = f"{EXAMPLE}:PrunedStudent"
        result = gdist("export", f"runs/{keep}", "--format", "hf", "--out", f"out-{keep}", "--use", use)
        assert result.exit_code == 0, result.stderr
        assert "layers.safetensors" not in (tmp_path / f"out-{keep}" / "config.json").read_text()
        sizes[keep] = (tmp_path / f"out-{keep}" / "model.safetensors").stat().st_size
    assert sizes["0.5"] < sizes["1"] - 3 * 4 * (32 * 16 * 4 + 32 * 32 * 2)
