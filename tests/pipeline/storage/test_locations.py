"""A location is what was typed, character for character, or it is refused: on every store, as others see it.

boto3 reports what is in the bucket, and the operating system what is in a folder.
"""

import shlex
import string
import threading
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pytest
from click.testing import Result
from conftest import PACK_FRAMES, contents, extracted
from servers import SERVERS, Server, chosen, reachable, running

from gdist.pipeline.audio import Segment, read_header
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.lock import Lock
from gdist.pipeline.errors import AudioError, CacheError, CacheLockedError, UsageError
from gdist.pipeline.manifest.table import Manifest, check
from gdist.pipeline.storage.locations import AZURE, GOOGLE, S3, Location, folder_of, join, local_path, scheme_of
from gdist.pipeline.storage.objects import Storage
from gdist.pipeline.storage.paths import RemotePath, is_uri, place

Gdist = Callable[..., Result]
BUCKET = "odd-names"  # no other test's
PRINTABLE = [chr(code) for code in range(0x20, 0x7F) if chr(code) != "/"]
BEYOND = ["é", "e\u0301", "ß", "日", "😀", "\u00a0", "\u2028", "\u200b", "\x85", "\ufeff", "\u212a", "\ufffd", "א"]
CONTROLS = [chr(code) for code in [*range(0x20), 0x7F, 0xFFFE, 0xFFFF]]
WORDS = ["%41", "A", "%20", "%2F", "%252F", "run#1", "run#2", "run?a=1", "run?a=2", "run", "  ", "...", "..a", "a..",
         "user@host", "a=b&c", "*?[a-z]", "$(x)", "s3:", "\\\\", "\\n"]  # fmt: skip
# Each character at the start, in the middle and at the end of a name, twice, and alone. All are different.
NAMES = list(dict.fromkeys([f"{c}a{c}b{c}" for c in PRINTABLE + BEYOND] + PRINTABLE + BEYOND + WORDS))
NAMES.remove(".")
PATHS = [
    "/".join(NAMES[i : i + 6]) for i in range(0, len(NAMES), 6)
]  # each name as a part of one: fewer stores to open


@pytest.fixture(scope="module", params=[name for name in chosen() if SERVERS[name].scheme == "s3"])
def s3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """boto3, talking to a real S3 server over HTTP, which gdist finds through the environment."""
    with running(request.param, tmp_path_factory.mktemp("server")) as server, reachable(server, server.port):
        server.create(BUCKET)
        yield server.client


@pytest.fixture(params=[name for name in chosen() if SERVERS[name].scheme == "az"])
def azure(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server with Azure's protocol, which gdist finds through the environment."""
    with running(request.param, tmp_path) as server, reachable(server, server.port):
        server.create(BUCKET)
        yield server


def names_on(scheme: str) -> list[str]:
    """The names that are not refused there."""
    return [name for name in NAMES if scheme not in AZURE or not ("\\" in name or name.endswith("."))]


def keys_in(s3: Any, prefix: str) -> list[str]:
    """Every key of the bucket below ``prefix``, in order, as boto3 reads them."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [found["Key"] for page in pages for found in page.get("Contents", [])]


def round_trip(base: str, names: list[str], seen: Callable[[], list[str]] | None) -> None:
    """Write objects below each name, check that others see what was typed, and do all that gdist does to objects.

    Args:
        seen: the paths of all objects below ``base``, as reported by another program.
    """
    stores = {name: Storage(f"{base}/{name}", create=True) for name in names}
    for name, storage in stores.items():
        storage.put("layers/k", name.encode())
        assert storage.put_new("new", b"first")
    if seen:
        assert sorted(seen()) == sorted(f"{name}/{key}" for name in names for key in ("layers/k", "new"))
    for name, storage in stores.items():
        data = name.encode()
        assert storage.get("layers/k") == data  # so no other name's object replaced it
        part, size = storage.get_part("layers/k", 0, 1)
        assert (bytes(part), size) == (data[:1], len(data))
        assert storage.get_tail("layers/k", 1) == (data[-1:], len(data))
        assert [bytes(part) for part in storage.get_ranges("layers/k", [(0, 1)])] == [data[:1]]
        assert list(storage.objects()) == ["layers/k", "new"]
        assert list(storage.objects("layers")) == ["layers/k"]
        assert not storage.put_new("new", b"second")
        assert list(Storage(f"{base}/{name}/").objects()) == ["layers/k", "new"]  # the same place
    for number, (name, storage) in enumerate(stores.items(), start=1):
        storage.delete(["layers/k", "new"])
        assert not storage.objects()
        if seen and number % 20 == 0:
            assert sorted(seen()) == sorted(f"{n}/{key}" for n in names[number:] for key in ("layers/k", "new")), name
    if seen:
        assert not seen()


class TestEveryCharacter:
    def test_as_a_prefix_of_a_bucket(self, s3: Any) -> None:
        round_trip(
            f"s3://{BUCKET}/prefix", PATHS, lambda: [k.removeprefix("prefix/") for k in keys_in(s3, "prefix/")]
        )

    def test_as_a_prefix_of_a_container(self, azure: Server) -> None:
        paths = ["/".join(names_on("az")[i : i + 6]) for i in range(0, len(names_on("az")), 6)]
        seen = lambda: [key.removeprefix("prefix/") for key in azure.keys(BUCKET, "prefix/")]  # noqa: E731
        round_trip(f"az://{BUCKET}/prefix", paths, seen)

    def test_as_a_blob(self, azure: Server) -> None:
        names = names_on("az")
        for name in names:
            RemotePath.parse(f"az://{BUCKET}/keys/{name}").write_bytes(name.encode())
        assert sorted(azure.keys(BUCKET, "keys/")) == sorted(f"keys/{name}" for name in names)
        for path in RemotePath.parse(f"az://{BUCKET}/keys").files:
            assert path.read_bytes() == path.name.encode()
        Storage(f"az://{BUCKET}").delete([f"keys/{name}" for name in names])
        assert not azure.keys(BUCKET, "")

    @pytest.mark.parametrize("scheme", ["", "file://"])
    def test_as_a_folder(self, scheme: str, tmp_path: Path) -> None:
        round_trip(f"{scheme}{tmp_path}", NAMES, lambda: list(contents(tmp_path)))

    def test_as_a_name_of_memory(self) -> None:
        round_trip(f"memory://{uuid.uuid4()}", NAMES, None)

    def test_as_the_key_of_a_manifest_or_of_audio(self, s3: Any) -> None:
        """Written by gdist and listed by boto3, and the other way round."""
        for name in NAMES:
            RemotePath.parse(f"s3://{BUCKET}/keys/{name}").write_bytes(name.encode())
            s3.put_object(Bucket=BUCKET, Key=f"theirs/{name}.wav", Body=name.encode())
        assert sorted(keys_in(s3, "keys/")) == sorted(f"keys/{name}" for name in NAMES)
        listed = RemotePath.parse(f"s3://{BUCKET}/theirs/").files
        assert sorted(map(str, listed)) == sorted(f"s3://{BUCKET}/theirs/{name}.wav" for name in NAMES)
        for path in listed:
            assert path.read_bytes() == path.name.removesuffix(".wav").encode()
            assert path.read_part(0, 2)[0] == path.read_bytes()[:2]
            assert RemotePath.parse(str(path)) == path and place(str(path)) == path
        for name in NAMES:
            found = RemotePath.parse(f"s3://{BUCKET}/theirs") / f"{name}.wav"
            assert found in listed and found.parent / found.name == found
        whole = Storage(f"s3://{BUCKET}")
        assert sorted(whole.objects("theirs")) == sorted(f"theirs/{name}.wav" for name in NAMES)
        whole.delete([f"theirs/{name}.wav" for name in NAMES])
        assert not keys_in(s3, "theirs/") and len(keys_in(s3, "keys/")) == len(NAMES)

    @pytest.mark.parametrize("scheme", [*S3, *GOOGLE, *AZURE, "memory"])
    def test_the_parts_of_every_scheme_are_what_was_typed(
        self, scheme: str, s3: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        names = names_on(scheme)
        parsed = {Location.parse(f"{scheme}://bucket/{name}/x"): name for name in names}
        assert len(parsed) == len(names)
        for location, name in parsed.items():
            assert (location.scheme, location.bucket, location.key) == (scheme, "bucket", f"{name}/x")
        if scheme != "memory":
            store = Storage(f"{scheme}://bucket/{'/'.join(names)}").store
            assert store.prefix == "/".join(names) and "bucket" in store.config.values()

    @pytest.mark.parametrize("scheme", ["gs", "az"])
    def test_what_google_and_azure_are_asked_for(self, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        class Recorder(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        with _serving(Recorder) as url:
            account = f'{{"gcs_base_url": "{url}", "disable_oauth": true, "client_email": "", "private_key": "",'
            monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", account + ' "private_key_id": ""}')
            monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
            monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", url)
            monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
            path = "/".join(names_on(scheme))
            with pytest.raises(FileNotFoundError):
                Storage(f"{scheme}://bucket/{path}").get("k")
            for name in names_on(scheme):
                with pytest.raises(FileNotFoundError):
                    RemotePath.parse(f"{scheme}://bucket/{name}").read_bytes()
        assert not [path for path in asked if "#" in path or "?" in path]
        assert [unquote(path) for path in asked] == [f"/bucket/{key}" for key in (f"{path}/k", *names_on(scheme))]

    def test_of_a_web_server(self, tmp_path: Path) -> None:
        """Audio may be there. In web addresses three characters have another meaning, and are refused."""
        (tmp_path / "a").mkdir()
        for name in NAMES:
            (tmp_path / "a" / name).write_bytes(name.encode())

        class Quiet(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(tmp_path))

            def log_message(self, *_: object) -> None:
                pass

        with _serving(Quiet) as url:
            below = Storage(f"{url}/a")
            for name in NAMES:
                if set("%?#") & set(name):
                    with pytest.raises(UsageError, match="has a special meaning in web addresses"):
                        RemotePath.parse(f"{url}/a/{name}")
                else:
                    assert RemotePath.parse(f"{url}/a/{name}").read_bytes() == name.encode()
                    assert below.get(name) == name.encode()


class _serving:  # noqa: N801 — reads as a statement
    """A web server for the length of a ``with``; gives its address."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


# --- what is refused ------------------------------------------------------------------------------------------------

REFUSED = [
    ("s3://b/a//c", "an empty name between two slashes", "type s3://b/a/c"),
    ("s3://b//a", "an empty name between two slashes", "type s3://b/a"),
    ("s3://b/a//", "an empty name between two slashes", "type s3://b/a"),
    ("s3://b//", "an empty name between two slashes", "type s3://b/"),
    ("s3://b/a/../c", "object keys cannot contain . or ..", "type s3://b/c"),
    ("s3://b/./a", "object keys cannot contain . or ..", "type s3://b/a"),
    ("s3://b/a/..", "object keys cannot contain . or ..", "type s3://b/"),
    ("s3://b/..", "object keys cannot contain . or ..", "type s3://b/"),
    ("s3://b/a\nc", "the control character U+000A", "use a name without it"),
    ("s3://b/a\udcff", "a byte that is not UTF-8", "use a name without it"),
    ("S3://b/a", "S3:// is not supported", "type s3://b/a"),
    ("FILE:///a", "FILE:// is not supported", "type file:///a"),
    ("s4://b/a", "s4:// is not supported", "s3://BUCKET/PATH"),
    ("s3://", "it names no bucket", "s3://BUCKET/PATH"),
    ("s3:///a", "it names no bucket", "s3://BUCKET/PATH"),
    ("memory://", "it names no bucket", "memory://NAME"),
    ("s3://b#1", "'b#1' is not the name of a bucket", "s3://BUCKET/PATH"),
    ("s3://b?a=1/x", "'b?a=1' is not the name of a bucket", "s3://BUCKET/PATH"),
    ("s3://b%41/x", "'b%41' is not the name of a bucket", "s3://BUCKET/PATH"),
    ("s3:// b/x", "' b' is not the name of a bucket", "s3://BUCKET/PATH"),
    ("s3://bé/x", "'bé' is not the name of a bucket", "s3://BUCKET/PATH"),
    ("s3://../x", "'..' is not the name of a bucket", "s3://BUCKET/PATH"),
    ("s3://user@host/x", "what is before its @ is not the name of a bucket", "s3://BUCKET/PATH"),
    ("s3://b:80/x", "'b:80' is not the name of a bucket", "s3://BUCKET/PATH"),
    ("abfs://user@elsewhere.org/x", "is not the name of a bucket", "az://CONTAINER/PATH"),
    ("https://user:password@host/x", "is not the name of a server", "s3://BUCKET/PATH"),
    ("https://host/a%20b.wav", "% has a special meaning in web addresses", "type https://host/a b.wav"),
    ("https://host/a?b=c", "? has a special meaning in web addresses", "copy the file"),
    ("az://b/a\\c", "Azure treats a backslash as a slash", "use a name without it"),
    ("az://b/a./c", "Azure does not allow a dot at the end of a name", "use a name without it"),
    ("", "it names no folder", "type ."),
    ("file://", "it names no folder", "type ."),
    ("file://a/b", "must begin with a slash", f"type file://{Path.cwd()}/a/b"),
    ("~/a", "shells replace a ~", "or ./~/a if that is its name"),
    ("~nobody-of-that-name/a", "shells replace a ~", "type ./~nobody-of-that-name/a"),
    ("a\0b", "a NUL character", "use a name without it"),
]


class TestRefusals:
    @pytest.mark.parametrize(("uri", "why", "hint"), REFUSED, ids=[repr(uri) for uri, *_ in REFUSED])
    def test_it_says_why_and_what_to_type(
        self, uri: str, why: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if "Path.cwd" not in hint and not uri.startswith("file://a"):
            monkeypatch.chdir(tmp_path)
        for attempt in (lambda: Storage(uri, create=True), lambda: place(uri), lambda: Cache.find(uri)):
            with pytest.raises(UsageError) as caught:
                attempt()
            assert caught.value.message.startswith("cannot use ") and why in caught.value.message
            assert caught.value.hint is not None and hint in caught.value.hint
            str(caught.value).encode()  # it can be printed, whatever the bytes were
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "uri", [f"s3://b/{x}" for c in CONTROLS for x in (f"{c}a", f"a{c}a", f"a{c}", f"a/{c}/a")]
    )
    def test_control_characters_never_pass(self, uri: str) -> None:
        for typed in (uri, uri.replace("s3", "memory"), uri.replace("s3", "gs"), uri.replace("s3", "https")):
            with pytest.raises(UsageError, match="the control character"):
                Location.parse(typed)

    def test_the_command_line_ends_with_a_usage_error(self, gdist: Gdist, speech: Path, tiny_teacher: Path) -> None:
        result = gdist("extract", "--teacher", tiny_teacher, "--manifest", speech, "--cache", "s3://b/a/../c")
        assert result.exit_code == 2 and "type s3://b/c" in result.output


# --- what is the same place, and what a relative path means ---------------------------------------------------------


def test_a_new_folder_has_a_name_that_a_run_can_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a byte that is not UTF-8, and no run could record it"):
        Storage(f"{tmp_path}/a\udcff", create=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a\udcff").mkdir()
    assert Storage(f"{tmp_path}/a\udcff").folder, "one that is there can be looked at"


class TestSpellings:
    def test_a_slash_at_the_end_changes_nothing(self, tmp_path: Path) -> None:
        for uri in (f"memory://{uuid.uuid4()}/a", str(tmp_path / "a"), f"file://{tmp_path}/a"):
            with Lock(Storage(uri, create=True)), pytest.raises(CacheLockedError), Lock(Storage(f"{uri}/")):
                pass

    @pytest.mark.parametrize("path", ["/a/b://c", "a b://c", "é://c", "://", "a#://b", "1://x"])
    def test_only_a_scheme_makes_a_uri(self, path: str) -> None:
        assert not is_uri(path) and scheme_of(path) == "file"
        assert local_path(path) == Path(path)

    def test_file_is_a_prefix_and_nothing_more(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("a%20b", "a b ", "#1", "?x", "~"):
            assert folder_of(f"file://{tmp_path}/{name}") == folder_of(f"{tmp_path}/{name}") == tmp_path / name
        monkeypatch.chdir(tmp_path)
        assert folder_of("./~x") == tmp_path / "~x"

    @pytest.mark.parametrize(
        ("below", "found"),
        [
            ("a.wav", "s3://b/m/a.wav"),
            ("./x/../a#1?.wav ", "s3://b/m/a#1?.wav "),
            ("../a%20b.wav", "s3://b/a%20b.wav"),
            ("../../a.wav", "s3://b/../a.wav"),  # refused when it is read, as the next two
            ("x//a.wav", "s3://b/m/x//a.wav"),
            ("x//../a.wav", "s3://b/m/x//../a.wav"),
        ],
    )
    def test_relative_paths_in_a_bucket(self, below: str, found: str) -> None:
        assert join("s3://b/m", below) == join("s3://b/m/", below) == found
        assert Manifest(pa.table({"id": ["x"], "path": [below]}), "s3://b/m").utterances()[0].path == found

    def test_azure_account_in_the_location(self) -> None:
        location = Location.parse("abfss://box@account.dfs.core.windows.net/a#b")
        assert (location.bucket, location.account, location.key) == ("box", "account", "a#b")
        assert str(RemotePath.parse(f"{location.root}/a#b")) == "abfss://box@account.dfs.core.windows.net/a#b"
        store = Storage(f"{location.root}/a#b").store
        assert store.config == {"container_name": "box", "account_name": "account"} and store.prefix == "a#b"


# --- whole commands -------------------------------------------------------------------------------------------------


class TestCaches:
    @pytest.mark.thorough
    def test_the_neighbour_survives_a_restart(
        self, s3: Any, gdist: Gdist, tiny_teacher: Path, speech: Path, tiny_cache: Path
    ) -> None:
        """`run#1`, then `--restart` at `run#2` and others: once all one place, which lost the first."""
        first = f"s3://{BUCKET}/run#1"
        extracted(tiny_teacher, speech, first)
        whole = {f"run#1/{key}" for key in contents(tiny_cache)}
        assert set(keys_in(s3, "run")) == whole
        for other in ("run#2", "run?2", "run", "run ", "run%231"):
            uri = f"s3://{BUCKET}/{other}"
            Storage(uri).put("zarr.json", Storage(first).get("zarr.json"))  # looks like a cache that may be deleted
            fixed = ["--pack-frames", PACK_FRAMES, "--device", "cpu", "--json"]
            result = gdist(
                "extract", "--teacher", tiny_teacher, "--manifest", speech, "--cache", uri, "--restart", *fixed
            )
            assert result.exit_code == 0, result.output
            assert set(keys_in(s3, f"{other}/")) == {f"{other}/{key}" for key in contents(tiny_cache)}
            assert whole <= set(keys_in(s3, "run#1/")), f"{other} took something of run#1"
        for command in ("verify", "inspect"):
            assert gdist(command, first, "--json").exit_code == 0
        assert Cache.open(first).storage.get("zarr.json") == (tiny_cache / "zarr.json").read_bytes()
        extracted(tiny_teacher, speech, f"{first}/")  # finds all done: the same place
        assert set(keys_in(s3, "run#1")) == whole

    def test_a_marker_of_an_empty_folder_is_no_obstacle(self, s3: Any) -> None:
        s3.put_object(Bucket=BUCKET, Key="made in a console/", Body=b"")
        assert not Storage(f"s3://{BUCKET}/made in a console").objects()

    def test_foreign_keys_that_cannot_be_distinguished_are_refused(self, s3: Any) -> None:
        s3.put_object(Bucket=BUCKET, Key="theirs-odd/a//b", Body=b"")
        with pytest.raises(CacheError, match=r"cannot list .*theirs-odd.*a//b") as caught:
            Storage(f"s3://{BUCKET}/theirs-odd").objects()
        assert caught.value.hint and "rename or delete that object" in caught.value.hint


class TestManifests:
    def test_odd_names_from_a_listing_to_the_audio(self, s3: Any, gdist: Gdist, speech: Path) -> None:
        wav = Path(Manifest.read(speech).utterances()[0].path).read_bytes()
        names = [name for name in NAMES if not name.startswith(".") and len(name) > 1]
        for name in names:
            s3.put_object(Bucket=BUCKET, Key=f"my speech #1/{name}.flac", Body=wav)
        out = f"s3://{BUCKET}/my speech #1/m?.parquet"
        result = gdist("manifest", "build", f"s3://{BUCKET}/my speech #1", "--out", out, "--json")
        assert result.exit_code == 0, result.output
        assert out.removeprefix(f"s3://{BUCKET}/") in keys_in(s3, "my speech #1/m?")
        manifest = Manifest.read(out)
        assert sorted(manifest.table["path"].to_pylist()) == sorted(f"{name}.flac" for name in names)
        assert sorted(u.path.rpartition("/")[2] for u in manifest.utterances()) == sorted(f"{n}.flac" for n in names)
        assert not check(manifest)

    def test_a_path_that_cannot_be_kept_affects_one_utterance_only(self, s3: Any, speech: Path) -> None:
        wav = Path(Manifest.read(speech).utterances()[0].path).read_bytes()
        s3.put_object(Bucket=BUCKET, Key="one/x/a.flac", Body=wav)
        paths = ["x/a.flac", "x//a.flac", "../../one/x/a.flac", "x/a.flac/", f"s3://{BUCKET}/one/./x/a.flac",
                 f"S3://{BUCKET}/one/x/a.flac", "x/a\n.flac", "https://127.0.0.1/a?b", f"s3://{BUCKET}"]  # fmt: skip
        manifest = Manifest(
            pa.table({"id": [str(i) for i in range(len(paths))], "path": paths}), f"s3://{BUCKET}/one"
        )
        problems = {problem.id: problem.reason for problem in check(manifest)}
        assert list(problems) == [str(i) for i in range(1, len(paths))]
        for id, why in (
            ("1", "an empty name"),
            ("2", "cannot contain . or .."),
            ("3", "is a directory"),
            ("5", "S3:// is not supported"),
        ):
            assert why in problems[id]


@pytest.mark.parametrize("name", ["run #1", "it's", "$HOME", "a&b", "*"])
def test_a_suggested_command_can_be_pasted(name: str, tmp_path: Path) -> None:
    uri = str(tmp_path / name)
    Storage(uri, create=True)
    with pytest.raises(CacheError) as caught:
        Cache.open(uri)
    assert caught.value.hint and shlex.split(caught.value.hint, comments=True)[-1] == uri


def test_composed_and_decomposed_are_two_names() -> None:
    assert unicodedata.normalize("NFC", "e\u0301") == "é"
    assert Location.parse("s3://b/é") != Location.parse("s3://b/e\u0301")
    assert {*string.printable} - {*string.whitespace, "/"} | {" "} == set(PRINTABLE)
    with pytest.raises(AudioError, match="is not the name of a bucket"):
        read_header(Segment("s3://a b/c.wav"))
