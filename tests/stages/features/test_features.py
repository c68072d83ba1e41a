"""Features out: every format, read back by its own tool, has what the cache returns; killed and resumed alike."""

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import contents, extracted, mounted

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import CacheDamagedError, CacheError, RunError, UsageError
from gdist.stages.features import selection as selections
from gdist.stages.features.exporting import FeaturesConfig, export_features
from gdist.stages.features.folder import OutFolder
from gdist.stages.features.formats import FORMATS
from gdist.stages.features.names import file_name

Gdist = Callable[..., Result]
Matrices = dict[str, dict[str, np.ndarray[Any, Any]]]
SMALL = 50_000  # bytes in a piece: several pieces of the 30 utterances


def exported(cache: Path | str, out: Path, **options: Any) -> dict[str, Any]:
    """Export in this process, in small pieces."""
    settings = {"piece_bytes": SMALL} | options
    return export_features(FeaturesConfig(str(cache), out, **settings), show_progress=False)


# --- each format's own reader: name of a matrix → id → [T, D] -------------------------------------------------------


def from_npy(folder: Path, names: list[str]) -> Matrices:
    found: Matrices = {name: {} for name in names}
    for text in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        stored = np.load(folder / row["file"], allow_pickle=False)
        for name, matrix_TD in zip(names, stored if len(names) > 1 else [stored], strict=True):
            assert len(matrix_TD) == row["frames"]
            found[name][row["id"]] = matrix_TD
    return found


def from_kaldi(folder: Path, names: list[str]) -> Matrices:
    import kaldiio

    at = {name: folder / name if len(names) > 1 else folder for name in names}
    return {name: dict(kaldiio.load_scp(str(at[name] / "feats.scp")).items()) for name in names}


def from_lhotse(folder: Path, names: list[str]) -> Matrices:
    from lhotse import FeatureSet
    from lhotse.qa import validate

    found: Matrices = {}
    for name in names:
        features = FeatureSet.from_file(folder / f"{name if len(names) > 1 else 'features'}.jsonl.gz")
        validate(features, read_data=True)
        found[name] = {each.recording_id: each.load() for each in features}
    return found


def from_hf(folder: Path, names: list[str]) -> Matrices:
    import datasets

    rows = datasets.load_dataset(
        str(folder), split="train", cache_dir=str(folder.parent / "hf"), keep_in_memory=True
    ).with_format("numpy")
    assert {"id", "frames", "speaker", "split", *names} <= set(rows.column_names)
    # NumPy's formatter makes float32 of any other float.
    stored = {name: rows.features[name].dtype for name in names}
    return {name: {row["id"]: row[name].astype(stored[name]) for row in rows} for name in names}


def from_webdataset(folder: Path, names: list[str]) -> Matrices:
    import webdataset

    shards = sorted(map(str, folder.glob("features-*.tar")))
    found: Matrices = {name: {} for name in names}
    for sample in webdataset.WebDataset(shards, shardshuffle=False).decode():
        for name in names:
            found[name][sample["json"]["id"]] = sample[f"{name}.npy"]
    return found


def from_zarr(folder: Path, names: list[str]) -> Matrices:
    import zarr

    group: Any = zarr.open_group(str(folder), mode="r")
    ids = [json.loads(text)["id"] for text in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    spans = list(zip(ids, group["offsets"][:].tolist(), group["frames"][:].tolist(), strict=True))
    return {name: {key: group[name][first : first + n] for key, first, n in spans} for name in names}


READERS: dict[str, Callable[[Path, list[str]], Matrices]] = {
    name: globals()[f"from_{name}"] for name in FORMATS
}  # a format without a reader fails here


def expected(cache: Cache, name: str, utterance: str) -> torch.Tensor:
    return cache.layer(utterance, int(name.removeprefix("layer_")))


class TestFormats:
    @pytest.mark.parametrize("to", FORMATS)
    @pytest.mark.parametrize("layers", ["2", "1,3"])
    def test_its_own_tool_reads_what_the_cache_returns(
        self, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, layers: str
    ) -> None:
        monkeypatch.setattr("gdist.stages.features.formats.zarr.CHUNK", 100)
        result = exported(tiny_cache, tmp_path / "out", to=to, layers=layers)
        cache = Cache.open(str(tiny_cache))
        assert result["pieces"] > 2 and result["utterances"] == 30 and result["left_out"] == 0
        found = READERS[to](tmp_path / "out", result["matrices"])
        assert list(found) == [f"layer_{int(layer):02d}" for layer in layers.split(",")]
        for name, by_id in found.items():
            assert by_id.keys() == cache.utterances.keys()
            for utterance, matrix_TD in by_id.items():
                assert matrix_TD.dtype == np.float32
                assert np.array_equal(matrix_TD, expected(cache, name, utterance).numpy()), (to, utterance)

    @pytest.mark.parametrize("to", [name for name in FORMATS if name != "kaldi"])
    def test_half_precision(self, tiny_cache: Path, tmp_path: Path, to: str) -> None:
        exported(tiny_cache, tmp_path / "out", to=to, layers="3", dtype="float16", where=("split=test",))
        cache = Cache.open(str(tiny_cache))
        (by_id,) = READERS[to](tmp_path / "out", ["layer_03"]).values()
        assert by_id.keys() == {key for key, entry in cache.utterances.items() if entry.labels["split"] == "test"}
        for utterance, matrix_TD in by_id.items():
            assert matrix_TD.dtype == np.float16
            assert np.array_equal(matrix_TD, cache.layer(utterance, 3).half().numpy())

    @pytest.mark.parametrize("to", [*FORMATS, "km"])
    def test_stopped_anywhere_and_started_again_it_is_the_same(
        self, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
    ) -> None:
        """Within a piece, before its record, and while the index is written."""
        options: dict[str, Any] = {"to": to, "layers": "1"} if to != "km" else {"clusters": 5, "layers": "1"}
        out = tmp_path / "out"
        whole = exported(tiny_cache, out, **options)
        wanted = contents(out)
        shutil.rmtree(out)
        commit, read, finish = OutFolder.commit, selections.Selection.read, OutFolder.rows

        def cut(self: Any, entries: Any) -> Iterator[Any]:
            for number, utterance in enumerate(read(self, entries)):
                if number == 2 and len(list(out.rglob(".gdist-features/*.json"))) >= 2:
                    raise KeyboardInterrupt
                yield utterance

        def interrupt(self: Any, *arguments: Any) -> Any:
            if arguments[0] == 3 or len(arguments) == 1:
                raise KeyboardInterrupt
            return commit(self, *arguments)

        for owner, method, patched in (
            (selections.Selection, "read", cut),
            (OutFolder, "commit", interrupt),
            (OutFolder, "rows", interrupt),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(owner, method, patched)
                with pytest.raises(KeyboardInterrupt):
                    exported(tiny_cache, out, **options)
            assert not json.loads((out / "gdist-features.json").read_bytes())["finished"]
        assert finish is OutFolder.rows
        again = exported(tiny_cache, out, **options)
        assert again["pieces_resumed"] == again["pieces"] == whole["pieces"] > 4
        assert contents(out) == wanted
        assert again | {"seconds": 0, "pieces_resumed": 0} == whole | {"seconds": 0}

    def test_finished_pieces_are_not_read_again(
        self, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pieces = exported(tiny_cache, tmp_path / "out", to="npy", layers="0")["pieces"]
        wanted = contents(tmp_path / "out")
        lost = next((tmp_path / "out").glob("features/00002/*.npy"))
        lost.write_bytes(b"cut")
        read: list[int] = []
        hidden = Cache.hidden

        def counted(self: Cache, layer: int, spans: Any) -> list[torch.Tensor]:
            read.append(layer)
            return hidden(self, layer, spans)

        monkeypatch.setattr(Cache, "hidden", counted)
        assert exported(tiny_cache, tmp_path / "out", to="npy", layers="0")["pieces_resumed"] == pieces - 1
        assert read == [0] and contents(tmp_path / "out") == wanted

    def test_memory_does_not_grow_with_the_cache(
        self, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At most two batches of utterances are alive at any time, however many pieces and utterances there are."""
        monkeypatch.setattr(selections, "BATCH_BYTES", 40_000)
        alive = most = 0

        class Counted(selections.Utterance):
            def __init__(self, *arguments: Any) -> None:
                nonlocal alive, most
                super().__init__(*arguments)
                alive += 1
                most = max(most, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= 1

        monkeypatch.setattr(selections, "Utterance", Counted)
        exported(tiny_cache, tmp_path / "out", to="webdataset", piece_bytes=10**9)
        assert alive == 0 and most <= 12 < 30

    @pytest.mark.parametrize("encoding", ["int8", "fp32"])
    def test_any_encoding_is_decoded(self, tiny_teacher: Path, speech: Path, tmp_path: Path, encoding: str) -> None:
        extracted(tiny_teacher, speech, tmp_path / "cache", encoding=encoding, layers="2")
        exported(tmp_path / "cache", tmp_path / "out", to="npy")
        cache = Cache.open(str(tmp_path / "cache"))
        for utterance, matrix_TD in from_npy(tmp_path / "out", ["layer_02"])["layer_02"].items():
            assert np.array_equal(matrix_TD, cache.layer(utterance, 2).numpy())


class TestSums:
    def test_the_mean_and_a_weighted_sum(self, tiny_cache: Path, tmp_path: Path) -> None:
        cache = Cache.open(str(tiny_cache))
        (tmp_path / "weights.json").write_text("[0.2, 0.3, 0.1, 0.4]")
        asked: dict[str, tuple[dict[str, Any], list[float]]] = {
            "average": ({"average": True}, [0.25] * 4),
            "weighted": ({"weights": "0.2,0.3,0.1,0.4"}, [0.2, 0.3, 0.1, 0.4]),
            "file": ({"weights": str(tmp_path / "weights.json")}, [0.2, 0.3, 0.1, 0.4]),
        }
        for number, (options, weights) in enumerate(asked.values()):
            result = exported(tiny_cache, tmp_path / str(number), to="npy", **options)
            (name,) = result["matrices"]
            assert name == ("average" if "average" in options else "weighted") and result["weights"] == weights
            for utterance, matrix_TD in from_npy(tmp_path / str(number), [name])[name].items():
                layers_LTD = torch.stack([cache.layer(utterance, layer) for layer in cache.layers])
                wanted_TD = torch.einsum("l,ltd->td", torch.tensor(weights), layers_LTD)
                torch.testing.assert_close(torch.from_numpy(matrix_TD), wanted_TD, atol=1e-6, rtol=1e-5)

    def test_what_a_probe_has_learned(self, tiny_cache: Path, tmp_path: Path) -> None:
        document = {"teacher": {"probes": {"sid": {"layer_weights": [0.0, 0.25, 0.75, 0.0]}}}}
        (tmp_path / "eval.json").write_text(json.dumps(document))
        typed = f"{tmp_path}/eval.json:sid"
        assert exported(tiny_cache, tmp_path / "a", to="npy", layers="1,2", weights=typed)["weights"] == [0.25, 0.75]
        with pytest.raises(UsageError, match=r"takes 75% from layers that are not among \[0, 1\]"):
            exported(tiny_cache, tmp_path / "b", to="npy", layers="0,1", weights=typed)
        with pytest.raises(UsageError, match="the teacher's probes there are: sid"):
            exported(tiny_cache, tmp_path / "b", to="npy", weights=typed.replace("sid", "ks"))


class TestTokens:
    def test_hubert_s_files(self, tiny_cache: Path, tmp_path: Path) -> None:
        """One line for each utterance, one token for each frame: the nearest centroid."""
        result = exported(tiny_cache, tmp_path / "out", layers="2", clusters=7)
        cache = Cache.open(str(tiny_cache))
        centroids_KD = np.load(tmp_path / "out" / "centroids.npy", allow_pickle=False)
        assert centroids_KD.shape == (7, 32) and result["clusters"] == 7
        assert (tmp_path / "out" / "dict.km.txt").read_text() == "".join(f"{k} 1\n" for k in range(7))
        seen = 0
        for split in ("train", "valid", "test"):
            root, *listed = (tmp_path / "out" / f"{split}.tsv").read_text().splitlines()
            tokens = (tmp_path / "out" / f"{split}.km").read_text().splitlines()
            assert root == "." and len(listed) == len(tokens)
            for row, text in zip(listed, tokens, strict=True):
                utterance, _, samples = row.partition("\t")
                entry = cache.utterances[utterance]
                assert entry.labels["split"] == split and int(samples) == entry.num_samples
                states_TD = cache.layer(utterance, 2).double().numpy()
                nearest_T = np.linalg.norm(states_TD[:, None] - centroids_KD[None], axis=2).argmin(1)
                assert list(map(int, text.split())) == nearest_T.tolist()
                seen += 1
        assert seen == 30

    def test_centroids_are_fitted_once_and_used_again(self, tiny_cache: Path, tmp_path: Path) -> None:
        options: dict[str, Any] = {"layers": "2", "clusters": 5, "sample_frames": 300, "where": ("split=train",)}
        for name in "ab":
            exported(tiny_cache, tmp_path / name, **options)
        assert contents(tmp_path / "a") == {
            key: data if key != "gdist-features.json" else contents(tmp_path / "a")[key]
            for key, data in contents(tmp_path / "b").items()
        }
        exported(tiny_cache, tmp_path / "other", **options | {"seed": 1})
        fitted = (tmp_path / "a" / "centroids.npy").read_bytes()
        assert (tmp_path / "other" / "centroids.npy").read_bytes() != fitted
        reused = {"layers": "2", "centroids": tmp_path / "a" / "centroids.npy"}
        exported(tiny_cache, tmp_path / "all", **reused)
        assert (tmp_path / "all" / "train.km").read_bytes() == (tmp_path / "a" / "train.km").read_bytes()
        assert {path.name for path in (tmp_path / "all").glob("*.km")} == {"train.km", "valid.km", "test.km"}
        # Tokens belong to their centroids: without these, they are written anew.
        (tmp_path / "a" / "centroids.npy").unlink()
        assert exported(tiny_cache, tmp_path / "a", **options)["pieces_resumed"] == 0
        assert (tmp_path / "a" / "centroids.npy").read_bytes() == fitted

    def test_what_cannot_be_tokens(self, tiny_cache: Path, tmp_path: Path) -> None:
        for options, message in (
            ({"clusters": 5}, "one layer or one sum of layers"),
            ({"clusters": 50_000, "layers": "1"}, "there are only .* frames to fit it on"),
            ({"clusters": 5, "dtype": "float16", "layers": "1"}, "tokens are whole numbers"),
            ({"clusters": 0, "layers": "1"}, "--kmeans 0: it must be at least 1"),
            ({"clusters": 5, "to": "npy"}, "--to and --kmeans are different exports"),
            ({}, "it is not said what to write"),
        ):
            with pytest.raises(UsageError, match=message):
                exported(tiny_cache, tmp_path / "out", **options)
        for stored, message in (
            (np.zeros((3, 8), np.float32), "have 8 features, and the cache's states have 32"),
            (np.full((3, 32), np.nan), "not finite"),
            (np.zeros(3), "one matrix of numbers"),
            (np.array([{"a": 1}]), "cannot read it as .npy"),
        ):
            np.save(tmp_path / "c.npy", stored, allow_pickle=stored.dtype == object)
            with pytest.raises(UsageError, match=message):
                exported(tiny_cache, tmp_path / "out", layers="1", centroids=tmp_path / "c.npy")


class TestRefusals:
    def test_options(self, tiny_cache: Path, tmp_path: Path) -> None:
        for options, message in (
            ({"layers": "2,9"}, "this teacher has layers 0 to 3"),
            ({"where": ("speaker=nobody",)}, "nothing in .* matches; it has "),
            ({"where": ("nothing=1",)}, "not COLUMN=VALUE with a label"),
            ({"average": True, "weights": "1,2"}, "two ways to add up layers"),
            ({"weights": "1,2"}, r"--weights has 2 numbers, and there are 4 layers: \[0, 1, 2, 3\]"),
            ({"weights": "1,2,3,nan"}, "must be a finite number"),
            ({"weights": "nowhere.json"}, "cannot read it as weights"),
            ({"to": "kaldi", "dtype": "float16"}, "no matrices in float16"),
        ):
            with pytest.raises(UsageError, match=message):
                exported(tiny_cache, tmp_path / "out", **{"to": "npy"} | options)
            assert not (tmp_path / "out").exists()

    def test_a_layer_that_is_not_stored(self, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        extracted(tiny_teacher, speech, tmp_path / "cache", layers="1,3")
        with pytest.raises(UsageError, match=r"has the layers \[1, 3\], not \[2\]"):
            exported(tmp_path / "cache", tmp_path / "out", to="npy", layers="2,3")

    def test_a_cache_that_is_unfinished_or_damaged(self, own_cache: Path, tmp_path: Path) -> None:
        shard = own_cache / "layers/02/c/4/0"
        whole = shard.read_bytes()
        shard.write_bytes(whole[:400] + b"\0" * 400 + whole[800:])
        with pytest.raises(CacheDamagedError, match=r"is torn|is missing"):
            exported(own_cache, tmp_path / "out", to="npy", layers="2")
        shard.write_bytes(whole)
        again = exported(own_cache, tmp_path / "out", to="npy", layers="2")
        assert 0 < again["pieces_resumed"] < again["pieces"]
        (own_cache / "receipts/00005.json").unlink()
        with pytest.raises(CacheError, match="is unfinished: 1 of its 9 packs are missing, first 5"):
            exported(own_cache, tmp_path / "new", to="npy", layers="2")
        with pytest.raises(CacheError, match="no cache at"):
            exported(tmp_path, tmp_path / "new", to="npy")

    def test_quarantined_utterances_are_left_out(
        self, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from gdist.pipeline.cache.standing import Standing

        first, *others = Cache.open(str(tiny_cache)).utterances
        monkeypatch.setattr(Standing, "quarantine", lambda self: {first: "its states are not finite"})
        result = exported(tiny_cache, tmp_path / "out", to="npy", layers="1")
        assert (result["utterances"], result["left_out"]) == (29, 1)
        assert from_npy(tmp_path / "out", ["layer_01"])["layer_01"].keys() == set(others)

    def test_a_folder_with_something_else(self, tiny_cache: Path, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "notes.txt").write_text("mine")
        with pytest.raises(RunError, match=r"is not empty and contains no export of features \(it has notes.txt\)"):
            exported(tiny_cache, tmp_path / "theirs", to="npy")
        assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["notes.txt"]
        exported(tiny_cache, tmp_path / "out", to="npy", layers="1")
        before = contents(tmp_path / "out")
        with pytest.raises(UsageError, match=r"contains another export:\n  .*layers"):
            exported(tiny_cache, tmp_path / "out", to="npy", layers="2")
        assert contents(tmp_path / "out") == before
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match=r"cannot write .*file"):
            exported(tiny_cache, tmp_path / "file", to="npy")

    def test_nothing_is_written_through_a_link(self, tiny_cache: Path, tmp_path: Path) -> None:
        exported(tiny_cache, tmp_path / "out", to="npy", layers="1")
        (tmp_path / "elsewhere").mkdir()
        shutil.rmtree(tmp_path / "out" / "features" / "00000")
        (tmp_path / "out" / "features" / "00000").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RunError, match="is a link"):
            exported(tiny_cache, tmp_path / "out", to="npy", layers="1")
        assert not list((tmp_path / "elsewhere").iterdir())

    def test_two_at_once(self, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def second(self: OutFolder, *_: Any) -> None:
            with pytest.raises(RunError, match="another process of gdist is using"):
                exported(tiny_cache, tmp_path / "out", to="npy", layers="1")
            raise KeyboardInterrupt

        monkeypatch.setattr(OutFolder, "commit", second)
        with pytest.raises(KeyboardInterrupt):
            exported(tiny_cache, tmp_path / "out", to="npy", layers="1")

    @pytest.mark.parametrize("to", FORMATS)
    def test_a_full_disk(self, tiny_cache: Path, tmp_path: Path, to: str) -> None:
        with mounted(tmp_path / "disk", "size=400k") as disk:
            with pytest.raises(RunError, match=r"cannot write .*No space left on device") as caught:
                exported(tiny_cache, disk / "out", to=to, layers="1,2", piece_bytes=100_000)
            assert caught.value.hint == "free some space, and run the same command again"
            record = disk / "out" / ".gdist-features" / "00000.json"
            assert record.exists() or to == "zarr"

    def test_ids_that_a_format_cannot_have(self, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        import pyarrow as pa

        from gdist.pipeline.manifest.table import Manifest

        manifest = Manifest.read(speech)
        odd = ["../up", "a b", "x.y/z", "a\\b", "é" * 200, "CON:"]
        table = manifest.table.slice(0, len(odd))
        table = table.set_column(table.column_names.index("id"), "id", pa.array(odd))
        Manifest(table, manifest.root).write(tmp_path / "odd.parquet")
        extracted(tiny_teacher, tmp_path / "odd.parquet", tmp_path / "cache", layers="1")
        cache = Cache.open(str(tmp_path / "cache"))
        for to in FORMATS:
            out = tmp_path / to
            if to == "kaldi":
                with pytest.raises(UsageError, match=r"the id 'a b' cannot be written: Kaldi's keys end"):
                    exported(tmp_path / "cache", out, to=to)
                continue
            exported(tmp_path / "cache", out, to=to)
            found = READERS[to](out, ["layer_01"])["layer_01"]
            assert all(np.array_equal(found[name], cache.layer(name, 1).numpy()) for name in odd)
        assert not (tmp_path / "up.npy").exists()


def test_lhotse_s_own_writer_writes_the_same_files(tiny_cache: Path, tmp_path: Path) -> None:
    from lhotse.features.io import NumpyFilesWriter

    exported(tiny_cache, tmp_path / "out", to="lhotse", layers="1")
    with gzip.open(tmp_path / "out" / "features.jsonl.gz", "rt") as lines:
        row = json.loads(next(iter(lines)))
    matrix_TD = Cache.open(str(tiny_cache)).layer(row["recording_id"], 1).numpy()
    key = NumpyFilesWriter(tmp_path).write("theirs", matrix_TD)
    assert (tmp_path / key).read_bytes() == (Path(row["storage_path"]) / row["storage_key"]).read_bytes()
    assert row["storage_type"] == NumpyFilesWriter.name


def test_names_of_files_are_plain_and_differ() -> None:
    ids = ["a", "a.b", "a%2Eb", "a/b", "..", ".", "x" * 300, "x" * 299 + "y", "\u00e9", "e\u0301"]
    for dots in (True, False):
        names = [file_name(each, dots) for each in ids]
        assert len(set(names)) == len(ids) and all(len(name) <= 200 and "/" not in name for name in names)
        assert not any(name.startswith(".") for name in names)
        assert dots or not any("." in name for name in names)


def test_on_the_command_line(gdist: Gdist, tiny_cache: Path, tmp_path: Path) -> None:
    arguments = ["export-features", tiny_cache, "--layers", "2", "--to", "hf", "--out", tmp_path / "out"]
    done = gdist(*arguments, "--json")
    assert done.exit_code == 0
    fields = {"format", "out", "cache", "layers", "matrices", "weights", "dtype", "dim", "clusters", "utterances"}
    fields |= {"left_out", "frames", "audio_seconds", "bytes", "pieces", "pieces_resumed", "seconds", "usage"}
    found = json.loads(done.stdout)
    assert found.keys() == fields and found["frames"] > 1000
    people = gdist(*arguments)
    assert "layer_02 as hf, 30 utterances" in people.stderr and "load_dataset" in people.stderr
    assert "1 of 1 pieces were there already" in people.stderr
    refused = gdist(*arguments[:-1], tiny_cache)
    assert refused.exit_code == 1 and "contains no export of features" in refused.stderr
    assert gdist("export-features", tiny_cache, "--out", tmp_path / "x").exit_code == 2
