"""What only a real GPU can tell: rounding, races, bits that come again, memory that runs out. ``make gpu`` runs it.

Without a GPU everything is skipped. ``GDIST_CUDA_TESTS=cpu`` runs the tests with the CPU as the device, which tries
the tests themselves; ``test_cuda_shapes.py`` is what a machine without a GPU has instead.

Axes: B batch, S samples, T frames, L layers, D features.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from compared import difference, measures, require_same_cache
from conftest import contents, extracted, free_port, make_teacher
from test_encodings import tables_of
from test_students import given_to, make
from test_teachers import LAYOUTS, checkpoint
from test_train import Killed, curves, kill_at, run, short
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.errors import GdistError
from gdist.pipeline.loading import loader
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.run import Run
from gdist.stages.extract.extractor import Extractor
from gdist.stages.teachers import load_teacher
from gdist.stages.testing.student import sound as sound_without_padding
from gdist.stages.testing.teacher import LENGTHS, sound
from gdist.stages.train.config import OptimConfig
from gdist.stages.train.learner import Learner
from gdist.stages.train.ranks import Ranks
from gdist.stages.train.student_store import build_student

DEVICE = os.environ.get("GDIST_CUDA_TESTS", "cuda")
CUDA = DEVICE == "cuda"
NAMES = tuple(ENCODINGS.own)
# The relative difference between a teacher in half precision and in float32; random weights lose more than trained.
CLOSE = {"bf16": 0.1, "fp16": 0.02}

# WavLM Base's shapes
BASE: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "conv_dim": [512] * 7, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16, "num_buckets": 320,
    "max_bucket_distance": 800, "initializer_range": 0.02,
}  # fmt: skip

pytestmark = pytest.mark.skipif(CUDA and not torch.cuda.is_available(), reason="there is no GPU")
real_gpu = pytest.mark.skipif(not CUDA, reason="only a GPU has this")
FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("gendistiller", {}),
    ("gendistiller", {"train__precision": "bf16"}),
    ("gendistiller", {"student__history": "all", "train__layers_per_step": 2}),
    ("gendistiller", {"student__frontend": "frozen", "train__accumulate": 2, "train__ema_decay": 0.9}),
    ("distilhubert", {"train__precision": "bf16"}),
]


@pytest.fixture
def exact_products() -> Iterator[None]:
    """Float32 without TF32, which torch allows in convolutions, and which teachers turn off themselves."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


def apart(own: Tensor, reference: Tensor) -> float:
    """The largest difference of two tensors."""
    return float((own.detach().cpu() - reference.detach().cpu()).abs().max())


# --- teachers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_teacher_equals_the_cpu_and_an_utterance_its_batch(layout: str, tmp_path: Path) -> None:
    folder = str(checkpoint(tmp_path, layout, "large" in layout))
    teacher = load_teacher(folder, device=DEVICE)
    lengths = [max(samples, teacher.framing.fewest) for samples in LENGTHS]
    waveform_BS, num_samples_B = sound(lengths)
    batched = [h.clone() for h in teacher.hidden_states(waveform_BS, num_samples_B)]
    for own, expected in zip(batched, load_teacher(folder).hidden_states(waveform_BS, num_samples_B), strict=True):
        assert apart(own, expected) < 1e-4
    for row, samples in enumerate(lengths):
        alone = teacher.hidden_states(waveform_BS[row : row + 1, :samples], num_samples_B[row : row + 1])
        for own_1TD, all_BTD in zip(alone, batched, strict=True):
            assert apart(own_1TD[0], all_BTD[row, : own_1TD.shape[1]]) < 1e-4
            assert not all_BTD[row, own_1TD.shape[1] :].any()


@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("layout", ["wavlm-base", "hubert-large", "data2vec-audio-only"])
def test_half_precision_stays_close(layout: str, precision: str, tmp_path: Path) -> None:
    folder = str(checkpoint(tmp_path, layout, True))
    wave = sound([3000, 16_000, 9000])
    teacher = load_teacher(folder, precision=precision, device=DEVICE)
    for own, expected in zip(teacher.hidden_states(*wave), load_teacher(folder).hidden_states(*wave), strict=True):
        assert own.dtype == torch.float32 and difference(own, expected) < CLOSE[precision]


def test_wavlm_base_at_its_real_size_equals_hugging_face(tmp_path: Path) -> None:
    folder = str(make_teacher(tmp_path, **(BASE if CUDA else {})))
    waveform_BS, num_samples_B = sound([192_000, 155_555] if CUDA else [16_000, 12_345])
    own = list(load_teacher(folder, device=DEVICE).hidden_states(waveform_BS, num_samples_B))
    model = AutoModel.from_pretrained(folder).eval()
    for row, samples in enumerate(num_samples_B.tolist()):
        with torch.inference_mode():
            expected = model(waveform_BS[row : row + 1, :samples], output_hidden_states=True).hidden_states
        for own_BTD, expected_1TD in zip(own, expected, strict=True):
            assert apart(own_BTD[row, : expected_1TD.shape[1]], expected_1TD[0]) < 1e-4


@real_gpu
def test_a_teacher_leaves_cudnn_on_and_the_settings_as_they_were(tmp_path: Path) -> None:
    teacher = load_teacher(str(checkpoint(tmp_path, do_normalize=False)), precision="tf32", device=DEVICE)
    for _ in teacher.hidden_states(*sound([3000])):
        assert torch.backends.cudnn.enabled
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    with teacher._compute():
        assert torch.backends.cudnn.enabled, "convolutions would be computed without cuDNN"


# --- encodings and extraction --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_encodings_give_the_bytes_of_the_cpu(name: str) -> None:
    encoding = ENCODINGS[name]
    torch.manual_seed(0)
    num_frames_B = torch.tensor([300, 128, 1, 77])
    hidden_BTD = torch.randn(4, 300, 192) * torch.logspace(-2, 1, 192)
    hidden_BTD *= torch.arange(300)[None, :, None] < num_frames_B[:, None, None]
    tables = tables_of(name, 192)
    there = {key: table.to(DEVICE) for key, table in tables.items()}
    own = encoding.encode(hidden_BTD.to(DEVICE), num_frames_B, there)
    expected = encoding.encode(hidden_BTD, num_frames_B, tables)
    for folder, part in expected.items():
        own_bytes, bytes_ = (x.cpu().contiguous().view(torch.uint8) for x in (own[folder], part))
        # Words are chosen by distances, sums whose order differs; everything else is rounded value by value.
        assert float((own_bytes == bytes_).double().mean()) > (0.98 if name == "rvq" else 0.9999), folder
    measured = measures(hidden_BTD.to(DEVICE), num_frames_B, own, encoding, there)
    assert difference(measured, measures(hidden_BTD, num_frames_B, expected, encoding, tables)) < 1e-3


@pytest.mark.parametrize(("encoding", "precision"), [*((name, "fp32") for name in NAMES), ("fp16", "bf16")])
def test_extraction_equals_the_cpu_and_itself_after_a_kill(
    encoding: str, precision: str, tiny_teacher: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"encoding": encoding, "precision": precision, "device": DEVICE}
    result = extracted(tiny_teacher, speech, tmp_path / "whole", **options)
    assert not result["quarantine"]
    compute, left = Extractor.compute, iter(range(3))

    def dying(self: Extractor, *rest: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return compute(self, *rest)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Extractor, "compute", dying)
        extracted(tiny_teacher, speech, tmp_path / "killed", **options)
    assert 0 < extracted(tiny_teacher, speech, tmp_path / "killed", **options)["packs_resumed"] < result["packs"]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    reference = extracted(tiny_teacher, speech, tmp_path / "cpu", encoding=encoding)
    require_same_cache((tmp_path / "whole", result), (tmp_path / "cpu", reference), encoding, precision)


# --- loader --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def caches(tiny_teacher: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoding → a cache in it."""
    folder = tmp_path_factory.mktemp("caches")
    for name in NAMES:
        extracted(tiny_teacher, speech, folder / name, encoding=name)
    return {name: folder / name for name in NAMES}


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("encoding", NAMES)
def test_batches_are_those_of_the_cpu_with_many_in_flight(
    encoding: str, resident: bool, caches: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are compared late, while the device is busy: memory that was used again too early would show."""
    if not resident:
        monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
    cache = Cache.open(str(caches[encoding]))
    selection = Selection(tuple(cache.layers))
    reader, on_cpu = (
        Loader(cache, cache.entries, selection, 6.0, crop_seconds=2.0, device=device) for device in (DEVICE, "cpu")
    )
    busy = torch.randn(2048, 2048, device=DEVICE) if CUDA else None
    held: list[tuple[list[Tensor], Tensor | None]] = []
    for batch in itertools.islice(reader, 40):
        if busy is not None:
            busy = torch.nn.functional.normalize(busy @ busy)
        audio = batch.waveform_BS
        there = None if audio is None else audio.to(DEVICE, non_blocking=True)
        held.append(([batch.hidden(layer).clone() for layer in selection.layers], there))
    for (states, audio), expected in zip(held, itertools.islice(on_cpu, 40), strict=True):
        for layer, own in zip(selection.layers, states, strict=True):
            assert own.device.type == torch.device(DEVICE).type
            assert torch.equal(own.cpu(), expected.hidden(layer)) or (
                encoding == "rvq" and apart(own, expected.hidden(layer)) < 1e-5
            )
        assert audio is not None and expected.waveform_BS is not None
        assert torch.equal(audio.cpu(), expected.waveform_BS)


# --- students and training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "teacher", "fields"),
    [
        ("gendistiller", "base", {}),
        ("gendistiller", "large", {"history": "all", "fed_by": "mixed"}),
        ("distilhubert", "base", {}),
        ("fithubert", "data2vec", {}),
        ("armhubert", "large", {}),
    ],
)
@pytest.mark.usefixtures("exact_products")
def test_students_learn_as_on_the_cpu(name: str, teacher: str, fields: dict[str, Any]) -> None:
    reference, student = (make(name, teacher, dropout=0.0, **fields) for _ in range(2))
    student.to(DEVICE)
    waveform_BS, num_samples_B = sound_without_padding([400, 719, 5000, 16_000])
    frames_B = reference.frontend.num_frames(num_samples_B)
    plan = reference.plan(3, np.random.default_rng(1))
    forced_BK = torch.rand(4, len(reference.predicted_layers)) < 0.5 if reference.teacher_ratio else None
    given = given_to(reference, reference.frontend(waveform_BS, num_samples_B).detach())
    predictions = []
    for model, device in ((student, DEVICE), (reference, "cpu")):
        states = {layer: state.to(device) for layer, state in given.items()}
        states[0] = model.frontend(waveform_BS.to(device), num_samples_B)
        predictions.append(model.learn(plan, states, frames_B, None if forced_BK is None else forced_BK.to(device)))
        torch.autograd.backward(predictions[-1].square().sum())
    assert difference(*predictions) < 1e-4
    scale = sum(float(p.grad.norm()) ** 2 for p in reference.parameters() if p.grad is not None) ** 0.5
    for (key, own), expected in zip(student.named_parameters(), reference.parameters(), strict=True):
        if expected.grad is not None and own.grad is not None:
            assert float((own.grad.cpu() - expected.grad).norm()) < 2e-2 * (
                float(expected.grad.norm()) + 1e-4 * scale
            ), key


@pytest.mark.parametrize(("student", "fields"), FIELDS)
@pytest.mark.usefixtures("exact_products")
def test_training_follows_the_cpu(student: str, fields: dict[str, Any], tiny_cache: Path, tmp_path: Path) -> None:
    for device in (DEVICE, "cpu"):
        config = short(student, student__dropout=0.0, train__log_every=1, train__device=device, **fields)
        run(tiny_cache, tmp_path / f"on-{device}" / device, config)
    own, expected = (curves(tmp_path / f"on-{device}" / device) for device in (DEVICE, "cpu"))
    for ours, theirs in zip(own, expected, strict=True):
        assert np.isfinite(ours["loss"])
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05 if "train__precision" in fields else 5e-3)


@pytest.mark.skipif(
    "deterministic" not in {f.name for f in dataclasses.fields(OptimConfig)}, reason="there is no mode"
)
@pytest.mark.parametrize(("student", "fields"), FIELDS)
def test_a_killed_run_ends_in_the_same_bits_where_kernels_are_deterministic(
    student: str, fields: dict[str, Any], tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = short(student, train__device=DEVICE, train__deterministic=True, **fields)
    run(tiny_cache, tmp_path / "whole", config)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        run(tiny_cache, tmp_path / "killed", config)
    run(tiny_cache, tmp_path / "killed", config)
    assert contents(tmp_path / "killed" / "student") == contents(tmp_path / "whole" / "student")


@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize("first", [DEVICE, "cpu"])
def test_a_checkpoint_continues_on_the_other_device(first: str, tiny_cache: Path, tmp_path: Path) -> None:
    cache = Cache.open(str(tiny_cache))
    learners, readers = [], []
    for device in (first, "cpu" if first == DEVICE else DEVICE):
        config = short(student__dropout=0.0, train__device=device)
        learner = Learner(build_student(cache, config), config, Ranks(device=torch.device(device)))
        learners.append(learner)
        choose = learner.objective.training_selection
        readers.append(Loader(cache, cache.entries, choose, 8.0, device=device))
    folder = Run(tmp_path)
    folder.checkpoints.mkdir(parents=True)
    streams = [iter(readers[0])]
    for step in (1, 2, 3):
        learners[0].step(step, [next(streams[0])])
    learners[0].save(folder, 3, readers[0].state_dict(), 1.0)
    step, position, _ = learners[1].restore(folder, readers[1])
    assert step == 3
    readers[1].load_state_dict(position)
    streams.append(iter(readers[1]))
    for step in (4, 5):
        losses = [learner.step(step, [next(stream)])[0] for learner, stream in zip(learners, streams, strict=True)]
        assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    for stream in streams:
        stream.close()


def test_gradients_through_nccl_with_one_rank_are_the_plain_ones(tiny_cache: Path) -> None:
    cache = Cache.open(str(tiny_cache))
    config = short(student__dropout=0.0, train__device=DEVICE)
    gradients = []
    for distributed in (False, True):
        learner = Learner(build_student(cache, config), config, Ranks(device=torch.device(DEVICE)))
        reader = Loader(cache, cache.entries, Selection(()), 8.0, device=DEVICE)
        spans = [(entry, 0, min(entry.num_frames, 60)) for entry in cache.entries[:4]]
        batch = reader.read(spans, learner.objective.training_selection(0, 0))
        if distributed:
            backend = "nccl" if CUDA else "gloo"
            dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
        try:
            if distributed:
                learner.distributed = DistributedDataParallel(learner.objective, find_unused_parameters=True)
            loss, cosine, _ = learner.step(1, [batch])
        finally:
            if distributed:
                del learner.distributed
                dist.destroy_process_group()
        gradients.append((loss, cosine, float(learner.grad_norm)))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-4)


@real_gpu
def test_memory_that_runs_out_is_not_a_traceback(tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(GdistError, match="memory") as caught:
            extracted(tiny_teacher, speech, tmp_path / "cache", device=DEVICE)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert caught.value.hint
