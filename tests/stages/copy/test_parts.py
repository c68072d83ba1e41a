"""Copies that are caches of their own: fewer layers, fewer utterances, another encoding."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from conftest import contents, extracted
from test_copy import copied
from test_train import short

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.verify import verify
from gdist.pipeline.errors import CacheError, CacheMismatchError, UsageError
from gdist.stages.copy.copying import CopyConfig
from gdist.stages.train.train import train

Gdist = Callable[..., Result]
NAMED = ("zarr.json", "plans/00000.json")  # what names the source of a copy, beside what it is
QUIET: Any = lambda n=1, note="": None  # noqa: E731


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, speech: Path) -> Path:
    """A cache in fp32."""
    folder = tmp_path_factory.mktemp("exact") / "fp32"
    extracted(tiny_teacher, speech, folder, encoding="fp32")
    return folder


def without_names(folder: Path) -> dict[str, bytes]:
    return {key: data for key, data in contents(folder).items() if key not in NAMED}


def is_sound(folder: Path) -> bool:
    return bool(verify(Cache.open(str(folder)), QUIET)["ok"])


class TestAsExtracted:
    """What has an extraction's bytes has its identity too."""

    @pytest.mark.parametrize("encoding", ["fp16", "bf16", "int8", "int4"])
    def test_from_fp32(self, exact: Path, encoding: str, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        """Every shard, receipt and summary, also the statistics of each layer."""
        result = extracted(tiny_teacher, speech, tmp_path / "extracted", encoding=encoding)
        copy = copied(exact, tmp_path / "copied", encoding=encoding)
        assert without_names(tmp_path / "copied") == without_names(tmp_path / "extracted")
        assert copy["layers"] == result["layers"] and copy["bytes_sent"] > 0
        one, other = (Cache.open(str(tmp_path / name)) for name in ("copied", "extracted"))
        assert one.identity == other.identity
        assert one.gdist["about"]["copied_from"] == str(exact)
        assert one.gdist["about"]["copied_checksum"] == Cache.open(str(exact)).gdist["checksum"]
        assert one.gdist["about"]["copied_options"] == f"--encoding {encoding}"

    def test_fewer_layers(self, tiny_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        extracted(tiny_teacher, speech, tmp_path / "extracted", layers="0,2-3")
        result = copied(tiny_cache, tmp_path / "copied", layers="0,2-3")
        assert without_names(tmp_path / "copied") == without_names(tmp_path / "extracted")
        assert [row["layer"] for row in result["layers"]] == [0, 2, 3]
        again = copied(tiny_cache, tmp_path / "copied", layers="0,2-3")
        assert again["objects_sent"] == 0 and again["objects_kept"] == result["objects_sent"]
        # An extraction adds the layers that were left out.
        assert extracted(tiny_teacher, speech, tmp_path / "copied")["packs_resumed"] == 0
        whole, grown = Cache.open(str(tiny_cache)), Cache.open(str(tmp_path / "copied"))
        assert grown.layers == [0, 1, 2, 3]
        span = (whole.entries[3], 0, whole.entries[3].num_frames)
        assert torch.equal(whole.hidden(1, [span])[0], grown.hidden(1, [span])[0])

    def test_fewer_layers_of_a_learned_encoding(self, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        extracted(tiny_teacher, speech, tmp_path / "all", encoding="rvq")
        extracted(tiny_teacher, speech, tmp_path / "extracted", encoding="rvq", layers="1,3")
        copied(tmp_path / "all", tmp_path / "copied", layers="1,3")
        assert without_names(tmp_path / "copied") == without_names(tmp_path / "extracted")

    def test_a_teacher_may_repair_them(self, exact: Path, tiny_teacher: Path, tmp_path: Path, gdist: Gdist) -> None:
        copied(exact, tmp_path / "copied", encoding="int8", layers="1,2")
        whole = contents(tmp_path / "copied")
        (tmp_path / "copied/layers/02/c/4/0").write_bytes(b"torn")
        found = gdist("verify", tmp_path / "copied", "--repair", "--teacher", tiny_teacher)
        assert found.exit_code == 0 and contents(tmp_path / "copied") == whole

    def test_a_source_that_had_grown(
        self, tiny_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path
    ) -> None:
        """Layers that were added have receipts of their own; a copy has one for each pack."""
        for layers in ("0,2", "1,3"):
            extracted(tiny_teacher, speech, tmp_path / "grown", layers=layers)
        assert (tmp_path / "grown/receipts/00000-1.json").exists()
        copied(tmp_path / "grown", tmp_path / "whole")
        assert contents(tmp_path / "whole") == contents(tmp_path / "grown")
        copied(tmp_path / "grown", tmp_path / "some", layers="1-3")
        copied(tiny_cache, tmp_path / "expected", layers="1-3")
        assert without_names(tmp_path / "some") == without_names(tmp_path / "expected")


class TestByOtherMeans:
    """What no extraction gives: only another copy makes it again."""

    def test_learned_tables(self, exact: Path, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        """Extraction learns from utterances that ran alone, and a cache has them as they ran in batches. They differ
        by rounding, which axes of nearly equal variance and k-means amplify: other tables, and as good ones."""
        extracted(tiny_teacher, speech, tmp_path / "extracted", encoding="rvq")
        copied(exact, tmp_path / "copied", encoding="rvq")
        one, other, whole = (Cache.open(str(path)) for path in (tmp_path / "copied", tmp_path / "extracted", exact))
        assert one.identity["copied"] == [{"encoding": "fp32", "checksum": whole.gdist["checksum"]}]
        spans = [(entry, 0, entry.num_frames) for entry in whole.entries]
        for layer in whole.layers:
            for name in ("mean", "scale"):
                torch.testing.assert_close(one.tables[layer][name], other.tables[layer][name], atol=1e-5, rtol=1e-5)
            exact_FD = torch.cat(whole.hidden(layer, spans))
            errors = [torch.linalg.norm(torch.cat(cache.hidden(layer, spans)) - exact_FD) for cache in (one, other)]
            assert errors[0] > 0 and abs(errors[0] / errors[1] - 1) < 0.01
        assert is_sound(tmp_path / "copied")
        assert copied(exact, tmp_path / "copied", encoding="rvq")["objects_sent"] == 0

    def test_rounded_twice(self, tiny_cache: Path, exact: Path, tmp_path: Path) -> None:
        """From fp16 an int8 value is off by one step at most, and rarely."""
        copied(exact, tmp_path / "once", encoding="int8")
        result = copied(tiny_cache, tmp_path / "twice", encoding="int8")
        once, twice = (Cache.open(str(tmp_path / name)) for name in ("once", "twice"))
        assert twice.identity["copied"][0]["encoding"] == "fp16"
        assert {row["layer"]: row["relative_error"] < 0.012 for row in result["layers"]} == dict.fromkeys(
            range(4), True
        )
        spans = [(entry, 0, entry.num_frames) for entry in once.entries]
        for layer in once.layers:
            one, two = (torch.cat(cache.hidden(layer, spans)) for cache in (once, twice))
            assert torch.linalg.norm(one - two) / torch.linalg.norm(one) < 0.004

    def test_fewer_utterances(self, tiny_cache: Path, tmp_path: Path) -> None:
        """Their rows move to other packs, number for number."""
        result = copied(tiny_cache, tmp_path / "test", where=("split=te*",), layers="1,3")
        whole, some = Cache.open(str(tiny_cache)), Cache.open(str(tmp_path / "test"))
        assert [entry.id for entry in some.entries] == [e.id for e in whole.entries if e.labels["split"] == "test"]
        assert (result["utterances"], some.packs < whole.packs, is_sound(tmp_path / "test")) == (8, True, True)
        for entry in some.entries:
            assert entry.labels == whole.utterances[entry.id].labels
            assert torch.equal(some.layer(entry.id, 3), whole.layer(entry.id, 3))
            assert (some.audio(entry.id) == whole.audio(entry.id)).all()
        reported = {row["layer"]: row["relative_error"] for row in result["layers"]}
        assert reported[3] > 0, "what the source lost is lost here, too"
        two = copied(tiny_cache, tmp_path / "two", where=("split=test", "split=valid"))
        assert two["utterances"] == 16

    @pytest.mark.parametrize("encoding", ["bf16", "int8", "int4", "rvq"])
    def test_fewer_utterances_of_every_encoding(
        self, encoding: str, tiny_teacher: Path, speech: Path, tmp_path: Path
    ) -> None:
        extracted(tiny_teacher, speech, tmp_path / "all", encoding=encoding)
        copied(tmp_path / "all", tmp_path / "valid", where=("split=valid",))
        whole, some = Cache.open(str(tmp_path / "all")), Cache.open(str(tmp_path / "valid"))
        assert len(some.entries) == 8 and is_sound(tmp_path / "valid")
        for entry in some.entries:
            for layer in some.layers:
                assert torch.equal(some.layer(entry.id, layer), whole.layer(entry.id, layer))

    def test_a_teacher_may_not_touch_them(
        self, tiny_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path, gdist: Gdist
    ) -> None:
        """Repair and extraction say what to type instead, and that works."""
        folder, options = tmp_path / "some data", {"where": ("split=t*",), "encoding": "int8"}
        copied(tiny_cache, folder, **options)
        whole = contents(folder)
        (folder / "layers/02/c/1/0").write_bytes(b"torn")
        (folder / "receipts/00000.json").unlink()
        (folder / "teacher/config.json").write_bytes(b"{}")
        assert gdist("verify", folder).exit_code == 1
        repair = gdist("verify", folder, "--repair", "--teacher", tiny_teacher)
        assert repair.exit_code == 1
        command = f"gdist copy {tiny_cache} '{folder}' --encoding int8 --where 'split=t*'"
        assert command in repair.stderr
        again = gdist("copy", tiny_cache, folder, "--encoding", "int8", "--where", "split=t*", "--json")
        assert again.exit_code == 0 and json.loads(again.stdout)["objects_kept"] > 0
        assert contents(folder) == whole
        with pytest.raises(CacheMismatchError, match="was copied from"):
            extracted(tiny_teacher, speech, folder, encoding="int8")
        assert contents(folder) == whole

    def test_a_copy_of_a_copy(self, exact: Path, tmp_path: Path) -> None:
        """The order of the steps changes nothing but their record."""
        copied(exact, tmp_path / "a", where=("split=t*",))
        copied(tmp_path / "a", tmp_path / "ab", encoding="int8")
        copied(exact, tmp_path / "b", where=("split=t*",), encoding="int8")
        assert without_names(tmp_path / "ab") == without_names(tmp_path / "b")
        assert Cache.open(str(tmp_path / "ab")).identity == Cache.open(str(tmp_path / "b")).identity
        copied(tmp_path / "ab", tmp_path / "abc")
        assert contents(tmp_path / "abc") == contents(tmp_path / "ab")

    def test_training_and_reporting_read_them(self, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
        copied(tiny_cache, tmp_path / "c", encoding="int8", where=("split=*",))
        train(str(tmp_path / "c"), tmp_path / "run", short(), show_progress=False)
        assert gdist("eval", tmp_path / "run", "--probes", "none").exit_code in (0, 2)
        assert gdist("inspect", tmp_path / "c").exit_code == 0


class TestUnfinished:
    def test_packs_whose_utterances_are_not_there_wait(
        self, own_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path
    ) -> None:
        (own_cache / "receipts/00001.json").unlink()
        for name, options in (("layers", {"layers": "1"}), ("where", {"where": ("split=t*",)})):
            first = copied(own_cache, tmp_path / name, **options)
            assert first["packs_missing"], name
        extracted(tiny_teacher, speech, own_cache)
        for name, options in (("layers", {"layers": "1"}), ("where", {"where": ("split=t*",)})):
            assert copied(own_cache, tmp_path / name, **options)["packs_missing"] == []
            copied(own_cache, tmp_path / f"{name}-at-once", **options)
            assert contents(tmp_path / name) == contents(tmp_path / f"{name}-at-once")

    def test_another_source_at_the_same_place(self, tiny_cache: Path, exact: Path, tmp_path: Path) -> None:
        copied(tiny_cache, tmp_path / "c", where=("split=t*",))
        for source, where in ((exact, "split=t*"), (tiny_cache, "split=train")):
            with pytest.raises(CacheMismatchError, match="copied:"):
                copied(source, tmp_path / "c", where=(where,))

    def test_damage_is_found_and_written_again(self, tiny_cache: Path, tmp_path: Path) -> None:
        choices: tuple[dict[str, Any], ...] = ({"layers": "1,2"}, {"encoding": "int8"}, {"where": ("split=t*",)})
        for number, options in enumerate(choices):
            folder = tmp_path / str(number)
            copied(tiny_cache, folder, **options)
            whole = contents(folder)
            for key in ("layers/02/c/1/0", "waveform/c/0/0", "receipts/00002.json", "teacher/frontend.safetensors"):
                data = (folder / key).read_bytes()
                (folder / key).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            (folder / "summaries/00000.json").unlink()
            (folder / "index.parquet").unlink()
            copied(tiny_cache, folder, **options)
            assert contents(folder) == whole, options


class TestOptions:
    def test_finer_is_refused(self, tiny_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="has lost what fp32 would keep") as caught:
            copied(tiny_cache, tmp_path / "c", encoding="fp32")
        assert "gdist extract --encoding fp32" in (caught.value.hint or "")
        for own, finer in (("bf16", "fp16"), ("int8", "bf16"), ("int4", "int8"), ("rvq", "int4")):
            copied_from = tmp_path / own
            extracted(tiny_teacher, speech, copied_from, encoding=own)
            with pytest.raises(UsageError, match=f"--encoding {finer}: .* is stored in {own}"):
                copied(copied_from, tmp_path / "c", encoding=finer)
        assert not (tmp_path / "c").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layers": "7"}, "layers 0 to 3"),
            ({"layers": "x"}, "is not a layer"),
            ({"encoding": "int7"}, "there is no such encoding"),
            ({"where": ("split",)}, "it is not COLUMN=VALUE"),
            ({"where": ("colour=red",)}, "which has: .*split"),
            ({"where": ("split=nowhere",)}, "nothing in .* matches; it has test, train, valid"),
        ],
    )
    def test_impossible(self, options: dict[str, Any], message: str, tiny_cache: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=message):
            copied(tiny_cache, tmp_path / "c", **options)
        assert not (tmp_path / "c").exists()

    def test_layers_that_the_source_lacks(self, tiny_cache: Path, tmp_path: Path) -> None:
        copied(tiny_cache, tmp_path / "some", layers="1,3")
        with pytest.raises(UsageError, match=r"has the layers \[1, 3\], not \[2\]"):
            copied(tmp_path / "some", tmp_path / "c", layers="1-3")

    def test_all_that_there_is_is_a_plain_copy(self, tiny_cache: Path, tmp_path: Path) -> None:
        copied(tiny_cache, tmp_path / "c", layers="0-3", encoding="fp16")
        assert contents(tmp_path / "c") == contents(tiny_cache)

    def test_a_dry_run(self, tiny_cache: Path, exact: Path, tmp_path: Path, gdist: Gdist) -> None:
        for source, options in (
            (tiny_cache, ["--layers", "1"]),
            (exact, ["--encoding", "int8", "--where", "split=t*"]),
        ):
            found = json.loads(gdist("copy", source, tmp_path / "c", *options, "--dry-run", "--json").stdout)
            assert not (tmp_path / "c").exists()
            done = json.loads(gdist("copy", source, tmp_path / f"c{len(options)}", *options, "--json").stdout)
            assert done["bytes_sent"] < 1.1 * found["bytes"] and found["packs"] == done["packs"]

    def test_a_config_is_checked_before_anything_is_opened(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError):
            CopyConfig(str(tmp_path), str(tmp_path / "a"))

    def test_what_overflows_is_quarantined(
        self, exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from gdist.pipeline.cache.encodings import ENCODINGS

        peaks = [receipt["statistics"]["layers"]["03"]["max_abs"] for receipt in Cache.open(str(exact)).receipts()]
        monkeypatch.setattr(ENCODINGS["fp16"], "largest", sorted(peaks)[len(peaks) // 2])
        result = copied(exact, tmp_path / "c", encoding="fp16", layers="3")
        assert result["newly_quarantined"] and "overflow fp16" in next(iter(result["quarantine"].values()))

    def test_an_unreadable_source_is_no_copy(self, own_cache: Path, tmp_path: Path) -> None:
        shutil.rmtree(own_cache / "layers/02/c")
        with pytest.raises(CacheError, match=r"layers/02"):
            copied(own_cache, tmp_path / "c", encoding="int8")
        assert Cache.open(str(tmp_path / "c")).todo()
