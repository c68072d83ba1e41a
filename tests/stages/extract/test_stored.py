"""Every encoding through all of stage one: planned, extracted, measured, resumed, extended and decoded."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import contents, extracted

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.cache.verify import verify

LOSSY = [name for name, kind in ENCODINGS.items() if not kind.lossless]


@pytest.fixture(scope="module")
def exact(tiny_teacher: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("exact") / "c"
    result = extracted(tiny_teacher, speech, folder, encoding="fp32")
    assert all(row["snr_db"] is None and row["cosine"] == 1 for row in result["layers"])
    return Cache.open(str(folder))


@pytest.mark.parametrize("name", LOSSY)
class TestEachEncoding:
    def test_the_reported_statistics_are_true(
        self, name: str, tiny_teacher: Path, speech: Path, tmp_path: Path, exact: Cache
    ) -> None:
        """Compared with the same extraction in fp32: the sampled eighth of the frames represents all of them."""
        result = extracted(tiny_teacher, speech, tmp_path, encoding=name)
        cache = Cache.open(str(tmp_path))
        spans = [(entry, 0, entry.num_frames) for entry in cache.entries]
        for row in result["layers"]:
            found, true = torch.cat(cache.hidden(row["layer"], spans)), torch.cat(exact.hidden(row["layer"], spans))
            error = float((found - true).norm() / true.norm())
            cosine = float(torch.nn.functional.cosine_similarity(found, true, dim=1).mean())
            assert row["relative_error"] == pytest.approx(error, rel=0.1)
            assert row["cosine"] == pytest.approx(cosine, abs=0.1 * (1 - cosine) + 1e-6)
            assert row["rms"] == pytest.approx(float(true.square().mean().sqrt()), rel=1e-4)
            assert row["max_abs"] == pytest.approx(float(true.abs().max()), rel=1e-4)
            assert error < 0.5
        assert verify(cache, lambda n=1, note="": None)["ok"]

    def test_resumed_and_repaired_to_the_same_bytes(
        self, name: str, tiny_teacher: Path, speech: Path, tmp_path: Path
    ) -> None:
        """What an encoding learns is learned once: a resumed run reads it."""
        extracted(tiny_teacher, speech, tmp_path / "whole", encoding=name)
        shutil.copytree(tmp_path / "whole", tmp_path / "c")
        for key in ("receipts/00002.json", "receipts/00007.json", "layers/01/c/2/0"):
            (tmp_path / "c" / key).unlink()
        assert extracted(tiny_teacher, speech, tmp_path / "c", encoding=name)["packs_resumed"] == 7
        assert contents(tmp_path / "c") == contents(tmp_path / "whole")
        extracted(tiny_teacher, speech, tmp_path / "again", encoding=name)
        assert contents(tmp_path / "again") == contents(tmp_path / "whole")

    def test_layers_added_later(
        self, name: str, tiny_teacher: Path, speech: Path, tmp_path: Path, exact: Cache
    ) -> None:
        extracted(tiny_teacher, speech, tmp_path / "whole", encoding=name)
        extracted(tiny_teacher, speech, tmp_path / "c", encoding=name, layers="0,2")
        extracted(tiny_teacher, speech, tmp_path / "c", encoding=name)
        whole, grown = contents(tmp_path / "whole"), contents(tmp_path / "c")
        for key in whole:
            if key.startswith(("layers/", "scales/")):
                assert grown[key] == whole[key], key
