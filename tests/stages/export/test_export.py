"""Exports: without gdist, they return the same hidden states as the student."""

import ast
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import safetensors.torch
import torch
import transformers
from click.testing import Result
from conftest import WITHOUT_GDIST, extracted
from test_train import run, short
from transformers import AutoModel

from gdist.data_manifests import demo_folder
from gdist.pipeline.audio import load_utterance, read_header, to_float
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.export.export import rounding
from gdist.stages.export.formats import hf
from gdist.stages.export.formats.base import Export
from gdist.stages.export.formats.source import imported
from gdist.stages.frontend.padding import normalize
from gdist.stages.students import STUDENTS, load_student
from gdist.stages.students.heads import HEADS
from gdist.stages.train.config import load_config
from gdist.stages.train.train import train

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[2] / "docs" / "examples" / "fine_tune.py"
COLUMNS = ("start", "num_samples", "speaker", "split")
S3PRL = HERE.parents[2] / ".venv-s3prl" / "bin" / "python"


@pytest.fixture(scope="module")
def runs(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of every student."""
    folders = {}
    for name in STUDENTS:
        folders[name] = tmp_path_factory.mktemp("runs") / name
        run(tiny_cache, folders[name], short(name))
    return folders


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of two speakers, 16 kHz, with their labels: 160 to learn from, 40 to be tested on."""
    held: dict[str, Any] = {}
    whole: dict[str, torch.Tensor] = {}
    for utterance in Manifest.read(demo_folder() / "demo.parquet").utterances():
        split = utterance.labels["split"]
        if (
            utterance.labels["digit"] is None
            or utterance.labels["speaker"] not in ("jackson", "theo")
            or split == "valid"
        ):
            continue
        path, rate = utterance.path, utterance.sample_rate
        assert rate is not None and utterance.num_samples is not None
        if path not in whole:
            whole[path] = to_float(
                load_utterance(utterance.segment.part(0, read_header(utterance.segment).num_samples))
            )
        first, length = (n * 16000 // rate for n in (utterance.start, utterance.num_samples))
        labels = held.setdefault(f"{split}-labels", [])
        held[f"{split}-{len(labels)}"] = whole[path][first : first + length].numpy()
        labels.append(f"digit {utterance.labels['digit']}")
    file = tmp_path_factory.mktemp("speech") / "digits.npz"
    np.savez(file, **held)
    return file


@pytest.mark.parametrize("name", list(STUDENTS))
@pytest.mark.parametrize("form", ["hf", "s3prl"])
def test_every_student_in_every_form(
    runs: dict[str, Path], name: str, form: str, tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    """The command itself loads the folder back, and compares a padded batch with one utterance after another."""
    out = tmp_path / "out"
    result = gdist("export", runs[name], "--format", form, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    written_fields = json.loads(result.stdout)
    assert written_fields["max_difference"] <= 1e-5 and written_fields["format"] == form
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == set(written_fields["files"])
    assert imports(out) <= {"torch", "numpy"} | ({"transformers"} if form == "hf" else {"safetensors", "s3prl"})
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "It has not been evaluated. Run `gdist eval" in card and "fingerprint" in card
    if form == "hf":
        # With gdist installed, no remote code is needed, and none is run.
        assert type(AutoModel.from_pretrained(out)) is STUDENTS[name]
        for auto in HEADS:
            assert getattr(transformers, auto).from_pretrained(out).student_class is STUDENTS[name]


def imports(folder: Path) -> set[str]:
    """The packages that a folder's sources import, except the standard library and one another."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    own = {path.stem for path in folder.rglob("*")}
    return found - set(sys.stdlib_module_names) - own


ALONE = (
    WITHOUT_GDIST
    + """
import safetensors.torch, torch
from transformers import AutoModel
inputs = safetensors.torch.load_file(sys.argv[2])
for folder in sys.argv[4:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        states = model(inputs["waveform"], attention_mask=inputs["mask"], output_hidden_states=True).hidden_states
    written_fields = {str(k): h.contiguous() for k, h in enumerate(states)}
    safetensors.torch.save_file(written_fields, sys.argv[3] + model.config.model_type)
print("{}")
"""
)


def test_a_process_without_gdist_gets_the_same_hidden_states(
    runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    """All students at once, at odd lengths, in a process with torch and transformers but without gdist."""
    for name, folder in runs.items():
        assert gdist("export", folder, "--format", "hf", "--out", tmp_path / name).exit_code == 0
    samples_B = torch.tensor([16001, 5517, 400])
    mask_BS = (torch.arange(16001) < samples_B[:, None]).long()
    waveform_BS = torch.randn(3, 16001, generator=torch.Generator().manual_seed(1)) * mask_BS
    safetensors.torch.save_file({"waveform": waveform_BS, "mask": mask_BS}, tmp_path / "inputs")
    folders = [tmp_path / name for name in runs]
    process(sys.executable, "-c", ALONE, tmp_path, tmp_path / "inputs", f"{tmp_path}/states-", *folders)
    for folder in runs.values():
        student = load_student(folder).eval()
        with torch.no_grad():
            expected = student(waveform_BS, attention_mask=mask_BS, output_hidden_states=True).hidden_states
        seen = safetensors.torch.load_file(f"{tmp_path}/states-{student.config.model_type}")
        assert len(seen) == len(expected) == 4
        for k, expected_BTD in enumerate(expected):
            assert seen[str(k)].shape == expected_BTD.shape
            assert float((seen[str(k)] - expected_BTD).abs().max()) < 1e-5


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory, real_teacher_cache: Path) -> Path:
    """A student of the bundled teacher's width, trained briefly: good enough to fine-tune."""
    folder = tmp_path_factory.mktemp("nano") / "student"
    settings = ("train.steps=30", "train.warmup_steps=5", "train.validate_every=30", "train.checkpoint_every=30")
    train(str(real_teacher_cache), folder, load_config("demo-gendistiller", None, settings), show_progress=False)
    return folder


@pytest.fixture(scope="module")
def real_teacher_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled teacher over a tenth of the bundled speech."""
    manifest = Manifest.read(demo_folder() / "demo.parquet")
    folder = tmp_path_factory.mktemp("real")
    Manifest(manifest.table.take(list(range(0, manifest.table.num_rows, 10))), manifest.root).write(
        folder / "m.parquet"
    )
    extracted(demo_folder() / "teacher-nano", folder / "m.parquet", folder / "cache")
    return folder / "cache"


def process(python: Path | str, *args: object) -> dict[str, Any]:
    done = subprocess.run([str(python), *map(str, args)], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


FINE_TUNED = (
    WITHOUT_GDIST.replace('"pyarrow", ', "")  # Trainer imports datasets, where that is installed
    + """
import json, runpy, safetensors.torch, soundfile
from transformers import AutoModel, pipeline
example, folder, table, out, target, steps = sys.argv[1:]
sys.argv = [example, folder, table, out, "--target", target, "--steps", steps, "--lr", "1e-3"]
runpy.run_path(example, run_name="__main__")
tuned = safetensors.torch.load_file(out + "/model.safetensors")
student = AutoModel.from_pretrained(out, trust_remote_code=True)
own, before = student.state_dict(), safetensors.torch.load_file(folder + "/model.safetensors")
same = all(tensor.equal(tuned["student." + key]) for key, tensor in own.items())
print(json.dumps({"same": same, "learned": any(not tensor.equal(before[key]) for key, tensor in own.items())}))
"""
)


def fine_tuned(student: Path, folder: Path, gdist: Callable[..., Result], target: str, steps: int) -> dict[str, Any]:
    """What the documentation's example says, without gdist: of ten digits as words, and their speakers; two voices.

    The fine-tuned folder loads again without its head, with the weights that the student has after fine-tuning.
    """
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    rows = [
        {"path": str(demo_folder() / row["path"]), "text": words[row["digit"]], **{key: row[key] for key in COLUMNS}}
        for row in pyarrow.csv.read_csv(demo_folder() / "demo.csv").to_pylist()
        if row["speaker"] in ("jackson", "theo")
    ]
    table = folder / "digits.csv"
    pyarrow.csv.write_csv(pyarrow.Table.from_pylist(rows), table)
    assert gdist("export", student, "--format", "hf", "--out", folder / "hf").exit_code == 0
    arguments: list[str | Path] = [EXAMPLE, folder / "hf", table, folder / "tuned", target, str(steps)]
    done = subprocess.run(
        [sys.executable, "-c", FINE_TUNED, *arguments], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *_, found, loaded = map(json.loads, (line for line in done.stdout.splitlines() if line.startswith('{"')))
    assert loaded == {"same": True, "learned": True}
    return dict(found)


def test_fine_tuning_with_trainer(runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result]) -> None:
    """Two steps: `make thorough` has as many as it takes to be right."""
    found = fine_tuned(runs["gendistiller"], tmp_path, gdist, "speaker", 2)
    assert 0 < found["error_before"] <= 1 and 0 <= found["error"] <= 1


@pytest.mark.thorough
@pytest.mark.parametrize(("target", "steps", "most"), [("text", 60, 0.9), ("speaker", 12, 0.2)])
def test_fine_tuning_with_trainer_learns(
    nano: Path, tmp_path: Path, gdist: Callable[..., Result], target: str, steps: int, most: float
) -> None:
    found = fine_tuned(nano, tmp_path, gdist, target, steps)
    assert found["error"] < most and found["error"] < 0.6 * found["error_before"]


@pytest.fixture(scope="module")
def tools(
    runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, gdist: Callable[..., Result]
) -> Callable[[str], dict[str, Any]]:
    """What usual ways to load and to change a model made of a student's export, in a process without gdist."""

    @functools.cache
    def used(name: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("tools")
        assert gdist("export", runs[name], "--format", "hf", "--out", folder / "hf").exit_code == 0
        return process(sys.executable, HERE / "other_tools.py", folder / "hf", folder / "lora")

    return used


EVERY_STUDENT = pytest.mark.parametrize(
    "name", [name if name == "gendistiller" else pytest.param(name, marks=pytest.mark.thorough) for name in STUDENTS]
)


@EVERY_STUDENT
def test_half_precision_compile_and_export(tools: Callable[[str], dict[str, Any]], name: str) -> None:
    """`from_pretrained(dtype=…)`, `torch.compile` of the whole model as one graph, and `torch.export`, whose batches
    and lengths are free."""
    found = tools(name)
    assert found["bfloat16"] > 0.99 and found["float16"] > 0.9999
    assert found["compile"] < 1e-5 and found["export"] < 1e-5


@EVERY_STUDENT
def test_low_rank_adapters(tools: Callable[[str], dict[str, Any]], name: str) -> None:
    """PEFT's LoRA learns on a frozen student with a head, comes back from disk, and can be merged."""
    found = tools(name)["lora"]
    assert found["changed"] > 1e-3 and found["losses"][-1] < found["losses"][0] and found["share"] < 0.6
    assert found["reloaded"] < 1e-5 and found["merged"] < 1e-5 and found["front_end_is_as_it_was"]


@EVERY_STUDENT
def test_device_map(tools: Callable[[str], dict[str, Any]], name: str) -> None:
    assert tools(name)["device_map"] < 1e-5


@pytest.mark.skipif(not S3PRL.exists(), reason="s3prl is set up by `make s3prl`")
@pytest.mark.thorough
def test_s3prl_trains_its_own_head(nano: Path, digits: Path, tmp_path: Path, gdist: Callable[..., Result]) -> None:
    """With its own run_downstream.py, which then evaluates the checkpoint; its hidden states are the student's."""
    result = gdist("export", nano, "--format", "s3prl", "--out", tmp_path / "up")
    assert result.exit_code == 0, result.stderr
    found = process(S3PRL, HERE / "s3prl_downstream.py", tmp_path / "up", digits, tmp_path / "s3prl")
    assert found["accuracy"] > 0.4, "ten digits, so chance is one in ten"
    held = np.load(digits)
    wavs = [torch.from_numpy(held[f"train-{i}"]) for i in range(3)]
    samples_B = torch.tensor([len(wav) for wav in wavs])
    assert set(found["rates"]) == {320}
    assert found["frames"] == [-(-n // 320) for n in samples_B.tolist()], "as s3prl counts"
    student = load_student(nano).eval()
    waveform_BS = normalize(torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), samples_B)
    mask_BS = (torch.arange(waveform_BS.shape[1]) < samples_B[:, None]).long()
    with torch.no_grad():
        expected = student(waveform_BS, attention_mask=mask_BS, output_hidden_states=True).hidden_states
    seen = safetensors.torch.load_file(tmp_path / "s3prl" / "states.safetensors")
    assert len(seen) == len(expected) == 13
    frames_B = student.frontend.num_frames(samples_B).tolist()
    for k, expected_BTD in enumerate(expected):
        for row, frames in enumerate(frames_B):
            found_TD = seen[str(k)][row, :frames]
            torch.testing.assert_close(found_TD, expected_BTD[row, :frames], atol=1e-4, rtol=1e-5)


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_a_run_without_a_student_is_refused(
    runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    folder = shutil.copytree(runs["gendistiller"], tmp_path / "run")
    shutil.rmtree(folder / "student")
    shutil.rmtree(folder / "checkpoints")
    result = gdist("export", folder, "--format", "hf", "--out", tmp_path / "out")
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    assert "no finished student" in result.stderr and "gdist train --cache" in result.stderr


def test_a_folder_that_no_export_wrote_is_left_alone(
    runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    result = gdist("export", runs["gendistiller"], "--format", "hf", "--out", tmp_path / "out")
    assert result.exit_code == 1 and "is not an export of gdist" in result.stderr
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years"
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing half-done is left behind"


def test_what_float32_cannot_tell_apart_is_no_difference(
    runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some students amplify rounding: each in a batch and alone is as far from float64 as from the other."""
    student = load_student(runs["gendistiller"]).float().eval()
    assert 0 < rounding(student) < 1e-4
    monkeypatch.setattr(hf, "tolerance", lambda options: 0.0)
    command = ("export", runs["gendistiller"], "--format", "hf", "--out", tmp_path / "out")
    assert gdist(*command).exit_code == 0
    monkeypatch.setattr("gdist.stages.export.export.rounding", lambda *_: 0.0)
    assert "does not match the student" in gdist(*command).stderr


def test_an_export_that_differs_from_the_student_is_not_written(
    runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = hf.write

    def slip(export: Export, folder: Path) -> dict[str, Any]:
        written_fields = write(export, folder)
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        weights["heads.0.bias"] += 0.01
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return written_fields

    out = tmp_path / "out"
    assert gdist("export", runs["distilhubert"], "--format", "hf", "--out", out).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(hf, "write", slip)
    result = gdist("export", runs["distilhubert"], "--format", "hf", "--out", out)
    assert result.exit_code == 1 and "does not match the student" in result.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before, "the earlier export is as it was"
    monkeypatch.undo()
    assert gdist("export", runs["distilhubert"], "--format", "hf", "--out", out).exit_code == 0, "it may be replaced"


def test_a_file_that_cannot_be_read_back(tmp_path: Path) -> None:
    """Its folder or its disk has changed since it was written."""
    (tmp_path / "student.py").write_text("from .base import Base\n")
    with pytest.raises(OSError, match=r"^base\.py cannot be read back$"), imported(tmp_path, "student"):
        pass
    (tmp_path / "base.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_package"), imported(tmp_path, "student"):
        pass
