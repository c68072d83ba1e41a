"""Batches for a GPU, put together from one block of memory: the same as those of a CPU, for every encoding.

Reading, placing and decoding are the same code on any device, so they run here on the CPU. Axes: B batch, L layers,
T frames, D features, S samples.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from identities import ABOUT, NOBODYS

from gdist.pipeline.cache import layout
from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encode import COMPRESS
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.cache.plan import WAVEFORM, Plan, layer_name
from gdist.pipeline.cache.stage import Stage
from gdist.pipeline.cache.wanted import samples_of
from gdist.pipeline.errors import CacheDamagedError
from gdist.pipeline.framing import WAV2VEC2
from gdist.pipeline.loading import on_device
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.in_memory import InMemory, Tensors
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.on_device import OnDevice

DIM, PACK = 33, 512  # an odd number of features: int4 has half a byte left
SAMPLES = [400, 41_000, 41_040, 100_000, 9_000, 64_000]
LAYERS = (1, 2, 4)


def write(uri: str, encoding: str) -> Cache:
    """Write a cache of five layers of noise."""
    rng = np.random.default_rng(0)
    entries = layout.place([(f"u{i}", n, None) for i, n in enumerate(SAMPLES)], 10**9, pack_frames=PACK)
    identity = {"layers": [*range(5)], "dim": DIM, "encoding": encoding, "chunk_frames": 128, "pack_frames": PACK}
    identity |= {"compress": COMPRESS, "framing": WAV2VEC2.to_dict()}
    kind, files = ENCODINGS.own[encoding], {}
    tables = kind.calibrate(torch.from_numpy(rng.standard_normal((600, DIM), np.float32)))
    if tables:
        # Each layer has tables of its own.
        named = {f"{layer}.{name}": table * (1 + layer) for layer in range(5) for name, table in tables.items()}
        files["tables-0.safetensors"] = safetensors.torch.save(named)
    cache = Cache.create(uri, Plan(NOBODYS | identity, ABOUT, entries, teacher_files=files))
    for task in cache.todo():
        rows = {name: spec.empty_pack() for name, spec in cache.specs.items()}
        for entry in cache.pack_entries(task.pack):
            start = entry.start_frame - task.pack * PACK
            for layer in range(5):
                hidden_BTD = torch.from_numpy(rng.standard_normal((1, entry.num_frames, DIM), np.float32))
                stored = kind.encode(hidden_BTD, torch.tensor([entry.num_frames]), cache.tables[layer])
                for folder, values in stored.items():
                    destination = rows[layer_name(layer, folder)]
                    at = start * len(destination) // PACK
                    destination[at : at + values.shape[1]] = values[0].numpy()
            samples = rng.integers(-32_767, 32_768, entry.num_samples)
            rows[WAVEFORM][start : start + entry.num_rows(WAV2VEC2)].reshape(-1)[: entry.num_samples] = samples
        cache.commit(task, rows, {}, {})
    return cache


@pytest.fixture(scope="module", params=list(ENCODINGS.own))
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write(str(tmp_path_factory.mktemp("cache") / request.param), request.param)


def read(reader: InMemory | OnDevice, spans: Sequence[Span], selection: Selection) -> Tensors:
    num_frames = [n for _, _, n in spans] or [1]
    num_samples = [stop - start for start, stop in (samples_of(span, WAV2VEC2) for span in spans)] or [400]
    return reader.read(spans, selection, num_frames, num_samples)


def whole(cache: Cache) -> list[Span]:
    return [(entry, 0, entry.num_frames) for entry in cache.entries]


def crops(cache: Cache) -> list[Span]:
    """Within one chunk, across chunks, up to the end; some utterances only, in another order."""
    e = cache.entries
    return [(e[3], 130, 40), (e[1], 60, 67), (e[5], 128, 71), (e[0], 0, 1), (e[3], 5, 300)]


@pytest.mark.parametrize("resident", [False, True])
class TestBesidesTheCpu:
    @pytest.mark.parametrize("decode_bytes", [256_000_000, 4 * 700 * DIM * 2, 1])
    def test_the_same_bits(
        self, cache: Cache, resident: bool, decode_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ragged rows and crops, with all layers decoded at once, some of them, and one by one."""
        monkeypatch.setattr(on_device, "DECODE_BYTES", decode_bytes)
        staged, plain = OnDevice(cache, resident, "cpu", False), InMemory(cache, resident, 2)
        for spans in (whole(cache), crops(cache), crops(cache)[:1]):
            for selection in (Selection(LAYERS), Selection((3,), waveforms=False), Selection(())):
                found, expected = read(staged, spans, selection), read(plain, spans, selection)
                assert found.hidden_BLTD.shape == expected.hidden_BLTD.shape
                # Matrix products have last bits that depend on what else is decoded with them.
                within = 1e-5 if cache.encoding.calibrated else 0.0
                torch.testing.assert_close(found.hidden_BLTD, expected.hidden_BLTD, rtol=within, atol=within)
                for row, (_, _, frames) in enumerate(spans):
                    assert not found.hidden_BLTD[row, :, frames:].any()
                assert found.num_frames_B.equal(expected.num_frames_B)
                assert found.num_samples_B.equal(expected.num_samples_B)
                if selection.waveforms:
                    assert found.waveform_BS is not None and expected.waveform_BS is not None
                    assert found.waveform_BS.dtype == torch.float32
                    assert found.waveform_BS.equal(expected.waveform_BS)
                else:
                    assert found.waveform_BS is None

    def test_a_rank_without_rows_gets_silence(self, cache: Cache, resident: bool) -> None:
        found = read(OnDevice(cache, resident, "cpu", False), [], Selection(LAYERS))
        assert found.hidden_BLTD.shape == (1, 3, 1, DIM) and not found.hidden_BLTD.any()
        assert found.waveform_BS is not None and found.waveform_BS.shape == (1, 400) and not found.waveform_BS.any()
        assert found.num_frames_B.tolist() == [1] and found.num_samples_B.tolist() == [400]

    def test_the_block_does_not_outlive_the_batch(self, cache: Cache, resident: bool) -> None:
        """Otherwise a batch's memory would hold what is stored too."""
        found = read(OnDevice(cache, resident, "cpu", False), whole(cache), Selection(LAYERS))
        for tensor in found:
            assert tensor is not None
            assert tensor.untyped_storage().nbytes() <= 2 * tensor.numel() * tensor.element_size()

    def test_a_row_that_was_never_written_is_named(
        self, cache: Cache, resident: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is looked for in what was read, on the CPU, and never becomes part of a batch."""
        victim, original = cache.entries[3], Cache._read

        def unwritten(self: Cache, name: str, ranges: list[tuple[int, int]], *rest: object) -> object:
            rows = original(self, name, ranges, *rest)  # type: ignore[arg-type]
            if name == layer_name(2, "layers"):
                before = sum(stop - start for start, stop in ranges[:3])
                rows[before + 7] = self.specs[name].fill_value
            return rows

        monkeypatch.setattr(Cache, "_read", unwritten)
        with pytest.raises(CacheDamagedError, match=f"layers/02 .* utterance {victim.id} is missing"):
            read(OnDevice(cache, resident, "cpu", False), whole(cache), Selection(LAYERS))


def test_audio_may_stay_on_the_cpu(cache: Cache) -> None:
    selection = Selection(LAYERS)
    found = read(OnDevice(cache, False, "cpu", True), crops(cache), selection)
    expected = read(OnDevice(cache, False, "cpu", False), crops(cache), selection)
    assert found.waveform_BS is not None and expected.waveform_BS is not None
    assert found.waveform_BS.equal(expected.waveform_BS)


def test_lengths_and_mask_of_a_batch(tiny_cache: Path) -> None:
    opened = Cache.open(str(tiny_cache))
    for batch in islice(Loader(opened, opened.entries, Selection((0, 3)), 20.0, crop_seconds=2.0), 4):
        assert batch.num_frames_on_device_B.equal(batch.num_frames_B)
        assert batch.num_samples_on_device_B.equal(batch.num_samples_B)
        assert batch.mask_BT.sum(1).equal(batch.num_frames_B) and batch.on_device == []


class TestStage:
    def test_arrays_keep_their_types_and_do_not_overlap(self) -> None:
        shapes = {
            "a": ((3, 5), "float16"), "b": ((7,), "uint8"), "none": ((2, 0, 4), "float32"), "c": ((2, 2), "int64"),
            "d": ((3,), "uint16"), "e": ((4, 1), "bool"),
        }  # fmt: skip
        stage = Stage(shapes, "cpu")
        rng = np.random.default_rng(0)
        expected = {name: rng.integers(0, 2, shape).astype(dtype) for name, (shape, dtype) in shapes.items()}
        for name, values in expected.items():
            stage.arrays[name][:] = values
        there = stage.send()
        assert list(there) == list(shapes)
        for name, values in expected.items():
            assert there[name].dtype == torch.from_numpy(values).dtype
            assert np.array_equal(there[name].numpy(), values)
