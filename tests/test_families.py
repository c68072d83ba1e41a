"""Every family of teachers, from a checkpoint to an exported student, with the commands that a user types."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import test_teachers
import torch
from click.testing import Result
from conftest import PACK_FRAMES

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import EXIT_QUARANTINED
from gdist.stages.frontend.kinds import build_frontend, frontend_of
from gdist.stages.frontend.padding import normalize
from gdist.stages.students import load_student
from gdist.stages.testing import TeacherSuite

Gdist = Callable[..., Result]

# WavLM has its own tests of every command, and these are of its kind.
SAME_AS_WAVLM = {"wavlm", "hubert", "wav2vec2", "data2vec-audio", "unispeech-sat"}
CASES: dict[str, type[TeacherSuite]] = {
    name: suite for name, suite in test_teachers.SUITES.items() if name not in SAME_AS_WAVLM
}
CASES["whisper-short"] = test_teachers.TestShortWhisper
IN_ONNX = {"whisper", "wav2vec2-bert", "sew"}  # one of each kind of front-end; the others' students differ in nothing
BRIEF = ("train.steps=2", "train.warmup_steps=1", "train.batch_seconds=2", "train.validate_seconds=2")


@pytest.mark.parametrize(
    "name", [name if name == "whisper" else pytest.param(name, marks=pytest.mark.thorough) for name in CASES]
)
def test_from_a_checkpoint_to_an_export(name: str, speech: Path, tmp_path: Path, gdist: Gdist) -> None:
    suite = CASES[name]()
    layout = next(iter(suite.layouts))
    teacher, cache = suite.saved(layout, tmp_path / "teacher"), tmp_path / "cache"
    window = [f"--window={suite.options['window']}"] if "window" in suite.options else []
    how = ["--teacher", teacher, *window]

    planned = gdist("plan", *how, "--manifest", speech, "--json")
    sizes = gdist("students", "--teacher", teacher, "--json")
    made = gdist(
        "extract",
        *how,
        "--manifest",
        speech,
        "--cache",
        cache,
        "--pack-frames",
        PACK_FRAMES,
        "--device",
        "cpu",
        "--json",
    )
    done = json.loads(made.stdout)
    # Whisper's window is two seconds here, and some utterances are longer.
    assert made.exit_code == (EXIT_QUARANTINED if window else 0), made.stderr
    assert done["utterances"] + done["quarantined"] == 30 and done["utterances"] > 15
    assert json.loads(planned.stdout)["utterances"] == done["utterances"]
    assert gdist("verify", cache).exit_code == 0
    opened = Cache.open(str(cache))
    for entry in opened.entries[:3]:
        assert entry.num_frames == opened.framing.num_frames(entry.num_samples)
    if window:
        problems = [entry.problem for entry in opened.entries if entry.problem]
        assert problems and all("--split-seconds" in problem for problem in problems)

    for student in ("gendistiller", "distilhubert"):
        run = tmp_path / student
        sets = [part for setting in BRIEF for part in ("--set", setting)]
        trained = gdist("train", "--cache", cache, "--out", run, "--student", student, *sets, "--json")
        assert trained.exit_code == 0, trained.stderr
        judged = gdist("eval", run, "--probes", "sid", "--json")
        assert judged.exit_code == 0, judged.stderr
        model = load_student(run)
        size = next(row for row in json.loads(sizes.stdout) if row["name"] == student)
        assert model.num_parameters() == size["params"]
        assert model.frontend.framing == opened.framing
        onnx = ["onnx"] if student == "gendistiller" and name in IN_ONNX else []
        for form in ("hf", "s3prl", *onnx):
            exported = gdist("export", run, "--format", form, "--out", tmp_path / f"{student}-{form}", "--json")
            assert exported.exit_code == 0, exported.stderr
            assert json.loads(exported.stdout)["max_difference"] < 1e-4

    page = tmp_path / "report.html"
    reported = gdist("report", tmp_path / "gendistiller", tmp_path / "distilhubert", "--out", page)
    assert reported.exit_code == 0, reported.stderr
    assert {"gendistiller", "distilhubert"} <= set(re.findall(r"\w+", page.read_text(encoding="utf-8")))

    # Frozen, a student's layer 0 is the cached one; trained from the teacher's front-end, it begins as that.
    entry = max((e for e in opened.entries if e.num_frames), key=lambda e: e.num_frames)
    span = (entry, 0, entry.num_frames)
    (cached_TD,) = opened.hidden(0, [span])
    samples_S = torch.from_numpy(opened.waveform([span])[0]).float() / 2**15
    config = json.loads(opened.document("config.json"))
    frontend = build_frontend(frontend_of(config))
    frontend.load_state_dict(safetensors.torch.load(opened.document("frontend.safetensors")))
    lengths = torch.tensor([len(samples_S)])
    if config["do_normalize"]:
        samples_S = normalize(samples_S[None], lengths)[0]
    with torch.no_grad():
        torch.testing.assert_close(frontend(samples_S[None], lengths)[0], cached_TD, atol=1e-2, rtol=2e-3)
