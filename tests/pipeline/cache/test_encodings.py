"""Every encoding keeps its contract, and the additional promises of its kind.

Axes: B batch, T frames, C chunks of 128 frames, D features.
"""

from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from gdist.pipeline.cache.encodings import ENCODINGS, LAYERS, SCALES, Encoding, Stored, Tables, encoding
from gdist.pipeline.cache.encodings.floats import _Float
from gdist.pipeline.cache.encodings.integers import _Integers
from gdist.pipeline.cache.encodings.vectors import ResidualVectors
from gdist.pipeline.errors import ConfigError
from gdist.pipeline.extensions import Extension
from gdist.stages.testing import EncodingSuite
from gdist.stages.testing.encoding import VECTOR, speech_like

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
CHUNK = 128
NONE: Tables = {}
floats = pytest.mark.parametrize("name", [name for name, kind in ENCODINGS.own.items() if isinstance(kind, _Float)])
integers = pytest.mark.parametrize(
    "name", [name for name, kind in ENCODINGS.own.items() if isinstance(kind, _Integers)]
)
learned = pytest.mark.parametrize("name", [name for name, kind in ENCODINGS.own.items() if kind.calibrated])

# What each encoding makes of one vector, committed: caches written by old versions must keep decoding.


class TestFloat32(EncodingSuite):
    encoding = ENCODINGS.own["fp32"]
    golden: ClassVar = {LAYERS: "000000000000803f000020c0cdcccc3ddb0f49406f1283ba2b529a4400e07f470000e0c0"}


class TestFloat16(EncodingSuite):
    encoding = ENCODINGS.own["fp16"]
    golden: ClassVar = {LAYERS: "0000003c00c1662e48421994d364ff7b00c7"}


class TestBFloat16(EncodingSuite):
    encoding = ENCODINGS.own["bf16"]
    golden: ClassVar = {LAYERS: "0000803f20c0cd3d494083ba9a448047e0c0"}


class TestInt8(EncodingSuite):
    encoding = ENCODINGS.own["int8"]
    golden: ClassVar = {LAYERS: "60bb01b6b503bcba02", SCALES: "00767b697d4e9fb681"}
    golden_tolerance = (1 / 161, 0.0)  # a frame that is its own peak is off by half a step


class TestInt4(EncodingSuite):
    encoding = ENCODINGS.own["int4"]
    golden: ClassVar = {LAYERS: "e7d10dee00", SCALES: "00858b788c5daec590"}
    golden_tolerance = (1 / 11, 0.0)


class TestResidualVectors(EncodingSuite):
    encoding = ENCODINGS.own["rvq"]
    golden: ClassVar = {LAYERS: "070000"}
    # The table has this vector among its centroids, in half precision and units of 65,504.
    golden_tolerance = (1e-3, 2e-3)

    def golden_tables(self) -> Tables:
        dim = len(VECTOR)
        frames, groups = torch.zeros(2, 256, dim), torch.zeros(1, 256, 6)
        groups[0, 1:7] = torch.eye(6) * 0.0625
        frames[0, 7] = torch.tensor(VECTOR) / 65504
        frames[1, 3, :6] = torch.tensor([0.5, 0, 0, 0, 0, 0])
        frames[:, 255] = groups[:, 255] = torch.nan
        axes = torch.eye(dim)[:6]
        return {
            "mean": torch.zeros(dim), "scale": torch.tensor([65504.0]), "frames": frames.half(), "axes": axes.half(),
            "groups": groups.half(),
        }  # fmt: skip


def test_every_encoding_has_its_golden_bytes() -> None:
    tested = [TestFloat32, TestFloat16, TestBFloat16, TestInt8, TestInt4, TestResidualVectors]
    assert [suite().kind.name for suite in tested] == list(ENCODINGS.own)
    assert all(suite.golden and set(suite.golden) == set(suite().kind.parts(9)) for suite in tested)
    assert all(kind.name == name for name, kind in ENCODINGS.own.items())


class TestFp8(EncodingSuite):
    """The example of docs/extending.md: its second array has one row per frame."""

    encoding: ClassVar = Extension.read(f"{EXAMPLES / 'own_encoding.py'}:Fp8").load()
    golden: ClassVar = {LAYERS: "000489000b80507e94", SCALES: "db361243"}
    golden_tolerance = (2**-4, 2**-10 * 65504 / 448)  # for values much smaller than the frame's largest: half a step


@cache
def tables_of(name: str, dim: int = 64) -> Tables:
    return encoding(name).calibrate(speech_like(2_000, dim, seed=1)) if encoding(name).calibrated else NONE


def encode(kind: Encoding, hidden_TD: Tensor, tables: Tables) -> Stored:
    """One utterance alone."""
    stored = kind.encode(hidden_TD[None], torch.tensor([len(hidden_TD)]), tables)
    return {folder: rows[0] for folder, rows in stored.items()}


def decode(kind: Encoding, stored: Stored, tables: Tables) -> Tensor:
    return kind.decode(stored, torch.arange(len(stored[LAYERS])) // CHUNK, tables)


def round_trip(kind: Encoding, hidden_TD: Tensor, tables: Tables = NONE) -> Tensor:
    return decode(kind, encode(kind, hidden_TD, tables), tables)


def relative_error(decoded: Tensor, hidden: Tensor) -> float:
    return float((decoded - hidden).norm() / hidden.norm())


def half_steps(kind: _Integers, hidden_TD: Tensor) -> Tensor:
    """Half a step of each value: at most 2^¼ more than the chunk's peak needs, and at least the smallest step."""
    peaks = [chunk.abs().amax(0).expand_as(chunk) for chunk in torch.split(hidden_TD, CHUNK)]
    return (torch.cat(peaks) / kind.levels * 2**0.25).clamp_min(2.0**-36) / 2 * (1 + 1e-5)


@floats
class TestFloats:
    @given(data=st.data())
    def test_round_trip_stays_within_the_stated_error(self, name: str, data: st.DataObject) -> None:
        kind = encoding(name)
        # From the smallest positive normal number of half precision, the narrowest of them all.
        magnitude = st.floats(2.0**-14, min(kind.largest, 2.0**100), width=32)
        values = st.builds(lambda x, sign: x * sign, magnitude, st.sampled_from([-1.0, 1.0])) | st.just(0.0)
        hidden = data.draw(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=values))
        error = np.abs(round_trip(kind, torch.from_numpy(hidden)).numpy().astype(np.float64) - hidden)
        assert (error <= kind.relative_error * np.abs(hidden)).all()

    def test_rounding_twice_changes_nothing(self, name: str) -> None:
        once = round_trip(encoding(name), torch.randn(64, 8))
        assert torch.equal(round_trip(encoding(name), once), once)


@integers
class TestIntegers:
    @settings(max_examples=50, deadline=None)
    @given(data=st.data())
    def test_every_value_is_within_half_a_step(self, name: str, data: st.DataObject) -> None:
        kind = integer(name)
        values = st.floats(-kind.largest, kind.largest, width=32) | st.floats(-5, 5, width=32)
        shape = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
        hidden = torch.from_numpy(data.draw(hnp.arrays(np.float32, shape, elements=values)))
        assert ((round_trip(kind, hidden) - hidden).abs() <= half_steps(kind, hidden)).all()

    def test_every_value_is_within_half_a_step_across_chunks(self, name: str) -> None:
        hidden = torch.cat([speech_like(200), 100 * speech_like(200)])
        assert ((round_trip(encoding(name), hidden) - hidden).abs() <= half_steps(integer(name), hidden)).all()

    def test_outlier_channels_cost_the_others_nothing(self, name: str) -> None:
        kind, hidden = encoding(name), speech_like(300)
        hidden[:, 3] *= 1e4 / hidden[:, 3].abs().max()
        hidden[:, 4] *= 1e-3 / hidden[:, 4].abs().max()
        decoded = round_trip(kind, hidden)
        for channel in (3, 4, 5):
            assert relative_error(decoded[:, channel], hidden[:, channel]) < 2 * kind.relative_error

    def test_zeros_and_constants(self, name: str) -> None:
        hidden = torch.zeros(130, 3)
        hidden[:, 1] = -5.0
        hidden[:, 2] = 2.0**-149  # indistinguishable from zero
        decoded = round_trip(encoding(name), hidden)
        assert (decoded[:, [0, 2]] == 0).all()
        torch.testing.assert_close(decoded[:, 1], hidden[:, 1], rtol=0.09, atol=0)
        assert (decoded[:, 1] == decoded[0, 1]).all()

    def test_rounding_twice_changes_nothing(self, name: str) -> None:
        """The peak's code is no less than levels / 2^¼, rounded, so the same step is the smallest that reaches it."""
        once = round_trip(encoding(name), torch.randn(300, 8))
        assert torch.equal(round_trip(encoding(name), once), once)

    def test_values_change_sign_with_their_input(self, name: str) -> None:
        hidden = speech_like(150)
        assert torch.equal(round_trip(encoding(name), -hidden), -round_trip(encoding(name), hidden))


def test_int4_stores_the_first_feature_in_the_low_bits() -> None:
    """By hand, with peaks of 7, so that a step is 1."""
    stored = encode(encoding("int4"), torch.tensor([[7.0, -7.0, 7.0], [1.0, 2.0, -3.0]]), NONE)
    assert stored[SCALES].tolist() == [[144, 144, 144]]  # 2^(144 / 4 − 36) = 1
    assert stored[LAYERS].tolist() == [[14 | 0 << 4, 14], [8 | 9 << 4, 4]]  # 7 + value; the odd nibble is 0


@learned
class TestLearned:
    def test_the_same_sample_gives_the_same_tables(self, name: str) -> None:
        sample = speech_like(500)
        first, second = (encoding(name).calibrate(sample.clone()) for _ in range(2))
        assert list(first) == list(second)
        assert all(np.array_equal(first[key].numpy(), second[key].numpy(), equal_nan=True) for key in first)

    @pytest.mark.parametrize(("frames", "dim"), [(1, 32), (20, 32), (300, 32), (10, 192), (400, 5), (50, 1)])
    def test_small_samples_and_teachers_work(self, name: str, frames: int, dim: int) -> None:
        kind, sample = encoding(name), speech_like(frames, dim)
        tables = kind.calibrate(sample)
        decoded = round_trip(kind, sample, tables)
        assert decoded.isfinite().all()
        assert relative_error(decoded, sample) < 0.3
        if frames <= 20:  # a centroid for each
            torch.testing.assert_close(decoded, sample, rtol=0.01, atol=0.01)

    def test_the_mean_is_exact_where_nothing_varies(self, name: str) -> None:
        sample = torch.full((40, 64), 3.7)
        tables = encoding(name).calibrate(sample)
        torch.testing.assert_close(round_trip(encoding(name), sample, tables), sample)

    def test_constant_features_stay(self, name: str) -> None:
        sample = speech_like(600)
        sample[:, 7] = 1e3
        tables = encoding(name).calibrate(sample)
        torch.testing.assert_close(round_trip(encoding(name), sample, tables)[:, 7], sample[:, 7], rtol=1e-4, atol=0)

    def test_frames_not_in_the_sample_are_near(self, name: str) -> None:
        kind, unseen = encoding(name), speech_like(1_000, seed=7)
        assert relative_error(round_trip(kind, unseen, tables_of(name)), unseen) <= kind.relative_error

    def test_the_sample_is_not_changed(self, name: str) -> None:
        sample = speech_like(100)
        before = sample.clone()
        encoding(name).calibrate(sample)
        assert torch.equal(sample, before)

    def test_clusters_are_followed(self, name: str) -> None:
        """Frames of 50 kinds, spread evenly over all 64 directions: centroids help, principal axes do not."""
        noise = torch.Generator().manual_seed(3)
        kinds = torch.randn(50, 64, generator=noise)
        sample = kinds[torch.randint(50, (1_000,), generator=noise)] + 0.02 * torch.randn(1_000, 64, generator=noise)
        tables = encoding(name).calibrate(sample)
        assert relative_error(round_trip(encoding(name), sample, tables), sample) < 0.1


def integer(name: str) -> _Integers:
    kind = encoding(name)
    assert isinstance(kind, _Integers)
    return kind


def test_the_message_for_an_unknown_name_contains_the_nearest() -> None:
    with pytest.raises(ConfigError, match="--encoding pf16: there is no such encoding") as caught:
        encoding("pf16")
    assert caught.value.hint == "did you mean `fp16`?"


@integers
@pytest.mark.parametrize("frames", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("dim", [5, 48])
def test_all_chunks_at_once_give_the_same_bytes_as_one_by_one(name: str, frames: int, dim: int) -> None:
    """A GPU encodes all chunks at once."""
    kind = encoding(name)
    assert isinstance(kind, _Integers)
    hidden_BTD = torch.randn(3, frames, dim, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, dim)
    hidden_BTD[1, frames // 2 :] = 0
    one_by_one = kind.encode(hidden_BTD, torch.tensor([frames, frames // 2, frames]), NONE)
    padded_BTD = torch.nn.functional.pad(hidden_BTD, (0, 0, 0, -frames % CHUNK))
    code_BCTW, scale_BCD = kind.encode_chunks(padded_BTD.view(3, -1, CHUNK, dim))
    assert torch.equal(code_BCTW.flatten(1, 2)[:, :frames], one_by_one[LAYERS])
    assert torch.equal(scale_BCD, one_by_one[SCALES])
    norm_BCD = torch.linalg.vector_norm(padded_BTD.view(3, -1, CHUNK, dim), torch.inf, dim=2)  # a GPU's peaks
    assert torch.equal(norm_BCD, padded_BTD.view(3, -1, CHUNK, dim).abs().amax(2))


def test_blocks_at_once_give_the_same_numbers_as_one_by_one() -> None:
    kind = ResidualVectors()
    hidden_BTD = torch.randn(4, 384, 48, generator=torch.Generator().manual_seed(0))
    tables = kind.calibrate(hidden_BTD.flatten(0, 1))
    blocks_NTD = hidden_BTD.reshape(-1, CHUNK, 48)
    one_by_one = kind.encode_blocks(blocks_NTD, 1, tables)
    assert torch.equal(kind.encode(hidden_BTD, torch.full((4,), 384), tables)[LAYERS].flatten(0, 1), one_by_one)
    for at_once in (5, len(blocks_NTD)):
        assert torch.equal(kind.encode_blocks(blocks_NTD, at_once, tables), one_by_one)
