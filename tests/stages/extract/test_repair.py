"""`gdist verify --repair`: what was damaged is restored to the same bytes, and nothing else is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import contents, extracted, make_teacher

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.storage.objects import seal

Gdist = Callable[..., Result]


@pytest.fixture
def repaired(gdist: Gdist, own_cache: Path, tiny_teacher: Path) -> Callable[..., dict[str, Any]]:
    def run(*more: object) -> dict[str, Any]:
        result = gdist("verify", own_cache, "--repair", "--teacher", tiny_teacher, "--json", *more)
        assert result.exit_code == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    return run


def test_every_object_flipped_or_lost(
    own_cache: Path, tiny_cache: Path, speech: Path, repaired: Callable[..., dict[str, Any]]
) -> None:
    """Each object of the cache is damaged in turn. Exactly that object is written again, with the same bytes."""
    whole = contents(tiny_cache)
    per_kind = {key: key.split("/c/")[0].rstrip("0123456789.jsonpqut-") for key in whole}
    seen: set[str] = set()
    for key in whole:
        if per_kind[key] in seen and not key.endswith(("0003.json", "/c/3/0")):
            continue  # another object of the same kind would test nothing new
        seen.add(per_kind[key])
        for damage in ("flipped", "lost"):
            path = own_cache / key
            if damage == "lost":
                path.unlink()
            else:
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 1
                path.write_bytes(bytes(data))
            found = repaired(*(["--manifest", speech] if key.startswith("waveform/c") else []))
            assert found["ok"] and found["repaired"] == [key], (key, damage)
            assert contents(own_cache) == whole, (key, damage)
    assert len(seen) > 10


def test_an_intact_cache_is_left_unchanged(
    own_cache: Path, tiny_cache: Path, repaired: Callable[..., dict[str, Any]]
) -> None:
    assert repaired()["repaired"] == []
    assert contents(own_cache) == contents(tiny_cache)


def test_several_shards_at_once_and_nothing_else(
    own_cache: Path, tiny_cache: Path, repaired: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher runs over the audio of the damaged packs only, and stops at the highest damaged layer."""
    from gdist.stages.teachers import Teacher

    calls: list[tuple[int, int | None]] = []
    original = Teacher.hidden_states

    def counted(self: Teacher, waveform: Any, lengths: Any, last_layer: int | None = None) -> Any:
        calls.append((int(lengths.sum()), last_layer))
        return original(self, waveform, lengths, last_layer)

    monkeypatch.setattr(Teacher, "hidden_states", counted)
    for key in ("layers/01/c/2/0", "layers/00/c/2/0", "layers/02/c/7/0"):
        (own_cache / key).write_bytes(b"torn")
    assert sorted(repaired()["repaired"]) == ["layers/00/c/2/0", "layers/01/c/2/0", "layers/02/c/7/0"]
    assert contents(own_cache) == contents(tiny_cache)
    cache = Cache.open(str(tiny_cache))
    packs = [sum(e.num_samples for e in cache.pack_entries(pack)) for pack in (2, 7)]
    assert sum(samples for samples, last in calls if last == 1) == packs[0]
    assert sum(samples for samples, last in calls if last == 2) == packs[1]


def test_on_another_machine_the_receipt_is_updated(own_cache: Path, repaired: Callable[..., dict[str, Any]]) -> None:
    """If the last bits differ, the new shard is just as good, and the receipt is made to agree with it."""
    path = own_cache / "receipts/00004.json"
    receipt = json.loads(path.read_bytes())
    receipt["objects"]["layers/02/c/4/0"]["xxh3_128"] = "0" * 32  # as if other bits had been written
    path.write_bytes(seal(receipt, receipt))
    (own_cache / "layers/02/c/4/0").write_bytes(b"other bits")
    found = repaired()
    assert found["repaired"] == ["layers/02/c/4/0", "receipts/00004.json", "summaries/00000.json"] and found["ok"]


def test_missing_packs_are_extracted(
    own_cache: Path, tiny_cache: Path, speech: Path, repaired: Callable[..., dict[str, Any]]
) -> None:
    for key in [f"summaries/00000.{kind}" for kind in ("json", "parquet")]:
        (own_cache / key).unlink()
    for pack in (0, 8):
        (own_cache / f"receipts/{pack:05d}.json").unlink()
        for array in ("waveform", "layers/01", "layers/03"):
            (own_cache / f"{array}/c/{pack}/0").unlink()
    assert len(repaired("--manifest", speech)["repaired"]) == 2 * 4 + 2
    assert contents(own_cache) == contents(tiny_cache)


def test_a_grown_cache(gdist: Gdist, own_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    extracted(tiny_teacher, speech, folder, layers="0")
    extracted(tiny_teacher, speech, folder, layers="2")
    whole = contents(folder)
    for key in ("layers/02/c/1/0", "index.parquet", "layers/02/zarr.json", "receipts/00005-1.json"):
        (folder / key).unlink()
    assert gdist("verify", folder, "--repair", "--teacher", tiny_teacher).exit_code == 0  # no audio file is read
    assert contents(folder) == whole


class TestWhatCannotBeRepaired:
    def refused(self, gdist: Gdist, *arguments: object) -> str:
        result = gdist("verify", *arguments, "--repair")
        assert result.exit_code == 1 and "try: " in result.stderr
        return result.stderr.replace("\n", " ")

    def test_the_teacher_was_a_folder(self, gdist: Gdist, own_cache: Path) -> None:
        (own_cache / "layers/00/c/0/0").unlink()
        stderr = self.refused(gdist, own_cache)
        assert "but it was a local folder (tiny-wavlm)" in stderr and "--repair --teacher tiny-wavlm" in stderr

    def test_a_different_teacher(self, gdist: Gdist, own_cache: Path, tmp_path: Path) -> None:
        (own_cache / "layers/00/c/0/0").unlink()
        other = make_teacher(tmp_path / "other", seed=1)
        assert "is not the teacher" in self.refused(gdist, own_cache, "--teacher", other)

    def test_lost_audio_without_a_manifest(self, gdist: Gdist, own_cache: Path, tiny_teacher: Path) -> None:
        (own_cache / "waveform/c/3/0").unlink()
        stderr = self.refused(gdist, own_cache, "--teacher", tiny_teacher)
        assert "the audio of pack 3" in stderr and "--manifest M.parquet" in stderr

    def test_the_root_and_its_copy_are_missing(self, gdist: Gdist, own_cache: Path) -> None:
        (own_cache / "zarr.json").write_bytes(b"{}")
        (own_cache / "plans/00000.json").unlink()
        assert "does not describe a cache" in self.refused(gdist, own_cache)
