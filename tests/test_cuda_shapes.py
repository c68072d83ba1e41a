"""What a GPU would run, on a pretended one (``pretend``): no mixture of devices, values as on the CPU, few stops.

Every part that takes a device is run on tensors that say they are on cuda:0, and compared with the CPU. ``BOUNDS``
says how many kernels one batch or one step may launch, and how often it may stop to wait for the device.

Axes: B batch, S samples, T frames, L layers, D features.
"""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from compared import difference, measures, require_same_cache
from conftest import contents, extracted
from pretend import Counts, is_cuda, pretended, to_cpu
from test_encodings import tables_of
from test_students import TEACHERS, given_to, make
from test_teachers import LAYOUTS, checkpoint
from test_train import Killed, curves, kill_at, run, short

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.loading import loader
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.estimate.speed import measure_speed
from gdist.stages.export.formats.upstream import Upstream
from gdist.stages.extract.extract import with_tables
from gdist.stages.extract.extractor import Extractor
from gdist.stages.extract.plan import ExtractConfig, make_plan, measure
from gdist.stages.students import STUDENTS, student_config
from gdist.stages.students.heads import HEADS, head_of
from gdist.stages.teachers import load_teacher
from gdist.stages.testing.student import sound as sound_without_padding
from gdist.stages.testing.teacher import sound
from gdist.stages.train.learner import Learner
from gdist.stages.train.ranks import Ranks
from gdist.stages.train.student_store import build_student

# What is measured → (launches, synchronisations), at most. Teachers have 12 layers unless stated, as Base has; widths
# do not matter. A step of training waits for one event, which is no synchronisation of all that is queued. Lower a
# bound when the figure has fallen (with `--log-cli-level=INFO` pytest prints the figures). Raise one only for a
# reason that CHANGELOG.md can give.
BOUNDS: dict[str, tuple[int, int]] = {
    "batch of extraction, 12 layers, fp16, bf16": (684, 0),
    "batch of extraction, 12 layers, fp16, fp32": (640, 0),
    "batch of extraction, 12 layers, int8, bf16": (936, 0),
    "batch of extraction, 3 layers, bf16, bf16": (297, 0),
    "batch of extraction, 3 layers, fp32, bf16": (226, 0),
    "batch of extraction, 3 layers, int4, bf16": (386, 0),
    "batch of extraction, 3 layers, rvq, bf16": (489, 0),
    "batch of the loader, 6 rows, 3 layers, bf16": (6, 0),
    "batch of the loader, 6 rows, 3 layers, fp16": (6, 0),
    "batch of the loader, 6 rows, 3 layers, fp32": (5, 0),
    "batch of the loader, 6 rows, 3 layers, int4": (12, 0),
    "batch of the loader, 6 rows, 3 layers, int8": (13, 0),
    "batch of the loader, 6 rows, 3 layers, rvq": (49, 0),
    "forward pass of hubert-base, bf16": (355, 0),
    "forward pass of hubert-base, fp32": (299, 0),
    "forward pass of wavlm-base, bf16": (450, 0),
    "forward pass of wavlm-base, fp32": (406, 0),
    "forward pass of wavlm-large, bf16": (451, 0),
    "forward pass of wavlm-large, fp32": (393, 0),
    "step of training, distilhubert, bf16": (607, 0),
    "step of training, gendistiller averaged, bf16": (1546, 0),
    "step of training, gendistiller frozen, 4 layers, bf16": (545, 0),
    "step of training, gendistiller, bf16": (1545, 0),
    "step of training, gendistiller, fp32": (1314, 0),
}

NAMES = tuple(ENCODINGS.own)
CLOSE = {"fp32": 1e-5, "tf32": 1e-5, "bf16": 0.1, "fp16": 0.02}  # relative; tf32 is not rounded here
STEPS: dict[str, dict[str, Any]] = {
    "gendistiller, fp32": {},
    "gendistiller, bf16": {"train__precision": "bf16"},
    "gendistiller frozen, 4 layers, bf16": {
        "train__precision": "bf16", "student__frontend": "frozen", "train__layers_per_step": 4
    },
    "gendistiller averaged, bf16": {"train__precision": "bf16", "train__ema_decay": 0.9},
    "distilhubert, bf16": {"train__precision": "bf16"},
}  # fmt: skip

THOROUGH = pytest.mark.thorough

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="this GPU is a real one; CUDA_VISIBLE_DEVICES= hides it"
)


@pytest.fixture
def gpu() -> Iterator[Counts]:
    """A pretended GPU for the length of a test."""
    with pretended() as counts:
        yield counts


def require_within(what: str, counts: Counts) -> None:
    """Fail with the lines that launch or stop most, if there are more of either than ``BOUNDS`` allows."""
    launches, syncs = counts.launches.total(), counts.syncs.total()
    logging.getLogger(__name__).info('    "%s": (%d, %d),', what, launches, syncs)
    most_launches, most_syncs = BOUNDS.get(what, (0, 0))
    assert syncs <= most_syncs, f"{what}: {syncs} synchronisations, at most {most_syncs}: {counts.syncs}"
    assert launches <= most_launches, (
        f"{what}: {launches} launches, at most {most_launches}: {counts.launches.most_common(20)}"
    )


# --- teachers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_teachers(gpu: Counts, layout: str, tmp_path: Path) -> None:
    folder = str(checkpoint(tmp_path, layout, "large" in layout))
    reference = load_teacher(folder)
    fewest = reference.framing.fewest
    waves = {"ragged": sound([fewest, fewest + 319, fewest + 320, 5000, 4321]), "even": sound([3000, 3000])}
    expected = {form: [h.clone() for h in reference.hidden_states(*wave)] for form, wave in waves.items()}
    for precision in CLOSE if layout in ("wavlm-base", "hubert-large") else ("fp32", "bf16"):
        teacher = load_teacher(folder, precision=precision, device="cuda")
        for form, wave in waves.items():
            if form == "even" and precision != "fp32":
                continue
            states = expected[form]
            own = list(teacher.hidden_states(*wave))
            assert all(is_cuda(hidden_BTD) and hidden_BTD.dtype == torch.float32 for hidden_BTD in own)
            worst = max(map(difference, own, states))
            assert worst < CLOSE[precision], f"{precision}: {worst}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "layout", ["wavlm-base", *(pytest.param(other, marks=THOROUGH) for other in ("hubert-base", "wavlm-large"))]
)
def test_launches_of_a_forward_pass(gpu: Counts, layout: str, precision: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, layout, "large" in layout, num_hidden_layers=12)
    teacher = load_teacher(str(folder), precision=precision, device="cuda")
    waveform_BS, num_samples_B = sound([16_000, 15_000, 14_000])
    there_BS = waveform_BS.to("cuda")
    for _ in range(2):  # what is done once is not counted
        gpu.clear()
        for _ in teacher.hidden_states(there_BS, num_samples_B):
            pass
    require_within(f"forward pass of {layout}, {precision}", gpu)


def test_the_speed_of_a_teacher_can_be_measured(gpu: Counts, tiny_teacher: Path, tiny_cache: Path) -> None:
    teacher = load_teacher(str(tiny_teacher), device="cuda")
    entries = [entry for entry in Cache.open(str(tiny_cache)).entries if entry.num_frames][:4]
    assert measure_speed(teacher, [entries], 10.0, 3, 0.01)[0] > 0


# --- encodings and extraction --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_encodings_give_the_same_bytes(gpu: Counts, name: str) -> None:
    encoding = ENCODINGS[name]
    torch.manual_seed(0)
    num_frames_B = torch.tensor([300, 128, 1, 77])
    hidden_BTD = torch.randn(4, 300, 64) * torch.logspace(-2, 1, 64)
    hidden_BTD *= torch.arange(300)[None, :, None] < num_frames_B[:, None, None]
    tables = tables_of(name)
    there = {key: table.to("cuda") for key, table in tables.items()}
    own = encoding.encode(hidden_BTD.to("cuda"), num_frames_B, there)
    expected = encoding.encode(hidden_BTD, num_frames_B, tables)
    assert own.keys() == expected.keys()
    for folder, part in expected.items():
        assert is_cuda(own[folder])
        assert np.array_equal(to_cpu(own[folder]).numpy(), part.numpy(), equal_nan=name.startswith("fp")), folder
    measured = measures(hidden_BTD.to("cuda"), num_frames_B, own, encoding, there)
    assert is_cuda(measured)
    assert difference(measured, measures(hidden_BTD, num_frames_B, expected, encoding, tables)) < 1e-6


@pytest.fixture(scope="module")
def few(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 6 utterances: 4 train, 2 valid; digits and prompts."""
    manifest = Manifest.read(speech)
    out = tmp_path_factory.mktemp("few") / "few.parquet"
    Manifest(manifest.table.take([0, 3, 8, 9, 14, 18]), manifest.root).write(out)
    return out


@pytest.mark.parametrize(
    ("encoding", "precision"),
    [
        *(pytest.param(name, "fp32", marks=[] if name in ("int4", "rvq") else THOROUGH) for name in NAMES),
        ("fp16", "bf16"),
    ],
)
def test_extraction(
    gpu: Counts, encoding: str, precision: str, tiny_teacher: Path, few: Path, tmp_path: Path
) -> None:
    on_gpu, on_cpu = tmp_path / "gpu", tmp_path / "cpu"
    options = {"encoding": encoding, "precision": precision, "device": "cuda", "pack_frames": 256}
    result = extracted(tiny_teacher, few, on_gpu, **options)
    assert not result["quarantine"] and result["packs"] > 2
    before = contents(on_gpu)
    again = extracted(tiny_teacher, few, on_gpu, **options)
    assert again["packs_resumed"] == again["packs"] and contents(on_gpu) == before
    expected = extracted(tiny_teacher, few, on_cpu, encoding=encoding, pack_frames=256)
    require_same_cache((on_gpu, result), (on_cpu, expected), encoding, precision)


@pytest.fixture(scope="module")
def deep_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in WavLM Base's layout with 12 layers."""
    return checkpoint(tmp_path_factory.mktemp("deep") / "teacher", "wavlm-base", False, num_hidden_layers=12)


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 3 utterances of nearly the same length, which share a batch."""
    folder = tmp_path_factory.mktemp("even")
    rows = []
    for number in range(3):
        samples = 16_000 - 320 * number
        sound_S = np.random.default_rng(number).normal(0, 0.1, samples)
        soundfile.write(folder / f"{number}.wav", sound_S, 16_000)
        rows.append({"id": str(number), "path": f"{number}.wav", "num_samples": samples, "sample_rate": 16_000})
    Manifest(pa.Table.from_pylist(rows), str(folder)).write(folder / "even.parquet")
    return folder / "even.parquet"


@pytest.mark.parametrize(("encoding", "precision"), [*((name, "bf16") for name in NAMES), ("fp16", "fp32")])
def test_launches_of_a_batch_of_extraction(
    gpu: Counts, encoding: str, precision: str, deep_teacher: Path, tiny_teacher: Path, even: Path, tmp_path: Path
) -> None:
    folder = deep_teacher if encoding in ("fp16", "int8") else tiny_teacher
    config = ExtractConfig(
        str(folder), str(even), str(tmp_path), encoding=encoding, precision=precision, device="cuda",
        pack_frames=512,
    )  # fmt: skip
    manifest = Manifest.read(even)
    teacher = load_teacher(str(folder), precision=precision, device="cuda")
    utterances, lengths = measure(manifest)
    plan = make_plan(config, teacher, manifest, lengths, "cuda")
    if ENCODINGS[encoding].calibrated:
        plan = with_tables(plan, teacher, utterances)
    cache = Cache.create(str(tmp_path), plan)
    extractor = Extractor(cache, teacher)
    [task] = cache.todo()
    audio = extractor.read(task, list(utterances.values()))
    for _ in range(2):
        gpu.clear()
        queued = extractor.compute(task, audio)
    assert len(queued.cut) == 1
    require_within(f"batch of extraction, {teacher.num_layers} layers, {encoding}, {precision}", gpu)
    extractor.commit(task, queued)


# --- loader --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def caches(tiny_teacher: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoding → a cache in it."""
    folder = tmp_path_factory.mktemp("caches")
    for name in NAMES:
        extracted(tiny_teacher, few, folder / name, encoding=name)
    return {name: folder / name for name in NAMES}


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("encoding", NAMES)
def test_loader(
    gpu: Counts, encoding: str, resident: bool, caches: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not resident:
        monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
    cache = Cache.open(str(caches[encoding]))
    selection = Selection(tuple(cache.layers))
    on_gpu, on_cpu = (
        Loader(cache, cache.entries, selection, 6.0, crop_seconds=2.0, device=device) for device in ("cuda", "cpu")
    )
    for own, expected in itertools.islice(zip(on_gpu, on_cpu, strict=False), 6):
        assert own.ids == expected.ids
        for layer in selection.layers:
            assert is_cuda(own.hidden(layer))
            assert torch.equal(to_cpu(own.hidden(layer)), expected.hidden(layer))
        assert own.waveform_BS is not None and expected.waveform_BS is not None
        assert torch.equal(to_cpu(own.waveform_BS), expected.waveform_BS)


@pytest.mark.parametrize("encoding", NAMES)
def test_launches_of_a_batch_of_the_loader(
    gpu: Counts, encoding: str, caches: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
    cache = Cache.open(str(caches[encoding]))
    selection = Selection((1, 2, 3))
    reader = Loader(cache, cache.entries, selection, 60.0, device="cuda")
    spans = [(entry, 0, entry.num_frames) for entry in cache.entries]
    for _ in range(2):
        gpu.clear()
        reader.read(spans, selection)
    require_within(f"batch of the loader, 6 rows, 3 layers, {encoding}", gpu)


# --- students and training -----------------------------------------------------------------------------------------

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("gendistiller", "base", {}),
    ("gendistiller", "large", {"history": "teacher"}),
    ("gendistiller", "data2vec", {"history": "mixed"}),
    ("gendistiller", "base", {"history": "all"}),
    ("gendistiller", "base", {"history": "all", "fed_by": "mixed"}),
    ("gendistiller", "base", {"adapter_rank": 4, "width": 16, "distinct_steps": 2, "num_layers": 2}),
    ("gendistiller", "base", {"rollout": 2}),
    ("distilhubert", "base", {}),
    ("fithubert", "large", {}),
    ("armhubert", "base", {}),
    ("armhubert", "data2vec", {"reuse": 3}),
]


@pytest.mark.parametrize(
    ("name", "teacher", "fields", "precision"),
    [*((*case, "fp32") for case in CASES), *(pytest.param(*case, "bf16", marks=THOROUGH) for case in CASES[:4])],
)
def test_students_learn_the_same(
    gpu: Counts, name: str, teacher: str, fields: dict[str, Any], precision: str
) -> None:
    reference, student = (make(name, teacher, dropout=0.0, **fields) for _ in range(2))
    student.to("cuda")
    waveform_BS, num_samples_B = sound_without_padding([400, 719, 5000, 4000])
    frames_B = reference.frontend.num_frames(num_samples_B)
    plan = reference.plan(3, np.random.default_rng(1))
    forced_BK = torch.rand(4, len(reference.predicted_layers)) < 0.5 if reference.teacher_ratio else None
    given = given_to(reference, reference.frontend(waveform_BS, num_samples_B).detach())
    predictions = []
    for model, device in ((student, "cuda"), (reference, "cpu")):
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):  # which leaves the CPU exact
            states = {layer: state.to(device) for layer, state in given.items()}
            states[0] = model.frontend(waveform_BS.to(device), num_samples_B)
            forced = None if forced_BK is None else forced_BK.to(device)
            predictions.append(model.learn(plan, states, frames_B, forced))
        torch.autograd.backward(predictions[-1].float().square().sum())
    assert is_cuda(predictions[0])
    assert difference(*predictions) < (0.15 if precision == "bf16" else 1e-4)
    scale = sum(float(p.grad.norm()) ** 2 for p in reference.parameters() if p.grad is not None) ** 0.5
    for (key, own), expected in zip(student.named_parameters(), reference.parameters(), strict=True):
        assert (own.grad is None) == (expected.grad is None), key
        if precision == "fp32" and own.grad is not None and expected.grad is not None:
            apart = float((to_cpu(own.grad) - expected.grad).norm())
            assert apart < 2e-2 * (float(expected.grad.norm()) + 1e-4 * scale), key


@pytest.mark.parametrize("name", STUDENTS.own)
def test_students_as_models_of_hugging_face_and_s3prl(gpu: Counts, name: str) -> None:
    own, reference = make(name).to("cuda"), make(name)
    waveform_BS, num_samples_B = sound_without_padding([400, 719, 3000])
    mask_BS = (torch.arange(3000) < num_samples_B[:, None]).long()
    with torch.no_grad():
        expected = reference(waveform_BS, mask_BS, output_hidden_states=True).hidden_states
        for mask in (mask_BS, mask_BS.to("cuda")):
            found = own(waveform_BS.to("cuda"), mask, output_hidden_states=True).hidden_states
            assert max(map(difference, found, expected)) < 1e-4
        waves = [torch.randn(samples) for samples in (300, 5000)]
        expected = Upstream(reference)(waves)["hidden_states"]
        found = Upstream(own)([wave.to("cuda") for wave in waves])["hidden_states"]
        assert max(map(difference, found, expected)) < 1e-4
    head = head_of(STUDENTS[name], HEADS["AutoModelForAudioClassification"])
    classifier = head(student_config(name, TEACHERS["base"])).to("cuda")
    result = classifier(waveform_BS.to("cuda"), mask_BS.to("cuda"), labels=torch.tensor([0, 1, 0]).to("cuda"))
    result.loss.backward()
    assert all(is_cuda(p.grad) for p in classifier.classifier.parameters())


@pytest.mark.parametrize(
    ("student", "fields", "killed"),
    [
        (
            "gendistiller",
            {
                "student__frontend": "frozen",
                "train__thaw_step": 2,
                "train__layers_per_step": 2,
                "train__ema_decay": 0.9,
            }
            | {f"augment__{kind}": 1.0 for kind in ("noise", "speech", "reverb")},
            True,
        ),
        (
            "gendistiller",
            {
                "student__history": "mixed",
                "train__forcing_steps": 3,
                "train__accumulate": 2,
                "train__precision": "bf16",
            },
            True,
        ),
        ("gendistiller", {"student__history": "all", "loss__name": "l1_cos"}, False),
        ("distilhubert", {"loss__name": "mse"}, False),
    ],
)
def test_training(
    gpu: Counts,
    student: str,
    fields: dict[str, Any],
    killed: bool,
    caches: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The curves are those of the CPU, and a killed run ends in the bits of one that never was."""
    settings = {"train__steps": 3, "train__checkpoint_every": 2, "train__log_every": 1, "train__batch_seconds": 5.0}
    settings |= {"student__dropout": 0.0, "train__validate_every": 3}
    cache = caches["fp16"]
    configs = {device: short(student, **settings, **fields, train__device=device) for device in ("cuda", "cpu")}
    for device, config in configs.items():
        run(cache, tmp_path / device, config)
    for own, expected in zip(curves(tmp_path / "cuda"), curves(tmp_path / "cpu"), strict=True):
        tolerance = 0.05 if configs["cpu"].train.precision == "bf16" else 1e-3
        assert own["loss"] == pytest.approx(expected["loss"], rel=tolerance)
    if not killed:
        return
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 3)
        run(cache, tmp_path / "killed", configs["cuda"])
    run(cache, tmp_path / "killed", configs["cuda"])
    assert contents(tmp_path / "killed" / "student") == contents(tmp_path / "cuda" / "student")


@pytest.fixture(scope="module")
def deep_cache(deep_teacher: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 12 layers."""
    folder = tmp_path_factory.mktemp("deep") / "cache"
    extracted(deep_teacher, few, folder)
    return folder


@pytest.mark.parametrize("what", STEPS)
def test_launches_of_a_step_of_training(gpu: Counts, what: str, deep_cache: Path) -> None:
    config = short(what.partition(",")[0].partition(" ")[0], **STEPS[what])
    cache = Cache.open(str(deep_cache))
    learner = Learner(build_student(cache, config), config, Ranks(device=torch.device("cuda")))
    reader = Loader(cache, cache.entries, Selection(()), 60.0, device="cuda")
    spans = [(entry, 0, min(entry.num_frames, 60)) for entry in cache.entries[:3]]
    for step in (1, 2):
        selection = learner.objective.training_selection(0, step)
        read = [reader.read(spans, selection) for _ in range(config.train.accumulate)]
        gpu.clear()
        learner.step(step, read)
    require_within(f"step of training, {what}", gpu)
    assert gpu.waits.total() == 1, "for this step's figures, and for nothing that was queued after them"
