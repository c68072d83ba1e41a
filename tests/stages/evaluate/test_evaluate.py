"""Evaluation: worked examples, correct references, and a teacher that agrees with itself."""

import json
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from conftest import contents, extracted, make_teacher
from framings import FRAMINGS
from test_train import run, short

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading.batch import Batch, Selection
from gdist.pipeline.loading.splits import DataConfig
from gdist.pipeline.run import Run
from gdist.pipeline.run.evaluation import read_evaluation
from gdist.pipeline.run.snapshot import snapshot
from gdist.stages.evaluate.bench import Bench
from gdist.stages.evaluate.evaluate import evaluate
from gdist.stages.evaluate.fidelity import Fidelity, mean_cosine
from gdist.stages.evaluate.tables import show
from gdist.stages.evaluate.upstreams import LogMel, StateCollector, hidden_states
from gdist.stages.students import load_student
from gdist.stages.testing.teacher import sound


def test_fidelity_by_hand() -> None:
    """One layer, two frames that count and one that does not: targets (3, 4) and (0, 2).

    prediction   cosine   L1 a value   squared error   squared target
    (4, 3)       24/25    1            2               25
    (0, −2)      −1       2            16              4
    """
    fidelity = Fidelity([7])
    target = torch.tensor([[[[3.0, 4.0], [0.0, 2.0], [9.0, 9.0]]]])
    prediction = torch.tensor([[[[4.0, 3.0], [0.0, -2.0], [0.0, 1.0]]]])
    fidelity.add(prediction, target, torch.tensor([[True, True, False]]))
    (row,) = fidelity.rows()
    assert row["layer"] == 7 and fidelity.frames == 2
    assert row["cosine"] == pytest.approx((24 / 25 - 1) / 2)
    assert row["l1"] == pytest.approx(1.5)
    assert row["relative_error"] == pytest.approx((18 / 29) ** 0.5)


def test_fidelity_in_parts_is_fidelity_at_once() -> None:
    target, prediction = torch.randn(4, 3, 6, 5), torch.randn(4, 3, 6, 5)
    mask_BT = torch.arange(6) < torch.tensor([6, 1, 4, 3])[:, None]
    whole, parts = Fidelity([1, 2, 3]), Fidelity([1, 2, 3])
    whole.add(prediction, target, mask_BT)
    for b in range(4):
        parts.add(prediction[b : b + 1], target[b : b + 1], mask_BT[b : b + 1])
    for one, other in zip(whole.rows(), parts.rows(), strict=True):
        assert one == pytest.approx(other)


@pytest.fixture(scope="module")
def bench(tiny_cache: Path) -> Bench:
    return Bench(Cache.open(str(tiny_cache)), DataConfig(), {})


def test_the_teacher_agrees_with_itself(bench: Bench) -> None:
    fidelity = Fidelity([1, 2, 3])
    for batch in bench.batches(bench.splits["test"]):
        mask_BT = torch.arange(batch.hidden_BLTD.shape[2]) < batch.num_frames_B[:, None]
        fidelity.add(batch.hidden_BLTD[:, 1:], batch.hidden_BLTD[:, 1:], mask_BT)
    assert fidelity.frames == sum(entry.num_frames for entry in bench.splits["test"])
    for row in fidelity.rows():
        assert row["cosine"] == pytest.approx(1) and row["l1"] == row["relative_error"] == 0


def test_the_mean_frame_is_the_training_splits(bench: Bench) -> None:
    entries = bench.splits["train"]
    frames = bench.cache.hidden(2, [(entry, 0, entry.num_frames) for entry in entries])
    assert torch.allclose(bench.mean_frame[1], torch.cat(frames).mean(0), atol=1e-4)
    assert mean_cosine(bench.mean_frame_rows) < 0.999


@pytest.fixture(scope="module")
def trained(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    runs = {}
    for name in ("gendistiller", "distilhubert"):
        runs[name] = Run(tmp_path_factory.mktemp("runs") / name)
        run(tiny_cache, runs[name].folder, short(name, train__steps=40, train__lr=3e-3))
    return runs


@pytest.mark.parametrize("name", ["gendistiller", "distilhubert"])
def test_an_evaluation(bench: Bench, trained: dict[str, Run], name: str) -> None:
    result = evaluate(snapshot(trained[name].folder), bench)
    assert read_evaluation(trained[name].folder / "eval.json") == json.loads(json.dumps(result))
    assert [row["layer"] for row in result["layers"]] == [1, 2, 3]
    assert result["split"] == "test" and result["utterances"] == 8
    assert result["mean_cosine"] == pytest.approx(sum(row["cosine"] for row in result["layers"]) / 3)
    # The reference computed independently: the student's h_0 in place of every layer, frame by frame.
    student = load_student(trained[name].folder).eval()
    cosines: list[torch.Tensor] = []
    for batch in bench.batches(bench.splits["test"]):
        h0_BTD = hidden_states(student, batch)[:, 0]
        for row, frames in enumerate(batch.num_frames_B.tolist()):
            teacher_TD = batch.hidden_BLTD[row, 3, :frames]
            cosines.append(torch.cosine_similarity(h0_BTD[row, :frames], teacher_TD, dim=-1))
    assert result["references"]["copy_h0"][2]["cosine"] == pytest.approx(float(torch.cat(cosines).mean()), abs=1e-5)


def test_a_student_is_evaluated_utterance_by_utterance(bench: Bench, trained: dict[str, Run]) -> None:
    """How utterances are batched does not matter: padding changes no figure."""
    student = load_student(trained["gendistiller"].folder).eval()
    (batch,) = list(bench.batches(bench.splits["test"]))
    together = hidden_states(student, batch)
    for row, entry_id in enumerate(batch.ids):
        entry = next(entry for entry in bench.splits["test"] if entry.id == entry_id)
        (alone,) = list(bench.batches([entry]))
        assert torch.allclose(together[row, :, : entry.num_frames], hidden_states(student, alone)[0], atol=1e-5)


def test_log_mel_has_the_teachers_frames(bench: Bench) -> None:
    for batch in bench.batches(bench.splits["test"], hidden=False):
        assert LogMel(bench.cache.framing)(batch).shape == (len(batch.ids), 1, int(batch.num_frames_B.max()), 80)


@pytest.mark.parametrize("name", FRAMINGS)
def test_log_mel_is_around_the_middle_of_what_a_frame_depends_on(name: str) -> None:
    """The spectra of utterances of any length, window by window; a batch is what each of them is alone."""
    framing, _ = FRAMINGS[name]
    mel, size = LogMel(framing), 400 * framing.hop // 320
    lengths = [framing.fewest, framing.num_samples_for(2), framing.num_samples_for(9) + 100, 9_000]
    waveform_BS, num_samples_B = sound(lengths)
    waveform_BS *= torch.arange(waveform_BS.shape[1]) < num_samples_B[:, None]
    num_frames_B = framing.num_frames(num_samples_B)
    none = torch.zeros(4, 0, int(num_frames_B.max()), 1)
    batch = Batch(
        ("a", "b", "c", "d"), waveform_BS, num_samples_B, num_frames_B, none, num_samples_B, num_frames_B,
        Selection(()), ("a", "b", "c", "d"), (0, 1, 2, 3), 0, framing=framing,
    )  # fmt: skip
    found_BTD = mel(batch)[:, 0]
    far = torch.nn.functional.pad(waveform_BS, (10_000, 10_000))
    for row, frames in enumerate(num_frames_B.tolist()):
        for t in range(frames):
            middle = t * framing.hop - framing.left + framing.window // 2
            start = 10_000 + middle - size // 2
            (expected_D,) = (mel.mel(far[row, start : start + size]) + 1e-6).log().T
            torch.testing.assert_close(found_BTD[row, t], expected_D)


def test_the_command(trained: dict[str, Run], gdist: Callable[..., Result]) -> None:
    folders = [run.folder for run in trained.values()]
    result = gdist("eval", *folders, "--probes", "none", "--json")
    assert result.exit_code == 0, result.stderr
    both: list[dict[str, Any]] = json.loads(result.stdout)
    assert [one["student"] for one in both] == ["gendistiller", "distilhubert"]
    alone = json.loads(gdist("eval", folders[0], "--probes", "none", "--device", "cpu", "--json").stdout)
    assert alone == both[0]
    assert {"params", "mean_cosine", "layers", "probes"} <= alone.keys()
    assert alone["layers"][0].keys() == {"layer", "cosine", "l1", "relative_error"}
    shown = gdist("eval", *folders, "--probes", "none")
    assert "copy of h_0" in shown.stdout and f"{alone['mean_cosine']:.3f}" in shown.stdout


def test_many_runs_side_by_side(trained: dict[str, Run], bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Every name is shown in full, and every probe's interval is below its value."""
    probe = {"title": "keyword spotting", "metric": "accuracy", "higher_is_better": True, "chance": 0.1}
    probe |= {"value": 0.75, "low": 0.6875, "high": 0.8125, "test_items": 540, "shuffled": 0.125}
    result = evaluate(snapshot(trained["gendistiller"].folder), bench)
    found = {"probes": {"ks": probe}}
    result |= found | {name: result[name] | found for name in ("teacher", "log_mel")}
    names = [f"gendistiller-with-a-long-name-{seed}" for seed in range(6)]
    show([result | {"run": name} for name in names])
    lines = capsys.readouterr().out.splitlines()
    for number, name in enumerate(names):
        assert f"  {number + 1}: {name}" in lines
        (row,) = (place for place, line in enumerate(lines) if line.startswith(f"│ {name} "))
        assert "0.750" in lines[row] and "0.688–0.812" in lines[row + 1] and "0.125" in lines[row + 2]


def test_what_probes_are_given(bench: Bench) -> None:
    """The mean over an utterance's frames, and the frames, each feature standardized over training speech."""
    entries = [*bench.splits["train"], *bench.splits["test"]]
    states = StateCollector({entry.id for entry in entries})
    for batch in bench.batches(entries):
        states.add(batch.hidden_BLTD, batch)
    features = states.features([e.id for e in bench.splits["train"]])
    train_KTD = torch.cat([features.frames[e.id].float() for e in bench.splits["train"]], dim=1)
    assert train_KTD.mean(1).abs().max() < 2e-3
    assert (train_KTD.std(1) - 1).abs().max() < 1e-2
    one = bench.splits["test"][0]
    (alone_TD,) = bench.cache.hidden(2, [(one, 0, one.num_frames)])
    assert torch.allclose(features.mean[one.id][2], alone_TD.float().mean(0), atol=1e-4)
    assert features.frames[one.id].shape == (4, one.num_frames, 32)


def test_on_the_validation_split(tiny_cache: Path, trained: dict[str, Run], gdist: Callable[..., Result]) -> None:
    """It has a file of its own, and nothing of the test split is read: neither for fidelity nor by a probe."""
    folder = trained["gendistiller"].folder
    (folder / "eval.json").unlink(missing_ok=True)
    result = gdist("eval", folder, "--split", "valid", "--probes", "sid,ks", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert read_evaluation(folder / "eval-valid.json") == found
    assert not (folder / "eval.json").exists()
    bench = Bench(Cache.open(str(tiny_cache)), DataConfig(), split="valid")
    assert found["split"] == "valid" and found["utterances"] == len(bench.splits["valid"])
    assert found["probes"]["sid"]["test_items"] <= len(bench.splits["valid"])
    unread = {entry.id for entry in bench.splits["test"]}
    used = {example.id for task in bench.tasks.values() for found in task.values() for example in found}
    assert used and not used & unread


def test_minutes_of_each_voice(tiny_cache: Path, trained: dict[str, Run], gdist: Callable[..., Result]) -> None:
    whole = Bench(Cache.open(str(tiny_cache)), DataConfig(), {})
    less = Bench(Cache.open(str(tiny_cache)), DataConfig(), {}, minutes=0.05)
    for split, entries in less.splits.items():
        voices = {entry.labels.get("speaker") for entry in whole.splits[split]}
        assert {entry.labels.get("speaker") for entry in entries} == voices
        assert 0 < len(entries) <= len(whole.splits[split])
    assert len(less.splits["train"]) < len(whole.splits["train"])
    result = gdist("eval", trained["gendistiller"].folder, "--minutes", 0.05, "--probes", "none", "--json")
    found = json.loads(result.stdout)
    assert found["minutes"] == 0.05 and found["utterances"] == len(less.splits["test"])
    assert found["frames"] == sum(entry.num_frames for entry in less.splits["test"])
    for wrong in (-1, "nan", "inf", "much"):
        result = gdist("eval", trained["gendistiller"].folder, "--minutes", wrong)
        assert result.exit_code == 2 and "--minutes" in result.stderr


def test_mistakes(trained: dict[str, Run], tmp_path: Path, gdist: Callable[..., Result]) -> None:
    result = gdist("eval", tmp_path)
    assert result.exit_code == 1 and "gdist train" in result.stderr
    result = gdist("eval", trained["gendistiller"].folder, "--device", "tpu")
    assert result.exit_code == 2 and "--device auto" in result.stderr
    result = gdist("eval", trained["gendistiller"].folder, "--probes", "kws")
    assert result.exit_code == 2 and "did you mean `ks`" in result.stderr
    result = gdist("eval", trained["gendistiller"].folder, "--probes", "qbe")
    assert result.exit_code == 1 and "no word in the split `valid` that two voices say" in result.stderr


def test_a_run_without_a_student_is_refused_and_blocks_no_others(
    tiny_cache: Path, tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    run(tiny_cache, tmp_path / "run", short(train__steps=2))
    shutil.rmtree(tmp_path / "run" / "student")
    shutil.copytree(tmp_path / "run", tmp_path / "new", ignore=shutil.ignore_patterns("checkpoints"))
    result = gdist("eval", tmp_path / "new")
    assert result.exit_code == 1
    assert "no finished student" in result.stderr and f"gdist train --cache {tiny_cache}" in result.stderr
    done = run(tiny_cache, tmp_path / "done", short(train__steps=2))
    result = gdist("eval", tmp_path / "run", tmp_path / "new", tmp_path / "done", "--probes", "none", "--json")
    assert result.exit_code == 0, result.stderr
    assert (
        f"left out: {tmp_path / 'run'} has no finished student; {tmp_path / 'run'}@2 is its newest" in result.stderr
    )
    assert f"left out: {tmp_path / 'new'} has no finished student\n" in result.stderr
    assert [found["run"] for found in json.loads(result.stdout)] == ["done"] and done["steps"] == 2


def rename(run: Path, cache: str) -> None:
    """Let run.json name another cache."""
    document = json.loads((run / "run.json").read_text()) | {"cache": cache}
    document.pop("checksum", None)
    (run / "run.json").write_text(json.dumps(document))


def test_no_server_is_asked_that_only_a_run_names(
    trained: dict[str, Run], tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    folder = Path(shutil.copytree(trained["gendistiller"].folder, tmp_path / "run"))
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/cache"
        assert gdist("eval", folder, "--probes", "none").exit_code == 0
        rename(folder, address)
        result = gdist("report", folder, "--out", tmp_path / "report.html")
        assert result.exit_code == 0 and f"{address} is only named in run.json" in result.stderr
        result = gdist("export", folder, "--format", "onnx", "--quantize", "int8", "--out", tmp_path / "onnx")
        assert result.exit_code == 0 and "the bundled speech" in result.stderr
        result = gdist("eval", folder, "--probes", "none")
        assert result.exit_code == 2 and f"try: gdist eval {folder} --cache {address}" in result.stderr
        assert not asked
        assert gdist("eval", folder, "--probes", "none", "--cache", address).exit_code == 1 and asked
        server.shutdown()


def test_a_relative_cache_is_found_from_any_folder(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gdist: Callable[..., Result]
) -> None:
    monkeypatch.chdir(own_cache.parent)
    run(Path(own_cache.name), tmp_path / "run", short(train__steps=2))
    assert Run(tmp_path / "run").provenance()["cache"] == str(own_cache)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert gdist("eval", tmp_path / "run", "--probes", "none").exit_code == 0
    # One that has moved is named on the command line, as the hint says; so is one whose recorded path is relative.
    moved = own_cache.rename(tmp_path / "moved")
    for recorded, why in ((str(own_cache), ""), ("cache", ", which is relative to the folder that training")):
        rename(tmp_path / "run", recorded)
        result = gdist("eval", tmp_path / "run", "--probes", "none")
        assert result.exit_code == 1 and f"is not where it was: at {recorded}{why}" in result.stderr
        assert f"gdist eval {tmp_path / 'run'} --cache URI" in result.stderr
        assert gdist("eval", tmp_path / "run", "--probes", "none", "--cache", moved).exit_code == 0


@pytest.mark.parametrize("fields", [{}, {"hidden_size": 48, "num_hidden_layers": 2}])
def test_a_cache_of_another_teacher_is_refused(
    trained: dict[str, Run], speech: Path, tmp_path: Path, gdist: Callable[..., Result], fields: dict[str, int]
) -> None:
    """Of the same shapes, too: cosines to another teacher's states are about zero, and say nothing."""
    other = make_teacher(tmp_path / "other", seed=1, **fields)
    extracted(other, speech, tmp_path / "cache")
    mine = trained["gendistiller"]
    before = contents(mine.folder)
    result = gdist("eval", mine.folder, "--probes", "none", "--cache", tmp_path / "cache")
    assert result.exit_code == 1 and "it is a student of tiny-wavlm" in result.stderr
    assert "the cache is of other" in result.stderr and f"it learned from{mine.cache_options}" in result.stderr
    assert contents(mine.folder) == before
