"""Every encoding keeps its contract: the conformance tests run over the table of names."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gdist.pipeline.encodings import ENCODINGS, Encoding, encoding, unstorable
from gdist.pipeline.errors import ConfigError

# What each encoding makes of one vector, committed: caches written by old versions must keep decoding.
VECTOR = [0.0, 1.0, -2.5, 0.1, 3.1415927, -1e-3, 1234.5678, 65504.0]
GOLDEN = {
    "fp32": "000000000000803f000020c0cdcccc3ddb0f49406f1283ba2b529a4400e07f47",
    "fp16": "0000003c00c1662e48421994d364ff7b",
    "bf16": "0000803f20c0cd3d494083ba9a448047",
}
NORMAL = 2.0**-14  # the least positive normal number of half precision, the narrowest of them all


def test_golden_bytes_cover_the_table() -> None:
    assert set(GOLDEN) == set(ENCODINGS)


@pytest.mark.parametrize("name", ENCODINGS)
class TestContract:
    def test_table_and_name_agree(self, name: str) -> None:
        kind = encoding(name)
        assert kind.name == name
        assert np.dtype(kind.dtype).itemsize == kind.bytes_per_value
        assert type(kind).__doc__  # what `gdist encodings` prints

    @given(data=st.data())
    def test_round_trip_stays_within_the_stated_error(self, name: str, data: st.DataObject) -> None:
        kind = encoding(name)
        magnitude = st.floats(NORMAL, min(kind.largest, 2.0**100), width=32)
        values = st.builds(lambda x, sign: x * sign, magnitude, st.sampled_from([-1.0, 1.0])) | st.just(0.0)
        hidden = data.draw(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=values))
        decoded = decode(kind, kind.encode(torch.from_numpy(hidden)))
        assert decoded.dtype == torch.float32
        error = np.abs(decoded.numpy().astype(np.float64) - hidden)
        assert (error <= kind.relative_error * np.abs(hidden)).all()

    def test_the_stated_error_is_no_idle_promise(self, name: str) -> None:
        """A bound ten times too wide would hide a broken encoder."""
        kind = encoding(name)
        hidden = torch.linspace(1, 2, 10_001)[:, None]
        worst = ((decode(kind, kind.encode(hidden)) - hidden).abs() / hidden).max()
        assert kind.relative_error / 2 <= worst <= kind.relative_error

    def test_stored_array_is_as_declared(self, name: str) -> None:
        stored = encoding(name).encode(torch.randn(5, 7).T)  # not contiguous
        assert stored.dtype == np.dtype(encoding(name).dtype)
        assert stored.shape == (7, 5)

    def test_rounding_twice_changes_nothing(self, name: str) -> None:
        kind = encoding(name)
        once = kind.encode(torch.randn(64, 8))
        assert np.array_equal(kind.encode(decode(kind, once)), once)

    def test_fill_value_decodes_to_nan(self, name: str) -> None:
        kind = encoding(name)
        assert decode(kind, np.full((2, 3), kind.fill_value, dtype=kind.dtype)).isnan().all()

    def test_golden_bytes(self, name: str) -> None:
        kind = encoding(name)
        assert kind.encode(torch.tensor([VECTOR])).tobytes().hex() == GOLDEN[name]

    def test_old_caches_decode(self, name: str) -> None:
        kind = encoding(name)
        stored = np.frombuffer(bytes.fromhex(GOLDEN[name]), dtype=kind.dtype).reshape(1, -1).copy()
        np.testing.assert_allclose(kind.decode(stored)[0].numpy(), VECTOR, rtol=max(kind.relative_error, 1e-7))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    def test_non_finite_values_are_told(self, name: str, bad: float) -> None:
        hidden = torch.zeros(3, 4)
        hidden[1, 2] = hidden[2, 0] = bad
        assert unstorable(hidden, encoding(name)) == "2 non-finite values"

    def test_what_is_storable_is_stored_finite(self, name: str) -> None:
        kind = encoding(name)
        for value in (kind.largest, -kind.largest):
            hidden = torch.tensor([[value]])
            assert unstorable(hidden, kind) is None
            assert decode(kind, kind.encode(hidden)).isfinite().all()

    def test_too_large_is_told(self, name: str) -> None:
        kind = encoding(name)
        beyond = torch.nextafter(torch.tensor(kind.largest), torch.tensor(torch.inf))  # infinity itself for fp32
        reason = unstorable(torch.stack([torch.zeros(1), -beyond[None]]), kind)
        assert reason == "1 non-finite values" if beyond.isinf() else reason and f"overflow {name}" in reason


def decode(kind: Encoding, stored: np.ndarray[Any, Any]) -> torch.Tensor:
    return kind.decode(stored.copy())


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown encoding 'pf16'") as caught:
        encoding("pf16")
    assert caught.value.hint == "did you mean `fp16`?"
