"""Caches on web servers and on the Hugging Face Hub, which list nothing: read like any other, never written."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import contents
from test_train import SHORT
from web import serving

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import CacheError, UsageError
from gdist.pipeline.storage.between import overlap
from gdist.pipeline.storage.locations import Location, join
from gdist.pipeline.storage.objects import Storage
from gdist.pipeline.storage.paths import RemotePath
from gdist.stages.train.config import load_config
from gdist.stages.train.train import train

Gdist = Callable[..., Result]
HUB = "hf://datasets/me/speech"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def web(tiny_cache: Path, logs: Path) -> Iterator[str]:
    """The address of a web server with the cache ``tiny``; it refuses whoever sends a token."""
    with serving(tiny_cache.parent, logs / "web", "no-token") as address:
        yield address


@pytest.fixture
def hub(web: str, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of the same cache on the Hub, which wants a token and redirects to the web server."""
    with serving(tiny_cache.parent, tmp_path / "log", "token=mine", f"hub={web}") as address:
        monkeypatch.setenv("HF_ENDPOINT", f"{address}/")
        monkeypatch.setenv("HF_TOKEN", "mine")
        yield f"{HUB}/tiny"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")


def require_same(found: Cache, here: Cache) -> None:
    assert found.utterances.keys() == here.utterances.keys()
    for name in list(here.utterances)[::5]:
        assert np.array_equal(found.audio(name), here.audio(name))
        for layer in here.layers:
            assert found.layer(name, layer).equal(here.layer(name, layer))


class TestReading:
    def test_the_same_values(self, web: str, hub: str, tiny_cache: Path) -> None:
        """Also of a revision, and with a slash at the end."""
        here = Cache.open(str(tiny_cache))
        for uri in (f"{web}/tiny", hub, f"{HUB}@v1/tiny/"):
            require_same(Cache.open(uri), here)

    def test_a_training_gives_the_same_student(
        self, hub: str, web: str, tiny_cache: Path, tmp_path: Path, logs: Path
    ) -> None:
        """It lists nothing: a server would not know what is meant."""
        config = load_config(None, None, tuple(f"{name}={value}" for name, value in SHORT.items()))
        for name, uri in (("here", str(tiny_cache)), ("hub", hub)):
            train(uri, tmp_path / name, config, show_progress=False)
        ours, theirs = (contents(tmp_path / name / "student") for name in ("here", "hub"))
        assert ours == theirs
        asked = (logs / "web").read_text()
        assert "GET /tiny/zarr.json" in asked and "PROPFIND" not in asked and " 501 " not in asked

    def test_what_else_reads(self, hub: str, web: str, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
        assert gdist("copy", hub, tmp_path / "copy", "--json").exit_code == 0
        assert contents(tmp_path / "copy") == contents(tiny_cache)
        dry = [gdist("copy", uri, tmp_path / "new", "--dry-run", "--json").stdout for uri in (hub, tiny_cache)]
        assert json.loads(dry[0])["objects"] == json.loads(dry[1])["objects"]
        shown = [json.loads(gdist("inspect", uri, "--json").stdout) for uri in (f"{web}/tiny", tiny_cache)]
        assert shown[0] | {"uri": ""} == shown[1] | {"uri": ""}
        done = gdist("export-features", hub, "--layers", "2", "--to", "npy", "--out", tmp_path / "out")
        assert done.exit_code == 0 and len(list((tmp_path / "out").rglob("*.npy"))) == 30


class TestRefusals:
    @pytest.mark.parametrize("scheme", ["https", "hf"])
    def test_nothing_is_written(self, scheme: str, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
        """Nor looked for: no server is asked."""
        uri = f"{HUB}/new" if scheme == "hf" else "https://127.0.0.1:1/new"
        instead = "hf upload me/speech FOLDER --repo-type dataset" if scheme == "hf" else "and serve it from there"
        for arguments in (
            ("copy", tiny_cache, uri),
            ("extract", "--teacher", tmp_path, "--manifest", tmp_path / "m.parquet", "--cache", uri),
        ):
            done = gdist(*arguments)
            assert done.exit_code == 2 and instead in done.stderr
            assert f"cannot write to {uri}: gdist only reads from {scheme}://" in done.stderr
        for write in (
            lambda: Storage(uri).put("a", b""),
            lambda: Storage(uri).put_new("a", b""),
            lambda: Storage(uri).delete(["a"]),
            lambda: RemotePath.parse(f"{uri}/a").write_bytes(b""),
        ):
            with pytest.raises(UsageError, match="gdist only reads"):
                write()

    def test_what_would_have_to_be_listed(self, web: str, hub: str, gdist: Gdist) -> None:
        for uri in (f"{web}/tiny", hub):
            for command in ("caches", "verify"):
                done = gdist(command, uri)
                assert done.exit_code == 1 and f"cannot list {uri}: " in done.stderr
                assert f"try: copy it to a folder or a bucket first: gdist copy {uri} FOLDER" in done.stderr
        with pytest.raises(CacheError, match="a web server does not say what it has"):
            RemotePath.parse(f"{web}/tiny").is_dir()

    def test_an_unfinished_cache(self, own_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
        shutil.rmtree(own_cache / "summaries")
        (own_cache / "receipts/00008.json").unlink()
        with serving(own_cache, tmp_path / "log") as address:
            cache = Cache.open(address)
            with pytest.raises(CacheError, match=r"cannot list .*: of an unfinished cache, only a listing shows"):
                cache.todo()
            done = gdist("train", "--cache", address, "--out", tmp_path / "run")
            assert done.exit_code == 1 and "of an unfinished cache" in done.stderr
            assert "gdist copy" in done.stderr

    def test_what_is_missing(self, web: str, hub: str, own_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
        assert f"no cache at {web}/nowhere" in gdist("inspect", f"{web}/nowhere").stderr
        with pytest.raises(CacheError, match=r"no cache at .*/nowhere: it has no zarr.json") as caught:
            Cache.open(f"{web}/nowhere")
        assert caught.value.hint == "check the address: zarr.json must be directly below it"
        with pytest.raises(CacheError, match=r"no cache at hf://.*@v2/tiny"):
            Cache.open(f"{HUB}@v2/tiny")
        (own_cache / "layers/02/c/1/0").unlink()
        with serving(own_cache, tmp_path / "web") as address:
            cache = Cache.open(address)
            name = next(name for name, entry in cache.utterances.items() if entry.pack == 1)
            with pytest.raises(CacheError, match=f"cannot read layers/02 of the cache .*{name}"):
                cache.layer(name, 2)

    def test_a_token_that_is_missing(self, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(CacheError, match="401 Unauthorized") as caught:
            Cache.open(hub)
        assert caught.value.hint is not None and "whether HF_TOKEN may read it" in caught.value.hint
        monkeypatch.setenv("HF_ENDPOINT", "huggingface.co")
        with pytest.raises(UsageError, match="cannot use the endpoint of HF_ENDPOINT: it is no web address"):
            Cache.open(hub)

    def test_a_server_without_parts(self, tiny_cache: Path, tmp_path: Path) -> None:
        with serving(tiny_cache, tmp_path / "log", "no-ranges") as address:
            cache = Cache.open(address)
            with pytest.raises(CacheError) as caught:
                cache.layer(next(iter(cache.utterances)), 1)
        assert caught.value.hint is not None and "does not answer for parts of a file" in caught.value.hint


class TestLocations:
    @pytest.mark.parametrize(
        ("uri", "parts"),
        [
            (f"{HUB}/a/b", ("datasets/me/speech", "a/b", "")),
            (f"{HUB}@v1.0/a", ("datasets/me/speech", "a", "v1.0")),
            (HUB, ("datasets/me/speech", "", "")),
            (f"{HUB}/a b@c/", ("datasets/me/speech", "a b@c", "")),
        ],
    )
    def test_on_the_hub(self, uri: str, parts: tuple[str, str, str]) -> None:
        found = Location.parse(uri)
        assert (found.bucket, found.key, found.account) == parts
        assert uri.removesuffix("/") == f"{found.root}/{found.key}".removesuffix("/")

    @pytest.mark.parametrize(
        ("uri", "hint"),
        [
            ("hf://me/speech/a", "type hf://datasets/ORG/NAME/PATH"),
            ("hf://datasets/me", "type hf://datasets/ORG/NAME/PATH"),
            ("hf://datasets/../speech/a", "type hf://datasets/ORG/NAME/PATH"),
            ("hf://datasets/me/speech@/a", "type hf://datasets/ORG/NAME/PATH"),
            (f"{HUB}/a//b", f"type {HUB}/a/b"),
            (f"{HUB}/../other/b", f"type {HUB}/other/b"),
            (f"{HUB}/a%20b", f"type {HUB}/a b"),
            ("HF://datasets/me/speech/a", f"type {HUB}/a"),
        ],
    )
    def test_what_is_refused(self, uri: str, hint: str) -> None:
        with ExitStack() as stack:
            caught = stack.enter_context(pytest.raises(UsageError, match="cannot use"))
            Location.parse(uri)
        assert caught.value.hint is not None and hint in caught.value.hint

    def test_paths_stay_in_their_data_set(self) -> None:
        assert join(f"{HUB}/a", "../b.wav") == f"{HUB}/b.wav"
        with pytest.raises(UsageError):
            RemotePath.parse(f"{HUB}/a") / "../../../you/b.wav"
        assert overlap(HUB, f"{HUB}/a") and not overlap(f"{HUB}@v1/a", f"{HUB}@v2/a")
