"""A cache that grows: new utterances become new packs, new layers new arrays, and existing data is not touched."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import THOROUGH, contents, extracted
from test_cache import KilledError, die_after

from gdist.pipeline.cache import planning
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.verify import verify
from gdist.pipeline.errors import CacheError, CacheMismatchError
from gdist.pipeline.loading.splits import usable_entries
from gdist.pipeline.manifest.table import Manifest


def part_of(speech: Path, rows: Sequence[int], out: Path, drop: Sequence[str] = ()) -> Path:
    manifest = Manifest.read(speech)
    Manifest(manifest.table.take(list(rows)).drop_columns(list(drop)), manifest.root).write(out)
    return out


def sound(folder: Path) -> bool:
    return bool(verify(Cache.open(str(folder)), lambda n=1, note="": None)["ok"])


def immutable(folder: Path) -> dict[str, bytes]:
    """Everything except the documents that describe the cache as a whole."""
    whole = ("zarr.json", "index.parquet")
    return {key: data for key, data in contents(folder).items() if not key.endswith(whole)}


@pytest.fixture
def first(speech: Path, tmp_path: Path) -> Path:
    return part_of(speech, range(0, 30, 2), tmp_path / "first.parquet")


class TestUtterances:
    def test_new_packs_and_old_ones_untouched(
        self, tiny_teacher: Path, speech: Path, tiny_cache: Path, first: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "c"
        extracted(tiny_teacher, first, folder)
        before, old = immutable(folder), Cache.open(str(folder))
        result = extracted(tiny_teacher, speech, folder)  # the old ones stand between the new ones
        assert result["packs_resumed"] == old.packs and result["utterances"] == 30
        after = contents(folder)
        assert {key: after[key] for key in before} == before
        cache, whole = Cache.open(str(folder)), Cache.open(str(tiny_cache))
        assert cache.entries[:15] == old.entries and cache.packs > old.packs
        assert {entry.id for entry in cache.entries} == {entry.id for entry in whole.entries}
        assert min(entry.pack for entry in cache.entries[15:]) == old.packs
        there = {entry.id: entry for entry in whole.entries}
        for entry in cache.entries:
            span, other = (entry, 0, entry.num_frames), (there[entry.id], 0, entry.num_frames)
            assert entry.labels == there[entry.id].labels
            assert (cache.waveform([span])[0] == whole.waveform([other])[0]).all()
            torch.testing.assert_close(
                cache.hidden(2, [span])[0], whole.hidden(2, [other])[0], atol=4e-3, rtol=0
            )  # other batches, fp16
        assert sound(folder)
        again = contents(folder)
        extracted(tiny_teacher, speech, folder)
        assert contents(folder) == again

    def test_a_process_that_opened_the_old_plan_continues(
        self, tiny_teacher: Path, speech: Path, first: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "c"
        extracted(tiny_teacher, first, folder)
        old = Cache.open(str(folder))
        extracted(tiny_teacher, speech, folder)
        assert len(usable_entries(old)) == 15
        entry = old.entries[-1]
        assert old.hidden(1, [(entry, 0, entry.num_frames)])[0].isfinite().all()  # read only now
        again = Cache.open(str(folder), checksum=old.gdist["checksum"])
        assert again.entries == old.entries and again.gdist == old.gdist
        with pytest.raises(CacheError, match="is not the requested one"):
            Cache.open(str(folder), checksum="0" * 64)

    def test_twice_and_in_another_order(self, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        folder = tmp_path / "c"
        for stop in (8, 20, 30):
            rows = [*range(stop)][::-1] if stop == 20 else range(stop)
            extracted(tiny_teacher, part_of(speech, rows, tmp_path / f"{stop}.parquet"), folder)
        cache = Cache.open(str(folder))
        assert cache.gdist["generation"] == 2 and len(cache.entries) == 30 and sound(folder)
        assert len({entry.start_frame for entry in cache.entries}) == 30

    def test_growing_an_unfinished_cache_finishes_it(
        self, tiny_teacher: Path, speech: Path, first: Path, tmp_path: Path
    ) -> None:
        extracted(tiny_teacher, first, tmp_path / "c")
        (tmp_path / "c/receipts/00001.json").unlink()
        result = extracted(tiny_teacher, speech, tmp_path / "c")
        assert result["packs_resumed"] == Cache.open(str(tmp_path / "c")).gdist["additions"][0]["packs"][1] - 1
        assert sound(tmp_path / "c")

    def test_changed_or_missing_utterances_are_refused(
        self, tiny_teacher: Path, speech: Path, first: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "c"
        extracted(tiny_teacher, first, folder)
        before = contents(folder)
        fewer = part_of(speech, range(2, 30), tmp_path / "fewer.parquet")
        with pytest.raises(CacheMismatchError, match=r"manifest: \w+ → 1 of its utterances are not in this one"):
            extracted(tiny_teacher, fewer, folder)
        table = Manifest.read(speech).table
        starts = [start + 1 if row == 4 else start for row, start in enumerate(table["start"].to_pylist())]
        moved = table.set_column(table.column_names.index("start"), "start", [starts])
        Manifest(moved, Manifest.read(speech).root).write(tmp_path / "moved.parquet")
        with pytest.raises(CacheMismatchError, match=r"manifest: \w+ → the same utterances with other rows"):
            extracted(tiny_teacher, tmp_path / "moved.parquet", folder)
        assert contents(folder) == before

    def test_a_new_label_column_is_added(self, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        folder = tmp_path / "c"
        extracted(tiny_teacher, part_of(speech, range(30), tmp_path / "bare.parquet", ["speaker"]), folder)
        before = immutable(folder)
        assert extracted(tiny_teacher, speech, folder)["packs_resumed"] == 9
        cache = Cache.open(str(folder))
        assert all(entry.labels["speaker"] for entry in cache.entries) and sound(folder)
        assert {key: data for key, data in contents(folder).items() if key in before} == before


class TestLayers:
    def test_added_layers_equal_those_of_one_extraction(
        self, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "c"
        extracted(tiny_teacher, speech, folder, layers="1,3")
        before = immutable(folder)
        result = extracted(tiny_teacher, speech, folder)  # all
        assert result["packs_resumed"] == 0 and [row["layer"] for row in result["layers"]] == [0, 1, 2, 3]
        after, whole = contents(folder), contents(tiny_cache)
        assert {key: after[key] for key in before} == before
        for key in whole:
            if key.startswith(("layers/", "waveform/")):
                assert after[key] == whole[key], key
        assert sound(folder) and Cache.open(str(folder)).done() == set(range(9))

    def test_the_audio_files_are_not_needed(self, tiny_teacher: Path, tmp_path: Path, tiny_cache: Path) -> None:
        import soundfile

        cache = Cache.open(str(tiny_cache))
        for entry in cache.entries[:4]:
            samples = cache.waveform([(entry, 0, entry.num_frames)])[0]
            soundfile.write(tmp_path / f"{entry.id}.wav", samples, 16_000, subtype="PCM_16")
        rows = [
            {"id": e.id, "path": f"{e.id}.wav", "num_samples": e.num_samples, "sample_rate": 16_000}
            for e in cache.entries[:4]
        ]
        import pyarrow as pa

        Manifest(pa.Table.from_pylist(rows), str(tmp_path)).write(tmp_path / "m.parquet")
        extracted(tiny_teacher, tmp_path / "m.parquet", tmp_path / "c", layers="0")
        for path in tmp_path.glob("*.wav"):
            path.unlink()
        assert extracted(tiny_teacher, tmp_path / "m.parquet", tmp_path / "c", layers="2")["quarantined"] == 0
        assert Cache.open(str(tmp_path / "c")).layers == [0, 2] and sound(tmp_path / "c")

    def test_while_they_are_being_added_the_others_can_be_read(
        self, tiny_teacher: Path, speech: Path, tmp_path: Path
    ) -> None:
        extracted(tiny_teacher, speech, tmp_path / "c", layers="1")
        extracted(tiny_teacher, speech, tmp_path / "c", layers="3")
        for receipt in (tmp_path / "c/receipts").glob("*-1.json"):
            receipt.unlink()
        cache = Cache.open(str(tmp_path / "c"))
        span = (cache.entries[0], 0, 5)
        assert cache.hidden(1, [span])[0].isfinite().all() and cache.done() == set()
        with pytest.raises(CacheError, match="has no receipt"):
            cache.hidden(3, [span])

    def test_layers_and_utterances_at_once(
        self, tiny_teacher: Path, speech: Path, first: Path, tmp_path: Path
    ) -> None:
        extracted(tiny_teacher, first, tmp_path / "c", layers="0")
        extracted(tiny_teacher, speech, tmp_path / "c", layers="0,2")
        cache = Cache.open(str(tmp_path / "c"))
        assert [addition["layers"] for addition in cache.gdist["additions"]] == [[0], [2], [0, 2]]
        spans = [(entry, 0, entry.num_frames) for entry in cache.entries]
        assert all(piece.isfinite().all() for layer in (0, 2) for piece in cache.hidden(layer, spans))
        assert sound(tmp_path / "c")


@pytest.mark.thorough
def test_killed_anywhere_while_it_grows(
    tiny_teacher: Path, speech: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command again ends in the same bytes; until then the old plan or the new one can be read."""
    extracted(tiny_teacher, first, tmp_path / "start", layers="0,1")
    checksum = Cache.open(str(tmp_path / "start")).gdist["checksum"]

    whole = shutil.copytree(tmp_path / "start", tmp_path / "whole")
    extracted(tiny_teacher, speech, whole, layers="0-2")
    every = 1 if THOROUGH else 4
    for lives in itertools.chain(range(0, 28, every), itertools.count(28, 7 * every)):  # of planning, of packs
        folder = shutil.copytree(tmp_path / "start", tmp_path / str(lives))
        with monkeypatch.context() as patch:
            die_after(lives, patch)
            try:
                extracted(tiny_teacher, speech, folder, layers="0-2")
            except KilledError:
                pass
            else:
                break
        (folder / planning.LOCK).unlink(missing_ok=True)  # its owner, this very process, did not really die
        old = Cache.open(str(folder), checksum=checksum)
        span = (old.entries[-1], 0, 3)
        assert old.hidden(1, [span])[0].isfinite().all() and Cache.open(str(folder)).entries
        extracted(tiny_teacher, speech, folder, layers="0-2")
        assert contents(folder) == contents(whole), f"killed after {lives} operations"
        shutil.rmtree(folder)
    assert lives > 40


def test_a_run_continues_with_the_cache_it_started_from(
    tiny_teacher: Path, speech: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resumed after the cache grew: the same student, bit for bit, as if it had not grown."""
    from test_train import short

    from gdist.stages.train.train import train

    extracted(tiny_teacher, first, tmp_path / "c")
    train(str(tmp_path / "c"), tmp_path / "whole", short(), show_progress=False)
    train(str(tmp_path / "c"), tmp_path / "run", short(), show_progress=False)
    last = max((tmp_path / "run/checkpoints").iterdir())
    shutil.rmtree(last)
    shutil.rmtree(tmp_path / "run/student")
    extracted(tiny_teacher, speech, tmp_path / "c")
    train(str(tmp_path / "c"), tmp_path / "run", short(), show_progress=False)
    assert "has grown since" in capsys.readouterr().err
    assert contents(tmp_path / "run/student") == contents(tmp_path / "whole/student")
