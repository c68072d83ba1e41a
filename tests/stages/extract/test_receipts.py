"""A receipt that is damaged or missing is made again from what is there, and the hint of `gdist verify` says exactly
what that takes: each is run as it is printed."""

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import soundfile
from click.testing import Result
from conftest import contents, extracted
from in_bucket import fill, s3_bucket, stored
from servers import Flaky

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.manifest.by_id import by_id
from gdist.pipeline.manifest.table import Manifest

Gdist = Callable[..., Result]
RECEIPT, OTHER = "receipts/00003.json", "receipts/00005.json"
HEAD, TABLE = "summaries/00000.json", "summaries/00000.parquet"
TEACHER, MANIFEST = "--teacher tiny-wavlm", "--manifest M.parquet"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flaky]:
    with s3_bucket(tmp_path_factory.mktemp("receipts")) as flaky:
        yield flaky


@pytest.fixture(scope="module")
def fp32_cache(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, speech: Path) -> Path:
    folder = tmp_path_factory.mktemp("fp32") / "cache"
    extracted(tiny_teacher, speech, folder, encoding="fp32")
    return folder


@pytest.fixture
def sources(tmp_path: Path, tiny_teacher: Path, speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder in which the names in hints are what they stand for."""
    place = tmp_path / "sources"
    place.mkdir()
    (place / "tiny-wavlm").symlink_to(tiny_teacher)
    table = Manifest.read(str(speech))
    table.write(place / "M.parquet")
    monkeypatch.chdir(place)


def harm(cache: Path, damage: Sequence[str]) -> None:
    """Flip a byte of each object, or delete those with a minus sign."""
    for key in damage:
        path = cache / key.removeprefix("-")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
        if key.startswith("-"):
            path.unlink()


def hint(gdist: Gdist, uri: object) -> str:
    """The command that `gdist verify` prints."""
    result = gdist("verify", uri)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("to repair it: ")]
    return line.removeprefix("to repair it: ")


DAMAGES: list[tuple[str, list[str], str]] = [
    ("fp16", [RECEIPT], ""),
    ("fp16", [f"-{RECEIPT}", OTHER], ""),
    ("fp16", [RECEIPT, HEAD], ""),
    ("fp16", [f"-{RECEIPT}", f"-{HEAD}"], ""),
    ("fp16", [TABLE], ""),
    ("fp16", [HEAD, f"-{TABLE}"], ""),
    ("fp16", [RECEIPT, TABLE], TEACHER),
    ("fp16", [RECEIPT, OTHER, f"-{HEAD}", f"-{TABLE}"], TEACHER),
    ("fp16", [RECEIPT, "layers/02/c/3/0"], TEACHER),
    ("fp16", [RECEIPT, TABLE, "layers/02/c/3/0", "-layers/01/c/3/0", "layers/01/c/6/0"], TEACHER),
    ("fp16", [RECEIPT, "waveform/c/3/0"], MANIFEST),
    ("fp16", ["-waveform/c/3/0"], MANIFEST),
    ("fp16", ["waveform/c/3/0", "layers/00/c/3/0"], f"{TEACHER} {MANIFEST}"),
    ("fp16", [RECEIPT, TABLE, "waveform/c/3/0"], f"{TEACHER} {MANIFEST}"),
    ("fp16", [RECEIPT, "teacher/frontend.safetensors"], TEACHER),
    ("fp16", [RECEIPT, "index.parquet", "plans/00000.json", "layers/02/zarr.json"], ""),
    ("fp32", [RECEIPT, f"-{HEAD}", f"-{TABLE}"], ""),
    ("fp32", [RECEIPT, OTHER, TABLE], ""),
    ("fp32", [RECEIPT, TABLE, "layers/03/c/3/0"], TEACHER),
]


@pytest.mark.parametrize(("encoding", "damage", "needs"), DAMAGES, ids=lambda value: " ".join(value) or "nothing")
def test_the_hint_repairs_it(
    gdist: Gdist,
    tiny_cache: Path,
    fp32_cache: Path,
    tmp_path: Path,
    sources: None,
    encoding: str,
    damage: list[str],
    needs: str,
) -> None:
    """To the same bytes, without naming more than is needed."""
    whole = tiny_cache if encoding == "fp16" else fp32_cache
    cache = Path(shutil.copytree(whole, tmp_path / "it's a cache"))
    harm(cache, damage)
    command = hint(gdist, cache)
    assert command == f"gdist verify {shlex.quote(str(cache))} --repair {needs}".rstrip()
    stderr = gdist("verify", cache).stderr
    assert ("is the manifest" in stderr) == (MANIFEST in needs)
    assert ("is the teacher's folder" in stderr) == (TEACHER in needs)
    result = gdist(*shlex.split(command)[1:], "--json")
    assert result.exit_code == 0, result.stderr
    assert set(json.loads(result.stdout)["repaired"]) == {key.removeprefix("-") for key in damage}
    assert contents(cache) == contents(whole)


@pytest.mark.parametrize(("encoding", "damage", "needs"), [DAMAGES[n] for n in (1, 6, 13, 16)])
def test_in_a_bucket(
    s3: Flaky,
    gdist: Gdist,
    tiny_cache: Path,
    fp32_cache: Path,
    tmp_path: Path,
    sources: None,
    encoding: str,
    damage: list[str],
    needs: str,
) -> None:
    whole = tiny_cache if encoding == "fp16" else fp32_cache
    cache = Path(shutil.copytree(whole, tmp_path / "cache"))
    harm(cache, damage)
    uri = f"{s3.uri}/{tmp_path.name}"
    fill(uri, cache)
    command = hint(gdist, uri)
    assert command == f"gdist verify {uri} --repair {needs}".rstrip()
    result = gdist(*shlex.split(command)[1:])
    assert result.exit_code == 0, result.stderr
    assert stored(uri) == contents(whole)


def test_one_error_says_all_that_is_lacking(gdist: Gdist, own_cache: Path, sources: None, tiny_cache: Path) -> None:
    """What needs nothing is repaired before."""
    harm(own_cache, [RECEIPT, "waveform/c/6/0", "layers/01/c/2/0"])
    result = gdist("verify", own_cache, "--repair", "--device", "cpu")
    assert result.exit_code == 1
    stderr = result.stderr.replace("\n", " ")
    assert "its teacher has to run again, but it was a local folder (tiny-wavlm); and the audio of pack 6" in stderr
    command = result.stderr.split("try: ")[1].splitlines()[0]
    assert command == f"gdist verify {own_cache} --repair {TEACHER} {MANIFEST} --device cpu"
    assert (own_cache / RECEIPT).read_bytes() == (tiny_cache / RECEIPT).read_bytes()
    assert gdist(*shlex.split(command)[1:]).exit_code == 0 and contents(own_cache) == contents(tiny_cache)


@pytest.mark.parametrize("summary", ["whole", "no table", "none"])
def test_who_was_quarantined_and_why(
    gdist: Gdist, tmp_path: Path, tiny_teacher: Path, speech: Path, sources: None, summary: str
) -> None:
    """An utterance that turned out to be unreadable has no data. Only its file, or the summary, still tells why."""
    manifest = Manifest.read(str(speech))
    rows = manifest.table.to_pylist()
    samples, rate = soundfile.read(by_id(manifest.measured())[rows[12]["id"]].path)
    rows[12] |= {"path": str(tmp_path / "recording.wav")}
    soundfile.write(rows[12]["path"], samples, rate)
    Manifest(pa.Table.from_pylist(rows, schema=manifest.table.schema), manifest.root).write(Path("M.parquet"))
    soundfile.write(rows[12]["path"], samples[: len(samples) // 2], rate)  # after its length was written down
    folder = tmp_path / "cache"
    result = extracted(tiny_teacher, Path("M.parquet").absolute(), folder)
    assert result["quarantined"] == 1
    whole = contents(folder)
    pack = Cache.open(str(folder)).utterances[rows[12]["id"]].pack
    receipt = f"receipts/{pack:05d}.json"
    harm(folder, [receipt, *{"whole": [], "no table": [TABLE], "none": [f"-{HEAD}", f"-{TABLE}"]}[summary]])
    command = hint(gdist, folder)
    needs = {"whole": "", "no table": TEACHER, "none": f"{TEACHER} {MANIFEST}"}[summary]
    assert command == f"gdist verify {folder} --repair {needs}".rstrip()
    assert gdist(*shlex.split(command)[1:]).exit_code == 0 and contents(folder) == whole


def test_a_grown_cache(gdist: Gdist, tmp_path: Path, tiny_teacher: Path, speech: Path, sources: None) -> None:
    """Both receipts of a pack, one of another, and a shard of the first, without any summary."""
    folder = tmp_path / "cache"
    for layers in ("0", "1", "2,3"):
        extracted(tiny_teacher, speech, folder, layers=layers)
    whole = contents(folder)
    harm(folder, [f"-{key}" for key in whole if key.startswith("summaries")])
    harm(folder, [RECEIPT, "receipts/00003-1.json", "-receipts/00004-2.json", "layers/00/c/4/0", "layers/02/c/3/0"])
    command = hint(gdist, folder)
    assert command == f"gdist verify {folder} --repair {TEACHER}"
    result = gdist(*shlex.split(command)[1:])
    assert result.exit_code == 0, result.stderr
    assert contents(folder) == whole


def test_a_shard_in_another_ones_place(
    gdist: Gdist, own_cache: Path, tiny_cache: Path, sources: None, tmp_path: Path
) -> None:
    """Sound by its own checksums, and yet not what was planned there."""
    harm(own_cache, [f"-{RECEIPT}", f"-{HEAD}", f"-{TABLE}"])
    shutil.copy(own_cache / "layers/01/c/5/0", own_cache / "layers/01/c/3/0")
    assert gdist("verify", own_cache, "--repair", *shlex.split(TEACHER)).exit_code == 0
    assert contents(own_cache) == contents(tiny_cache)


class TestTheIndex:
    COPIES = ("index.parquet", "plans/00000.parquet")

    def test_is_made_from_the_manifest(self, gdist: Gdist, own_cache: Path, tiny_cache: Path, sources: None) -> None:
        harm(own_cache, [self.COPIES[0], f"-{self.COPIES[1]}"])
        for command in (("verify", own_cache), ("inspect", own_cache), ("verify", own_cache, "--repair")):
            result = gdist(*command)
            assert result.exit_code == 1
            typed = result.stderr.split("try: ")[1].splitlines()[0]
            assert typed == f"gdist verify {own_cache} --repair {MANIFEST}"
        assert gdist(*shlex.split(typed)[1:]).exit_code == 0
        assert contents(own_cache) == contents(tiny_cache)

    def test_another_manifest(self, gdist: Gdist, own_cache: Path, speech: Path, sources: None) -> None:
        harm(own_cache, self.COPIES)
        manifest = Manifest.read(str(speech))
        Manifest(manifest.take(range(5)).table, manifest.root).write(Path("other.parquet"))
        before = contents(own_cache)
        result = gdist("verify", own_cache, "--repair", "--manifest", "other.parquet")
        assert result.exit_code == 1 and "not the one that the cache was extracted from" in result.stderr
        assert contents(own_cache) == before

    def test_of_the_plan_before(
        self, gdist: Gdist, tmp_path: Path, tiny_teacher: Path, speech: Path, sources: None
    ) -> None:
        """Layers were added, so the older index is the same."""
        for layers in ("0", "1"):
            extracted(tiny_teacher, speech, tmp_path / "c", layers=layers)
        whole = contents(tmp_path / "c")
        harm(tmp_path / "c", ["index.parquet", "plans/00001.parquet"])
        assert gdist("verify", tmp_path / "c", "--repair").exit_code == 0
        assert contents(tmp_path / "c") == whole


def test_what_cannot_be_made_again(
    gdist: Gdist, tmp_path: Path, tiny_teacher: Path, speech: Path, sources: None
) -> None:
    """A copy of an older root: no hint promises to repair it."""
    for layers in ("0", "1"):
        extracted(tiny_teacher, speech, tmp_path / "c", layers=layers)
    (tmp_path / "c/plans/00000.json").unlink()
    for more in ((), ("--repair",)):
        result = gdist("verify", tmp_path / "c", *more)
        assert result.exit_code == 1 and "to repair it" not in result.stderr
        assert "only runs that began before the cache grew need it, and it cannot be made again" in result.stderr
