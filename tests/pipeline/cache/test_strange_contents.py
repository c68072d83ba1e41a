"""What a stranger's index, tables and shards may contain, with every checksum right: used, or refused by name."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import resealed
import safetensors.torch
import torch
from click.testing import Result
from conftest import extracted
from numcodecs.zstd import Zstd

from gdist.pipeline.cache import tables
from gdist.pipeline.cache.arrays import ArraySpec, whole_pack
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.index import read, to_table
from gdist.pipeline.cache.layout import Lengths, place
from gdist.pipeline.cache.tables import Bounded
from gdist.pipeline.errors import CacheDamagedError, GdistError
from gdist.pipeline.framing import WAV2VEC2
from gdist.pipeline.ids import Ids
from gdist.pipeline.parquet import Thrift
from gdist.pipeline.schema import SchemaError

Gdist = Callable[..., Result]
Rows = list[dict[str, Any]]


def parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **({"compression": "zstd"} | options))
    return out.getvalue()


def rows(change: Callable[[Rows], object]) -> Callable[[pa.Table], pa.Table]:
    """A change to the rows of a table, whose columns keep their types."""

    def changed(table: pa.Table) -> pa.Table:
        found = table.to_pylist()
        change(found)
        return pa.Table.from_pylist(found, table.schema)

    return changed


def retyped(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, table[name].cast(kind))


INDICES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "overlapping": (rows(lambda r: r[1].update(start_frame=r[0]["start_frame"])), " share rows"),
    "null ids": (rows(lambda r: r[3].update(id=None)), "its column id has 1 rows without a value"),
    "an id twice": (rows(lambda r: r[3].update(id=r[0]["id"])), " occurs twice"),
    "an empty id": (rows(lambda r: r[3].update(id="")), "it has an id of 0 to "),
    "a long id": (rows(lambda r: r[3].update(id="x" * 5000)), "5000 bytes; 1 to 4096 are possible"),
    "an escape": (rows(lambda r: r[3].update(id="a\x1b[31m")), "'a\\x1b[31m' has control characters"),
    "right to left": (rows(lambda r: r[3].update(id="é\u202egnp")), " has control characters"),
    "no such pack": (rows(lambda r: r[0].update(pack=9)), " is in none of the 9 packs"),
    "a pack below zero": (rows(lambda r: r[0].update(pack=-1)), " is in none of the 9 packs"),
    "another pack": (rows(lambda r: r[0].update(pack=1)), " is not in its pack (pack 1, start_frame 0, "),
    "beyond its pack": (rows(lambda r: r[-1].update(start_frame=9 * 512)), " is not in its pack"),
    "between chunks": (rows(lambda r: r[0].update(start_frame=1)), " does not begin with a chunk"),
    "more frames": (rows(lambda r: r[0].update(num_frames=10**6)), " has other frames than its samples give"),
    "more samples": (rows(lambda r: r[0].update(num_samples=2**62)), " has more samples than a pack"),
    "fewer samples than none": (rows(lambda r: r[0].update(num_samples=-5)), " begins outside of the packs"),
    "no reason": (rows(lambda r: r[0].update(num_frames=0)), " has frames and a reason to have none, or neither"),
    "a reason too many": (rows(lambda r: r[0].update(problem="ill")), " has frames and a reason to have none"),
    "a row less": (rows(lambda r: r.pop()), "it has 29 rows; it must have 30"),
    "no column": (lambda t: t.drop_columns(["num_samples"]), "it lacks the column num_samples"),
    "a column twice": (lambda t: t.append_column("id", t["id"]), "it has the column 'id' twice"),
    "a strange column": (lambda t: t.append_column("a\x1b[2J", t["id"]), "has a name with control characters"),
    "narrow": (retyped("start_frame", pa.int32()), "its column start_frame is int32; it must be int64"),
    "floats": (retyped("pack", pa.float64()), "its column pack is double; it must be int32"),
    "no text": (
        lambda t: t.set_column(0, "id", pa.array([b"\xff%d" % i for i in range(30)], pa.binary()).view(pa.string())),
        "it is no table that can be read",
    ),
}


@pytest.mark.parametrize("what", INDICES)
def test_an_index(own_cache: Path, gdist: Gdist, what: str) -> None:
    change, words = INDICES[what]
    table = pq.read_table(own_cache / "index.parquet")
    resealed.planned(own_cache, "index.parquet", parquet(change(table)))
    with pytest.raises(CacheDamagedError) as caught:
        Cache.open(str(own_cache))
    assert words in caught.value.message and "index.parquet does not describe" in caught.value.message
    result = gdist("verify", own_cache)
    assert result.exit_code == 1 and "index.parquet" in result.stderr and "\x1b" not in result.stderr


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is no table that can be read"),
        (b"PAR1" * 9, "it is no table that can be read"),
        (
            parquet(pa.table({"id": ["a"] * 30}), compression="gzip"),
            "is compressed in a way that gdist does not write",
        ),
        (
            parquet(pa.table({"id": ["a"] * 30}), use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY"),
            "has an encoding that gdist does not write",
        ),
    ],
)
def test_bytes_that_are_no_index(data: bytes, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        Bounded(data, 30, {"id": pa.string()})


class TestBombs:
    """A few kilobytes that would take gigabytes."""

    def test_a_text_that_stands_for_a_gigabyte(self) -> None:
        codes = pa.DictionaryArray.from_arrays(np.zeros(2_000, np.int32), pa.array(["x" * 500_000]))
        data = parquet(pa.table({"id": codes}), store_schema=False)
        assert len(data) < 20_000
        with pytest.raises(
            SchemaError, match=r"it takes more than 67,108,864 bytes in memory, up to its column 'id'"
        ):
            Bounded(data, 2_000, {"id": pa.string()})
        label = Bounded(data, 2_000, {}, coded=True)
        with pytest.raises(SchemaError, match="it takes more than 67,108,864 bytes in memory"):
            label.read("id")

    def test_a_page_that_says_less_than_it_has(self) -> None:
        """What the end of the file says of sizes is not believed: the head of each page is read."""
        data = parquet(pa.table({"n": np.zeros(10**7, np.int64)}), use_dictionary=False)
        with pytest.raises(SchemaError, match=r"its column 'n' takes more than 67,108,864 bytes|rows in"):
            Bounded(data, 10**7, {"n": pa.int64()})

    def test_rows_without_bytes(self) -> None:
        data = parquet(pa.table({"n": np.zeros(10**6, np.int8)}))
        with pytest.raises(SchemaError, match=r"it has 1000000 rows in \d+ bytes"):
            Bounded(data, 10**6, {"n": pa.int8()})

    def test_a_chunk_that_says_it_is_larger(self) -> None:
        """zstd: 100 MB of zeros in 3 kB, in a shard whose chunks have 1 kB. Nothing of it is decompressed."""
        from test_shards import checksum  # the helper that makes a shard's checksums right

        spec = ArraySpec(4, "float16", float("nan"), 128, 128)
        packed = Zstd().encode(bytes(10**8))
        chunk = packed + checksum(packed)
        index = np.array([[0, len(chunk)]], "<u8").tobytes()
        with pytest.raises(ValueError, match="does not match its own checksums") as caught:
            whole_pack(spec, chunk + index + checksum(index))
        assert "larger than chunks are" in str(caught.value.__cause__)
        small = Zstd().encode(bytes(10**5))[:1000]
        chunk = small + checksum(small)
        index = np.array([[0, len(chunk)]], "<u8").tobytes()
        with pytest.raises(ValueError) as caught:
            whole_pack(spec, chunk + index + checksum(index))
        assert "a chunk does not have 1024 bytes" in str(caught.value.__cause__)


def test_a_page_s_head_by_hand() -> None:
    assert Thrift(memoryview(bytes.fromhex("150015c80100")), 0).struct() == {1: 0, 2: 100}
    assert Thrift(memoryview(bytes.fromhex("2c150200")), 0).struct.__doc__
    for data in ("15", "15c8", "19ff", "1c" * 20, "15" + "ff" * 12, "1b00", "19fcff7f"):
        with pytest.raises(SchemaError):
            Thrift(memoryview(bytes.fromhex(data)), 0).struct()


def test_a_large_index_is_what_it_was() -> None:
    """Row groups, dictionaries that overflow, texts with and without repetition."""
    count = 120_000
    lengths = Lengths(pa.array([f"id-{i * 7919 % 999_983}" for i in range(count)]), np.full(count, 16_000, np.int64))
    placed = place(lengths, 10**6)
    labels = pa.table(
        {"speaker": [f"s{i % 50}" for i in range(count)], "text": [f"{i} words" * 3 for i in range(count)]}
    )
    data = parquet(to_table(placed, labels), row_group_size=50_000)
    identity = {"pack_frames": 16_384, "chunk_frames": 128}
    gdist = {"utterances": count, "packs": int(placed[-1].pack) + 1, "frames": count * 49, "identity": identity}
    found = read(data, gdist, WAV2VEC2)
    assert found[::997] == placed[::997]
    for name in labels.column_names:
        assert found.texts(name).to_pylist() == labels[name].to_pylist()
    assert count > tables.GROUP_ROWS


def test_an_id_that_occurs_twice_is_found_when_it_is_looked_up() -> None:
    with pytest.raises(GdistError, match="the id 'b' occurs twice"):
        Ids(pa.array(["a", "b", "c", "b"]))


TENSORS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "lost": ("frontend", lambda t: t.pop("projection.bias"), "it lacks 'projection.bias' of the front-end"),
    "more": ("frontend", lambda t: t.update(x=torch.zeros(1)), "it has 'x', which the front-end"),
    "shape": (
        "frontend",
        lambda t: t.update({"projection.bias": torch.zeros(31)}),
        "its projection.bias has the shape [31]; the front-end that config.json describes has [32]",
    ),
    "type": (
        "frontend",
        lambda t: t.update({"projection.bias": torch.zeros(32, dtype=torch.int8)}),
        "its 'projection.bias' is int8 of 1 dimensions, which no weights are",
    ),
    "nan": (
        "frontend",
        lambda t: t["projection.bias"].fill_(float("nan")),
        "its 'projection.bias' has values that are not finite",
    ),
    "infinite": (
        "layers",
        lambda t: next(iter(t.values())).fill_(1e30).mul_(1e30),
        " has values that are not finite",
    ),
    "counts": ("layers", lambda t: t.update({"0.x": torch.zeros(3, dtype=torch.int64)}), "which no weights are"),
}


@pytest.mark.parametrize("what", TENSORS)
def test_the_teacher_s_tensors(own_cache: Path, gdist: Gdist, tmp_path: Path, what: str) -> None:
    name, change, words = TENSORS[what]
    tensors = safetensors.torch.load_file(own_cache / f"teacher/{name}.safetensors")
    change(tensors)
    resealed.planned(own_cache, f"teacher/{name}.safetensors", safetensors.torch.save(tensors))
    result = train(gdist, own_cache, tmp_path)
    assert result.exit_code == 1
    assert words in result.stderr.replace("\n", " ") and f"teacher/{name}.safetensors" in result.stderr


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"\x02" + bytes(7) + b"{}", b"\x08" + bytes(7) + b'{"a": 1}'])
def test_what_is_no_file_of_tensors(own_cache: Path, gdist: Gdist, tmp_path: Path, data: bytes) -> None:
    resealed.planned(own_cache, "teacher/frontend.safetensors", data)
    result = train(gdist, own_cache, tmp_path)
    assert result.exit_code == 1 and "teacher/frontend.safetensors is not of the cache's teacher" in result.stderr


CONFIGS = [
    ("conv_dim", [16] * 6 + [65_536], "it has the shape"),
    ("conv_dim", [2**40] * 7, "its conv_dim[0] is not an integer <= 65536"),
    ("conv_dim", "16", "its conv_dim is not a list, but text"),
    ("conv_kernel", [10, 3, 3, 3, 3, 2, 3], "its front-end has Framing("),
    ("conv_stride", [], "its conv_stride is not a list of length >= 1"),
    ("hidden_size", 64, "its hidden size is 64, and the cache's is 32"),
    ("hidden_size", True, "its hidden_size is not an integer, but true or false"),
    ("num_hidden_layers", 10**9, "its num_hidden_layers is not an integer <= 256"),
    ("num_hidden_layers", 4, "its num_hidden_layers is 4, and the cache's teacher has 3"),
    ("intermediate_size", 10**9, "its intermediate_size is not an integer <= 131072"),
    ("intermediate_size", 131_072, "its intermediate_size is 131072, 64 times the hidden size at most"),
    ("num_conv_pos_embeddings", 2**31, "its num_conv_pos_embeddings is not an integer <= 65536"),
    ("layer_norm_eps", 1e300, "its layer_norm_eps is not a finite number <= 1.0"),
    ("feat_extract_activation", "evil", "its front-end is impossible: activation is 'evil'"),
]


@pytest.mark.parametrize(("field", "value", "words"), CONFIGS)
def test_the_teacher_s_config(
    own_cache: Path, gdist: Gdist, tmp_path: Path, field: str, value: Any, words: str
) -> None:
    config = json.loads((own_cache / "teacher/config.json").read_bytes())
    resealed.planned(own_cache, "teacher/config.json", json.dumps(config | {field: value}).encode())
    result = train(gdist, own_cache, tmp_path)
    text = result.stderr.replace("\n", " ")
    assert result.exit_code == 1
    assert (words in text and "teacher/config.json" in text) or "teacher/frontend.safetensors is not of" in text


def train(gdist: Gdist, cache: Path, tmp_path: Path) -> Result:
    options = ["--set", "train.steps=1", "--set", "train.warmup_steps=0", "--set", "student.initialize=layers"]
    return gdist("train", "--cache", cache, "--out", tmp_path / "run", *options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("01.mean"), "the tables of layer 1"),
        (lambda t: t.update({"09.mean": t["00.mean"].clone()}), "its '09.mean' is of no layer of the cache"),
        (lambda t: t.update({"x": t["00.mean"].clone()}), "its 'x' is of no layer of the cache"),
        (lambda t: t.update({"00.mean": torch.zeros(31)}), "mean is [31] of torch.float32; it must be [32]"),
        (lambda t: t.update({"00.frames": t["00.frames"].double()}), "of torch.float64; it must be"),
        (lambda t: t["00.frames"].zero_(), "the last row of frames must be NaN"),
        (lambda t: t["00.scale"].fill_(float("inf")), "scale has values that are not finite"),
    ],
)
def test_tables(coded: Path, tmp_path: Path, gdist: Gdist, change: Callable[[Any], object], words: str) -> None:
    import shutil

    cache = Path(shutil.copytree(coded, tmp_path / "cache"))
    tensors = safetensors.torch.load_file(cache / "teacher/tables-0.safetensors")
    change(tensors)
    resealed.planned(cache, "teacher/tables-0.safetensors", safetensors.torch.save(tensors))
    opened = Cache.open(str(cache))
    entry = next(entry for entry in opened.entries if entry.num_frames)
    with pytest.raises(CacheDamagedError) as caught:
        opened.hidden(0, [(entry, 0, entry.num_frames)])
    assert words in caught.value.message
    result = gdist("verify", cache)
    assert result.exit_code == 1 and words in result.stderr.replace("\n", " ")


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, speech: Path) -> Path:
    """A cache whose encoding learns tables."""
    folder = tmp_path_factory.mktemp("coded") / "cache"
    extracted(tiny_teacher, speech, folder, encoding="rvq", layers="0,1")
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rows(lambda r: r[0].update(pack=1)), "its rows are not those of the packs from 0 on"),
        (rows(lambda r: r[0].update(receipt="{}")), "receipt of pack 0: it lacks"),
        (rows(lambda r: r[0].update(receipt="[")), "it is not whole"),
        (rows(lambda r: r[0].update(receipt=None)), "it has a row without a value, of pack 0"),
        (rows(lambda r: r.pop()), "it has 8 rows; it must have 9"),
        (lambda t: t.drop_columns(["waveform"]), "it lacks the column waveform"),
    ],
)
def test_a_summary(own_cache: Path, gdist: Gdist, change: Callable[[pa.Table], pa.Table], words: str) -> None:
    import hashlib

    path = own_cache / "summaries/00000.parquet"
    data = parquet(change(pq.read_table(path)), use_dictionary=False)
    path.write_bytes(data)
    said = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    resealed.document(own_cache, "summaries/00000.json", lambda head: head.update(table=said))
    found = gdist("verify", own_cache, "--json")
    (bad,) = json.loads(found.stdout)["bad"]
    assert found.exit_code == 1 and bad["object"] == "summaries/00000.parquet"
    for act in (lambda cache: list(cache.receipts()), lambda cache: cache.broken_packs([*cache.specs])):
        try:
            act(Cache.open(str(own_cache)))
        except CacheDamagedError as error:
            assert words in error.message  # what a copy says is not believed; the receipts may be read instead
