"""What every encoding must guarantee.

Axes: B batch, T frames, C chunks of 128 frames, D features.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline.cache.encodings import ENCODINGS, LAYERS, Encoding, Stored, Tables
from gdist.pipeline.cache.layout import CHUNK_FRAMES
from gdist.stages.testing.suite import Suite, skip

DIM = 64
VECTOR = (0.0, 1.0, -2.5, 0.1, 3.1415927, -1e-3, 1234.5678, 65504.0, -7.0)


def speech_like(frames: int, dim: int = DIM, seed: int = 0) -> Tensor:
    """[T, D] like hidden states: a few slowly changing directions of unequal strength, with offsets and noise."""
    noise = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, dim, generator=torch.Generator().manual_seed(99)) * torch.linspace(2, 0.5, 8)[:, None]
    steps = torch.randn(frames + 5, 8, generator=noise).unfold(0, 6, 1).mean(2) * 2
    return steps @ mixing + torch.linspace(-1, 1, dim) + 0.05 * torch.randn(frames, dim, generator=noise)


class EncodingSuite(Suite):
    """An encoding returns its input within its stated error, independently of the rest of the batch.

    Attributes:
        encoding: the encoding, or its class, which can be instantiated without arguments.
        golden: folder → what ``VECTOR`` is stored as, in hex. Commit it: future code must be able to read caches that
            today's code wrote, and a test that only writes and reads cannot check this.
        golden_tolerance: the relative and absolute tolerance for the decoded ``VECTOR``; None means the encoding's
            ``relative_error``.
    """

    encoding: ClassVar[Encoding | type[Encoding]]
    golden: ClassVar[Mapping[str, str] | None] = None
    golden_tolerance: ClassVar[tuple[float, float] | None] = None
    _tables: ClassVar[dict[tuple[Any, int], Tables]] = {}

    def cases(self) -> Mapping[str, Iterable[Any]]:
        return {
            "frames_and_dim": [(1, 7), (5, 33), (128, 64), (300, 64)],
            "fraction": [1.0, -1.0, 1e-3, 1e-45],
        }

    @property
    def kind(self) -> Encoding:
        return self.encoding() if isinstance(self.encoding, type) else self.encoding

    def tables(self, dim: int = DIM) -> Tables:
        """Return what the encoding learns from some frames; nothing for most encodings."""
        known, kind = (self.encoding, dim), self.kind
        if known not in self._tables:
            self._tables[known] = kind.calibrate(speech_like(2_000, dim, seed=1)) if kind.calibrated else {}
        return self._tables[known]

    def golden_tables(self) -> Tables:
        """Return the tables that ``golden`` was made with, for an encoding that learns.

        They are written by hand, since what is learned may differ in the last bits between machines.
        """
        return {}

    def encode(self, hidden_TD: Tensor, tables: Tables) -> Stored:
        """Encode one utterance alone."""
        stored = self.kind.encode(hidden_TD[None], torch.tensor([len(hidden_TD)]), tables)
        return {folder: rows[0] for folder, rows in stored.items()}

    def decode(self, stored: Stored, tables: Tables) -> Tensor:
        return self.kind.decode(stored, torch.arange(len(stored[LAYERS])) // CHUNK_FRAMES, tables)

    def round_trip(self, hidden_TD: Tensor, tables: Tables) -> Tensor:
        return self.decode(self.encode(hidden_TD, tables), tables)

    def test_gdist_takes_it_and_it_says_what_it_is(self) -> None:
        kind = self.kind
        with ENCODINGS.lent(kind.name, self.encoding) as row:
            assert row.name == kind.name
        assert type(kind).__doc__, "the first line of its docstring is what `gdist encodings` prints"
        assert LAYERS in kind.parts(DIM), f"what is stored for each frame must be in the folder {LAYERS!r}"
        assert not kind.parts(DIM)[LAYERS].per_chunk
        row_bytes = [
            np.dtype(part.dtype).itemsize * part.width / (CHUNK_FRAMES if part.per_chunk else 1)
            for part in kind.parts(768).values()
        ]
        assert abs(sum(row_bytes) / 768 - kind.bytes_per_value) <= 1e-6 * kind.bytes_per_value

    def test_stored_arrays_are_as_declared(self, frames_and_dim: tuple[int, int]) -> None:
        frames, dim = frames_and_dim
        kind, tables = self.kind, self.tables(dim)
        hidden_BTD = speech_like(3 * frames, dim).view(3, frames, dim)
        stored = kind.encode(hidden_BTD, torch.tensor([frames] * 3), tables)
        assert set(stored) == set(kind.parts(dim))
        for folder, part in kind.parts(dim).items():
            assert stored[folder].numpy().dtype == np.dtype(part.dtype), folder
            assert stored[folder].shape == (3, -(-frames // CHUNK_FRAMES) if part.per_chunk else frames, part.width)
            assert not (stored[folder].numpy() == part.fill_value).any(), f"{folder} has the mark of a missing row"
        decoded = self.decode({folder: rows[0] for folder, rows in stored.items()}, tables)
        assert decoded.dtype == torch.float32
        assert decoded.shape == (frames, dim)

    def test_the_stated_error_is_kept_and_is_not_too_wide(self) -> None:
        """A bound that is ten times too wide would hide a broken encoder."""
        hidden = speech_like(1_000)
        error = float((self.round_trip(hidden, self.tables()) - hidden).norm() / hidden.norm())
        assert self.kind.relative_error / 10 <= error <= self.kind.relative_error

    def test_an_utterance_is_the_same_in_any_batch(self) -> None:
        tables = self.tables()
        utterances = [speech_like(frames, seed=frames) for frames in (300, 1, 57, 128, 129)]
        padded = torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True)
        together = self.kind.encode(padded, torch.tensor([len(u) for u in utterances]), tables)
        for i, utterance in enumerate(utterances):
            for folder, rows in self.encode(utterance, tables).items():
                assert torch.equal(together[folder][i, : len(rows)].view(torch.uint8), rows.view(torch.uint8)), folder

    def test_input_may_be_strided_and_is_not_changed(self) -> None:
        tables, hidden = self.tables(), speech_like(200)[None]
        strided = torch.empty(1, DIM, 200).transpose(1, 2).copy_(hidden)
        before = strided.clone()
        stored, expected = (self.kind.encode(x, torch.tensor([200]), tables) for x in (strided, hidden))
        assert torch.equal(strided, before)
        assert all(torch.equal(stored[folder], expected[folder]) for folder in expected)

    def test_frames_decode_in_any_order(self) -> None:
        kind, tables = self.kind, self.tables()
        stored = self.encode(speech_like(300), tables)
        frames = torch.tensor([299, 3, 130, 3, 128, 127])
        chosen = {
            folder: stored[folder] if part.per_chunk else stored[folder][frames]
            for folder, part in kind.parts(DIM).items()
        }
        part_TD = kind.decode(chosen, frames // CHUNK_FRAMES, tables)
        within = 1e-5 if kind.calibrated else 0.0  # it uses matrix products, whose last bits depend on their shapes
        torch.testing.assert_close(part_TD, self.decode(stored, tables)[frames], rtol=within, atol=within)

    def test_decode_into_copies_the_frames_in_order(self) -> None:
        kind, tables = self.kind, self.tables()
        stored, chunk_T = self.encode(speech_like(300), tables), torch.arange(300) // CHUNK_FRAMES
        out = [torch.full((frames, DIM), torch.nan) for frames in (1, 199, 0, 100)]
        kind.decode_into(out, stored, chunk_T, tables)
        assert torch.equal(torch.cat(out), kind.decode(stored, chunk_T, tables))

    def test_no_frames_decode_to_no_frames(self) -> None:
        tables = self.tables()
        stored = {folder: rows[:0] for folder, rows in self.encode(speech_like(3), tables).items()}
        assert self.decode(stored, tables).shape == (0, DIM)

    def test_rows_that_were_never_written_decode_to_nan(self) -> None:
        kind, tables = self.kind, self.tables(33)
        stored = self.encode(speech_like(3, 33), tables)
        for folder, part in kind.parts(33).items():
            missing = stored[folder].clone()
            missing[0 if part.per_chunk else 1] = torch.tensor(part.fill_value).to(missing.dtype)
            decoded = self.decode(stored | {folder: missing}, tables)
            lost = torch.tensor([part.per_chunk, True, part.per_chunk])
            assert torch.equal(decoded.isnan(), lost[:, None].expand(3, 33))

    def test_values_up_to_the_largest_stay_finite(self, fraction: float) -> None:
        hidden = torch.zeros(3, DIM)
        hidden[1] = self.kind.largest * fraction
        hidden[2, 5] = self.kind.largest * fraction
        assert self.round_trip(hidden, self.tables()).isfinite().all()

    def test_golden_bytes(self) -> None:
        stored = self.encode(torch.tensor([VECTOR]), self.golden_tables())
        found = {folder: rows.numpy().tobytes().hex() for folder, rows in stored.items()}
        if self.golden is None:
            skip(f"future versions must read today's caches: write golden = {found} into the suite's class")
        assert found == self.golden

    def test_old_caches_decode(self) -> None:
        if self.golden is None:
            skip("the suite's class has no `golden`: see test_golden_bytes")
        stored = {
            folder: torch.from_numpy(np.frombuffer(bytes.fromhex(self.golden[folder]), part.dtype).copy())[None]
            for folder, part in self.kind.parts(len(VECTOR)).items()
        }
        decoded = self.decode(stored, self.golden_tables())[0].numpy()
        rtol, atol = self.golden_tolerance or (max(self.kind.relative_error, 1e-7), 0.0)
        np.testing.assert_allclose(decoded, VECTOR, rtol=rtol, atol=atol)
