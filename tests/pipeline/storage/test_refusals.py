"""What does not pass by itself: each failure says why, and what to do next. And whose credentials are used."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import contents
from in_bucket import extract, stored
from servers import Flaky, proxied

from gdist.pipeline.errors import CacheError, UsageError
from gdist.pipeline.storage.hints import ROWS
from gdist.pipeline.storage.objects import Storage

Gdist = Callable[..., Result]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flaky]:
    """Moto, behind the proxy."""
    folder = tmp_path_factory.mktemp("server")
    with proxied("moto", folder, "flaky-speech", AWS_MAX_ATTEMPTS="4", GDIST_STORE_TIMEOUT="0.5") as proxy:
        yield proxy


# --- what does not pass ---------------------------------------------------------------------------------------------

REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"status": 403, "code": "ExpiredToken"}, "403 Forbidden ExpiredToken", "the credentials have expired"),
    ({"status": 403, "code": "InvalidAccessKeyId"}, "InvalidAccessKeyId", "the server does not know them"),
    (
        {"status": 403, "code": "AccessDenied", "method": "PUT"},
        "AccessDenied",
        "ask for s3:PutObject",
    ),
    ({"status": 301, "code": "PermanentRedirect"}, "redirect", "export AWS_REGION="),
    ({"status": 400, "code": "AuthorizationHeaderMalformed"}, "Malformed", "export AWS_REGION="),
    ({}, "503 Service Unavailable SlowDown", "overloaded"),
    ({"fault": "reset"}, "Connection reset by peer", "check the network"),
    ({"fault": "silence"}, "no answer in time", "check the network"),
]


class TestFailuresSayWhy:
    @pytest.mark.thorough
    def test_and_the_run_resumes(
        self,
        flaky: Flaky,
        gdist: Gdist,
        monkeypatch: pytest.MonkeyPatch,
        tiny_teacher: Path,
        speech: Path,
        tiny_cache: Path,
    ) -> None:
        """From the third pack on everything is refused, for one reason after another; then the last one is fixed."""
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        uri = f"{flaky.uri}/refused"
        until_then = {
            "path": "/receipts/0000[01]|/c/[01]/0|planning|extracting|plans/|delete|zarr.json|index|teacher|list-type"
        }
        for rule, words, hint in REFUSALS:
            flaky.does(until_then, {"fault": "status"} | rule)
            began = time.monotonic()
            result = gdist(*extract(tiny_teacher, speech, uri))
            assert time.monotonic() - began < 15
            assert result.exit_code == 1, result.output
            (said,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
            assert f"{uri}/" in said and words in said
            assert hint in result.stderr and "Traceback" not in result.output
        flaky.does()
        again = gdist(*extract(tiny_teacher, speech, uri))
        assert again.exit_code == 0 and json.loads(again.stdout)["packs_resumed"] == 2
        assert stored(uri) == contents(tiny_cache)

    @pytest.mark.parametrize(
        ("endpoint", "words"),
        [
            ("http://127.0.0.1:1", "Connection refused at http://127.0.0.1:1 ("),
            ("http://nowhere.invalid", "the host name is unknown"),
        ],
    )
    @pytest.mark.parametrize("command", ["inspect", "verify", "extract", "train"])
    def test_a_dead_endpoint(
        self, server: Flaky, gdist: Gdist, monkeypatch: pytest.MonkeyPatch, tiny_teacher: Path, speech: Path,
        tmp_path: Path, endpoint: str, words: str, command: str,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        uri = "s3://flaky-speech/x"
        arguments: dict[str, list[object]] = {
            "inspect": ["inspect", uri],
            "verify": ["verify", uri],
            "extract": extract(tiny_teacher, speech, uri),
            "train": ["train", "--cache", uri, "--out", tmp_path / "new"],
        }
        began = time.monotonic()
        result = gdist(*arguments[command])
        assert time.monotonic() - began < 8
        assert result.exit_code == 1
        assert words in result.stderr and "check the network and AWS_ENDPOINT_URL" in result.stderr
        kept = {"extract": "again: finished packs are kept\n", "train": "again: its checkpoints are kept\n"}
        assert result.stderr.endswith(kept.get(command, "run the same command again\n"))

    def test_a_server_that_never_answers(self, flaky: Flaky) -> None:
        """At first contact two tries are enough: the address is wrong."""
        flaky.does({"fault": "silence"})
        began = time.monotonic()
        with pytest.raises(CacheError, match=r"no answer in time at http.* \(2 tries in \d.\d s\)"):
            Storage("s3://never-reached/x").get("k")
        assert time.monotonic() - began < 3

    def test_no_bucket(self, flaky: Flaky) -> None:
        storage = Storage("s3://no-such-bucket/x")
        for attempt in (
            lambda: storage.get("k"),
            lambda: storage.put("k", b"x"),
            lambda: storage.put_new("k", b"x"),
            lambda: storage.objects(),
        ):
            with pytest.raises(CacheError, match="404 Not Found NoSuchBucket") as caught:
                attempt()
            assert caught.value.hint and caught.value.hint.startswith("there is no such bucket")

    @pytest.mark.parametrize(("name", "value"), [("GDIST_STORE_TIMEOUT", "soon"), ("AWS_MAX_ATTEMPTS", "0")])
    def test_invalid_settings(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match=f"{name}={value}: must be a number"):
            Storage("s3://flaky-speech/x")


# --- each code ------------------------------------------------------------------------------------------------------

# Store, status, code, message, what was asked for; then words of the hint.
AZURE_MESSAGE = "Server failed to authenticate the request."
CODES: list[tuple[str, int, str, str, str, str]] = [
    ("s3", 403, "RequestTimeTooSkewed", "", "get", "this machine's clock is wrong"),
    ("gs", 403, "RequestTimeTooSkewed", "", "get", "this machine's clock is wrong"),
    ("az", 403, "AuthenticationFailed", "Request date header too old", "get", "this machine's clock is wrong"),
    ("s3", 400, "ExpiredToken", "", "put", "the credentials have expired"),
    ("az", 403, "AuthenticationFailed", "Signature not valid in the specified time frame", "get", "have expired"),
    (
        "s3",
        403,
        "InvalidAccessKeyId",
        "",
        "list",
        "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    ("s3", 403, "SignatureDoesNotMatch", "", "get", "the server does not know them, or the secret is wrong"),
    (
        "az",
        403,
        "AuthenticationFailed",
        AZURE_MESSAGE,
        "get",
        "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    ),
    ("gs", 403, "InvalidSecurity", "", "get", "check GOOGLE_SERVICE_ACCOUNT"),
    ("az", 403, "AuthorizationFailure", "", "list", "whether the account's firewall admits this machine"),
    ("az", 403, "KeyBasedAuthenticationNotPermitted", "", "get", "AZURE_STORAGE_SAS_TOKEN"),
    ("s3", 403, "QuotaExceeded", "", "put", "the quota is used up: raise it"),
    ("s3", 507, "XMinioStorageFull", "", "put", "the server's disks are full"),
    (
        "s3",
        404,
        "NoSuchBucket",
        "",
        "get",
        "there is no such bucket (or AWS_ENDPOINT_URL points elsewhere): create it",
    ),
    ("gs", 404, "NoSuchBucket", "", "list", "gcloud storage buckets create"),
    ("az", 404, "ContainerNotFound", "", "get", "there is no such container in the account: create it"),
    ("az", 404, "ContainerNotFound", "", "list", "az storage container create"),
    (
        "az",
        404,
        "ResourceNotFound",
        "",
        "get",
        "there is no such account or container: check AZURE_STORAGE_ACCOUNT_NAME",
    ),
    ("az", 409, "ContainerBeingDeleted", "", "put", "this container is being deleted"),
    ("az", 403, "AccountIsDisabled", "", "get", "the server has closed this account"),
    ("s3", 400, "InvalidBucketName", "", "get", "no bucket can have this name"),
    ("s3", 301, "PermanentRedirect", "", "get", "the bucket is in another region"),
    ("s3", 400, "IllegalLocationConstraint", "", "list", "the bucket is in another region"),
    ("s3", 403, "InvalidObjectState", "", "get", "the object is in an archive"),
    ("az", 409, "BlobArchived", "", "get", "the object is in an archive"),
    ("s3", 501, "NotImplemented", "", "put", "the server lacks create-only puts"),
    ("gs", 400, "UserProjectMissing", "", "get", "its readers pay"),
    (
        "s3",
        403,
        "AccessDenied",
        "",
        "get",
        "or it is missing and they may not list: ask for s3:GetObject and s3:ListBucket",
    ),
    (
        "s3",
        403,
        "AccessDenied",
        "",
        "size",
        "or it is missing and they may not list: ask for s3:GetObject and s3:ListBucket",
    ),
    ("s3", 403, "AccessDenied", "", "list", "these credentials may not list this bucket: ask for s3:ListBucket"),
    ("s3", 403, "AccessDenied", "", "put", "these credentials may not write there: ask for s3:PutObject"),
    ("s3", 403, "AccessDenied", "", "delete", "these credentials may not delete there: ask for s3:DeleteObject"),
    ("gs", 403, "AccessDenied", "", "list", "ask for storage.objects.list"),
    ("gs", 403, "AccessDenied", "", "delete", "ask for storage.objects.delete"),
    ("az", 403, "AuthorizationPermissionMismatch", "", "put", "ask for the role Storage Blob Data Contributor"),
    ("az", 403, "AuthorizationPermissionMismatch", "", "get", "ask for the role Storage Blob Data Reader"),
    ("s3", 503, "SlowDown", "", "get", "the object store is overloaded or out of order"),
    ("az", 503, "ServerBusy", "", "put", "the object store is overloaded or out of order"),
]
REQUESTS: dict[str, Callable[[Storage], object]] = {
    "get": lambda storage: storage.get("zarr.json"),
    "size": lambda storage: storage.size("zarr.json"),
    "list": lambda storage: storage.objects(),
    "put": lambda storage: storage.put_new("k", b"x"),
    "delete": lambda storage: storage.delete(["k"]),
}


class TestEachCode:
    @pytest.fixture(autouse=True)
    def everywhere(self, flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
        """The proxy stands for Azure and Google too."""
        nobody = {"gcs_base_url": flaky.endpoint, "disable_oauth": True, "client_email": "", "private_key": ""}
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(nobody | {"private_key_id": ""}))
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "eA==")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", flaky.endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    @pytest.mark.parametrize(("scheme", "status", "code", "message", "asked", "words"), CODES)
    def test_its_own_hint(
        self, flaky: Flaky, scheme: str, status: int, code: str, message: str, asked: str, words: str
    ) -> None:
        flaky.does({"fault": "status", "status": status, "code": code, "message": message})
        with pytest.raises(CacheError) as caught:
            REQUESTS[asked](Storage(f"{scheme}://flaky-speech/x"))
        hint = str(caught.value.hint)
        assert words in hint and "{" not in hint
        others = {"s3": ("AZURE", "GOOGLE"), "az": ("AWS", "GOOGLE"), "gs": ("AWS", "AZURE")}[scheme]
        assert not [name for name in others if name in hint]
        assert "zarr.json" not in caught.value.message or asked in ("get", "size")

    def test_every_row_is_here(self) -> None:
        driven = {(code, message) for _, _, code, message, _, _ in CODES}
        for codes, besides, advice in ROWS:
            fits = [
                code
                for code, message in driven
                if re.fullmatch(codes, code) and re.search(besides, f"<Code>{code}</Code>{message}")
            ]
            assert fits, advice

    @pytest.mark.parametrize(
        ("scheme", "code", "hint"),
        [
            ("az", "ResourceNotFound", "check AZURE_STORAGE_ACCOUNT_NAME"),
            ("az", "ContainerNotFound", "there is no such container in the account"),
            ("gs", "NoSuchBucket", "there is no such bucket"),
        ],
    )
    def test_a_wrong_account_is_no_missing_cache(
        self, flaky: Flaky, gdist: Gdist, scheme: str, code: str, hint: str
    ) -> None:
        flaky.does({"fault": "status", "status": 404, "code": code})
        result = gdist("inspect", f"{scheme}://flaky-speech/x")
        assert result.exit_code == 1 and hint in result.stderr and "it has no zarr.json" not in result.stderr

    @pytest.mark.parametrize(
        ("scheme", "words"),
        [
            ("s3", "check the network and AWS_ENDPOINT_URL"),
            ("az", "check the network and AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ENDPOINT"),
            ("gs", "check the network and GOOGLE_SERVICE_ACCOUNT"),
        ],
    )
    def test_no_answer(self, flaky: Flaky, scheme: str, words: str) -> None:
        flaky.does({"fault": "reset"})
        with pytest.raises(CacheError) as caught:
            Storage(f"{scheme}://flaky-speech/x").get("k")
        assert caught.value.hint and words in caught.value.hint

    def test_two_at_the_same_moment(self, flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
        """S3 refuses one of two simultaneous create-only puts without saying that there is an object now."""
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        flaky.does({"fault": "status", "status": 409, "code": "ConditionalRequestConflict", "times": 1})
        assert Storage("s3://flaky-speech/moment").put_new("k", b"x")

    def test_azure_without_an_account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
        monkeypatch.delenv("AZURE_STORAGE_ENDPOINT")
        with pytest.raises(UsageError, match="Account must be specified") as caught:
            Storage("az://container/x")
        assert caught.value.hint and caught.value.hint.startswith("set AZURE_STORAGE_ACCOUNT_NAME")


# --- credentials ----------------------------------------------------------------------------------------------------


class TestCredentials:
    @pytest.fixture
    def home(self, server: Flaky, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """No keys, no endpoint and no region in the environment; a ~/.aws instead."""
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT_URL", "REGION"):
            monkeypatch.delenv(f"AWS_{name}")
        for name in ("CONFIG", "SHARED_CREDENTIALS"):
            monkeypatch.setenv(f"AWS_{name}_FILE", str(tmp_path / name))
        (tmp_path / "SHARED_CREDENTIALS").write_text(
            "[default]\naws_access_key_id = D\naws_secret_access_key = d\n"
            "[lab]\naws_access_key_id=LAB\naws_secret_access_key=a%b=c\naws_session_token=T\n"
        )
        (tmp_path / "CONFIG").write_text(
            f"[default]\nregion = eu-north-1\nendpoint_url = {server.endpoint}\n"
            f"[profile lab]\nregion = eu-west-3\nendpoint_url = {server.endpoint}\n"
            "[profile people]\nsso_session = corp\nregion = eu-west-3\n"
        )
        return tmp_path

    def test_the_default_profile(self, home: Path, flaky: Flaky) -> None:
        storage = Storage(f"{flaky.uri}/profile")
        assert storage.store.config["access_key_id"] == "D" and storage.store.config["region"] == "eu-north-1"
        storage.put("k", b"x")
        assert storage.get("k") == b"x"

    def test_a_named_profile(self, home: Path, flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "lab")
        storage = Storage(f"{flaky.uri}/profile")
        assert storage.store.config["secret_access_key"] == "a%b=c" and storage.store.config["session_token"] == "T"
        storage.put("k", b"y")
        assert flaky.saw()[0]["path"] == f"/{flaky.bucket}/profile/k"

    def test_the_environment_wins(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "E")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "e")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        config = Storage("s3://flaky-speech/x").store.config
        assert "access_key_id" not in config and "region" not in config and "endpoint" in config

    def test_profiles_that_do_not_help(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(UsageError, match="AWS_PROFILE=nobody: there is no such profile"):
            Storage("s3://flaky-speech/x")
        monkeypatch.setenv("AWS_PROFILE", "people")
        with pytest.raises(UsageError, match="this one has sso_session") as caught:
            Storage("s3://flaky-speech/x")
        assert caught.value.hint == 'eval "$(aws configure export-credentials --profile people --format env)"'

    @pytest.mark.parametrize(
        ("variable", "value"),
        [("AWS_ENDPOINT_URL_S3", None), ("AWS_ENDPOINT", None), ("AWS_SKIP_SIGNATURE", "true")],
    )
    def test_other_variables(
        self, flaky: Flaky, monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None
    ) -> None:
        if variable == "AWS_SKIP_SIGNATURE":
            flaky.does({"fault": "pass"})
            Storage(f"{flaky.uri}/anonymous").put("k", b"x")
            for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
                monkeypatch.delenv(f"AWS_{name}")
            monkeypatch.setenv(variable, "true")
            with pytest.raises(CacheError, match="403"):  # moto refuses anonymous requests: this one was unsigned
                Storage(f"{flaky.uri}/anonymous").get("k")
            return
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        if variable == "AWS_ENDPOINT_URL_S3":
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv(variable, flaky.endpoint)
        assert not Storage(f"{flaky.uri}/nothing").objects()
