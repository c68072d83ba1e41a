"""`gdist doctor` of buckets and web servers, which are real ones: what is allowed there is found, one by one, what
is not says why, and every object that was written to find out is gone afterwards."""

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import free_port
from servers import Flaky, Moto, proxied, reachable
from test_doctor import found
from web import serving

from gdist.pipeline.errors import UsageError
from gdist.pipeline.storage.access import access_of
from gdist.pipeline.storage.locations import Location
from gdist.pipeline.storage.objects import Storage
from gdist.stages.doctor.bucket import of_clock

Gdist = Callable[..., Result]
ALL = ("list", "create only", "write", "overwrite", "read", "read a range", "clock", "delete")
SECRET = "PLANTED-5ecret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flaky]:
    """Moto, behind the proxy."""
    with proxied("moto", tmp_path_factory.mktemp("doctor"), "doctor-flaky", AWS_MAX_ATTEMPTS="2") as proxy:
        yield proxy


def examined(gdist: Gdist, uri: str, *more: str) -> dict[str, dict[str, Any]]:
    """What was found of one place, by name."""
    checks = found(gdist("doctor", uri, *more, "--json"))
    return {name.removeprefix(f"{uri}: "): check for name, check in checks.items() if check["area"] == uri}


def statuses(checks: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: check["status"] for name, check in checks.items() if check["status"] != "ok"}


class TestABucket:
    def test_everything_is_tried_and_nothing_stays(self, flaky: Flaky, gdist: Gdist) -> None:
        """The requests went over the wire."""
        checks = examined(gdist, f"{flaky.uri}/a/b")
        assert set(ALL) <= checks.keys() and not statuses(checks)
        assert (
            checks["server"]["value"].startswith(flaky.endpoint) and "AWS_ENDPOINT_URL" in checks["server"]["value"]
        )
        assert "MB/s" in checks["read"]["value"] and checks["list"]["value"].endswith("ms")
        assert flaky.server.keys(flaky.bucket, "") == []
        sent = [f"{record['method']} {record['path']}" for record in flaky.saw()]
        for part in ("delete", "list-type=2&prefix=a%2Fb%2Fgdist-doctor-"):
            assert any(part in request for request in sent), part
        assert not any("uploads" in request for request in sent), "if it is killed, parts stay"
        assert all("/a/b/gdist-doctor-" in request or "?" in request for request in sent)

    def test_with_read_only_nothing_is_written(self, flaky: Flaky, gdist: Gdist) -> None:
        assert statuses(examined(gdist, f"{flaky.uri}/none", "--read-only")) == {"read": "note"}
        flaky.server.client.put_object(Bucket=flaky.bucket, Key="there/m.parquet", Body=bytes(100_000))
        try:
            for uri in (f"{flaky.uri}/there", f"{flaky.uri}/there/m.parquet"):
                checks = examined(gdist, uri, "--read-only")
                assert checks.keys() == {"server", "credentials", "list", "read", "read a range"}
                assert not statuses(checks) and checks["read"]["value"].startswith("100.0 kB")
            assert {record["method"] for record in flaky.saw()} <= {"GET", "HEAD"}
        finally:
            flaky.server.client.delete_object(Bucket=flaky.bucket, Key="there/m.parquet")

    @pytest.mark.parametrize(
        ("rule", "name", "value", "words"),
        [
            ({"fault": "unconditional", "method": "PUT"}, "create only", "is not kept", "two extractions"),
            (
                {"fault": "status", "status": 501, "code": "NotImplemented", "method": "PUT", "path": "/created"},
                "create only",
                "no",
                "lacks create-only puts",
            ),
            ({"fault": "other-bytes", "method": "GET", "path": "/large"}, "read", "wrong bytes", "other bytes"),
            ({"fault": "status", "status": 301, "code": "PermanentRedirect"}, "list", "no", "export AWS_REGION="),
            ({"fault": "status", "status": 403, "code": "RequestTimeTooSkewed"}, "list", "no", "timedatectl"),
            ({"fault": "status", "status": 403, "code": "ExpiredToken"}, "list", "no", "have expired"),
        ],
    )
    def test_a_problem_says_why(
        self, flaky: Flaky, gdist: Gdist, rule: dict[str, Any], name: str, value: str, words: str
    ) -> None:
        flaky.does(rule)
        checks = examined(gdist, flaky.uri)
        flaky.does()
        assert statuses(checks) == {name: "problem"}
        assert checks[name]["value"] == value and words in checks[name]["means"] + checks[name]["hint"]
        assert flaky.server.keys(flaky.bucket, "") == []

    def test_uploads_in_parts_are_not_needed(self, flaky: Flaky, gdist: Gdist) -> None:
        checks = examined(gdist, flaky.uri, "--in-parts")
        assert not statuses(checks) and "for 3 objects" in checks["delete"]["value"]
        assert any("partNumber=2" in record["path"] for record in flaky.saw())
        flaky.does({"fault": "status", "status": 501, "code": "NotImplemented", "method": "POST", "path": "uploads"})
        assert statuses(examined(gdist, flaky.uri, "--in-parts")) == {"write in parts": "note"}
        assert flaky.server.keys(flaky.bucket, "") == []

    def test_what_cannot_be_reached_takes_seconds(
        self, flaky: Flaky, gdist: Gdist, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A bucket that is missing, and a port at which nothing listens: then nothing else is tried."""
        checks = examined(gdist, "s3://doctor-absent/x")
        assert statuses(checks) == {"list": "problem"} and "aws s3 mb" in checks["list"]["hint"]
        assert not checks.keys() & {"create only", "read", "delete"}
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        began = time.monotonic()
        checks = examined(gdist, flaky.uri)
        assert time.monotonic() - began < 15
        assert statuses(checks) == {"list": "problem"} and "check the network" in checks["list"]["hint"]

    def test_settings_that_cannot_be_used(self, flaky: Flaky, gdist: Gdist, monkeypatch: pytest.MonkeyPatch) -> None:
        """A place that cannot be opened is a finding like others, and the machine is examined nevertheless."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1")
        result = gdist("doctor", flaky.uri, "--json")
        assert statuses(examined(gdist, flaky.uri)) == {"settings": "problem"}
        assert SECRET not in result.output and "AWS_ENDPOINT_URL" in result.stdout

    def test_an_interruption_leaves_nothing(self, flaky: Flaky) -> None:
        from gdist.stages.doctor.store import check_store

        checks = check_store(flaky.uri, read_only=False)
        while next(checks).name != "overwrite":
            pass
        assert len(flaky.server.keys(flaky.bucket, "")) == 2
        checks.close()
        assert flaky.server.keys(flaky.bucket, "") == []


# What a user may do; and the checks that this makes a problem, with the permission that each names.
USERS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "all": (("ListBucket", "GetObject", "PutObject", "DeleteObject"), {}),
    "no-list": (("GetObject", "PutObject", "DeleteObject"), {"list": "ListBucket"}),
    "no-read": (("ListBucket", "PutObject", "DeleteObject"), {"read": "GetObject"}),
    "no-write": (("ListBucket", "GetObject"), {"create only": "PutObject", "write": "PutObject"}),
    "no-delete": (("ListBucket", "GetObject", "PutObject"), {"delete": "DeleteObject"}),
}


class StrictMoto(Moto):
    """Moto that checks signatures and policies, once it has a bucket and its users."""

    def start(self) -> None:
        pytest.importorskip("moto.server")
        calls = 1 + 3 * len(USERS)  # so many are answered to anybody
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("INITIAL_NO_AUTH_ACTION_COUNT", str(calls))
            super().start()

    def admit(self, name: str, actions: tuple[str, ...]) -> dict[str, str]:
        """The keys of a new user, in three calls."""
        boto3 = pytest.importorskip("boto3")
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        people = boto3.client("iam", endpoint_url=f"http://127.0.0.1:{self.port}", **keys)
        people.create_user(UserName=name)
        made = people.create_access_key(UserName=name)["AccessKey"]
        allowed = {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        people.put_user_policy(UserName=name, PolicyName="some", PolicyDocument=policy)
        return {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StrictMoto, dict[str, dict[str, str]]]]:
    """The server, with the bucket ``doctor-strict``, and each user's keys."""
    server = StrictMoto(tmp_path_factory.mktemp("strict"))
    try:
        server.client.create_bucket(Bucket="doctor-strict")
        yield server, {name: server.admit(name, actions) for name, (actions, _) in USERS.items()}
    finally:
        server.stop()


@pytest.mark.parametrize("user", USERS)
def test_each_permission_that_lacks_is_named(
    strict: tuple[StrictMoto, dict[str, dict[str, str]]], gdist: Gdist, user: str
) -> None:
    """Each alone. What was written and may not be deleted is named, too."""
    (server, keys), (_, lacking) = strict, USERS[user]
    uri = f"s3://doctor-strict/{user}"
    with reachable(server, server.port, AWS_MAX_ATTEMPTS="2", **keys[user]):
        checks = examined(gdist, uri)
    assert {name for name, check in checks.items() if check["status"] == "problem"} == lacking.keys()
    for name, action in lacking.items():
        assert f"s3:{action}" in checks[name]["hint"]
    if user == "no-delete":
        assert f"then delete {uri}/gdist-doctor-" in checks["delete"]["hint"]
    elif user == "no-write":
        assert "delete" not in checks, "there is nothing to delete"
    else:
        assert "for 2 objects" in checks["delete"]["value"]
        with reachable(server, server.port, **keys["all"]):
            assert not Storage(uri).objects()


def test_a_wrong_key_is_one_problem(strict: tuple[StrictMoto, dict[str, dict[str, str]]], gdist: Gdist) -> None:
    server, keys = strict
    with reachable(server, server.port, **(keys["all"] | {"AWS_SECRET_ACCESS_KEY": SECRET})):
        result = gdist("doctor", "s3://doctor-strict/x", "--json")
        checks = examined(gdist, "s3://doctor-strict/x")
    assert statuses(checks) == {"list": "problem"} and "delete" not in checks
    assert "the server does not know them, or the secret is wrong" in checks["list"]["hint"]
    assert SECRET not in result.output


class TestTheWeb:
    def test_a_cache_a_file_and_nothing(self, gdist: Gdist, tiny_cache: Path, tmp_path: Path) -> None:
        with serving(tiny_cache.parent, tmp_path / "log") as address:
            for uri in (f"{address}/{tiny_cache.name}", f"{address}/{tiny_cache.name}/index.parquet"):
                checks = examined(gdist, uri)
                assert checks.keys() == {"server", "credentials", "read", "read a range"} and not statuses(checks)
            assert statuses(examined(gdist, f"{address}/nothing")) == {"read": "problem"}

    def test_a_server_that_ignores_ranges(self, gdist: Gdist, tiny_cache: Path, tmp_path: Path) -> None:
        with serving(tiny_cache.parent, tmp_path / "log", "no-ranges") as address:
            checks = examined(gdist, f"{address}/{tiny_cache.name}")
        assert statuses(checks) == {"read a range": "problem"}
        assert "does not answer for parts" in checks["read a range"]["hint"]

    def test_the_hub_with_and_without_a_token(
        self, gdist: Gdist, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uri = f"hf://datasets/me/speech/{tiny_cache.name}"
        with (
            serving(tiny_cache.parent, tmp_path / "files", "no-token") as files,
            serving(tiny_cache.parent, tmp_path / "hub", f"token={SECRET}", f"hub={files}") as hub,
        ):
            monkeypatch.setenv("HF_ENDPOINT", hub)
            monkeypatch.delenv("HF_TOKEN", raising=False)
            checks = examined(gdist, uri)
            assert statuses(checks) == {"read": "problem"} and "HF_TOKEN" in checks["read"]["hint"]
            monkeypatch.setenv("HF_TOKEN", SECRET)
            result = gdist("doctor", uri, "--json")
            assert not statuses(
                {check["name"]: check for check in json.loads(result.stdout)["checks"] if check["area"] == uri}
            )
            assert "the token of HF_TOKEN" in result.stdout and SECRET not in result.output


CREDENTIALS = [
    ("s3://b", {"AWS_ACCESS_KEY_ID": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET}, "keys: AWS_ACCESS_KEY_ID"),
    ("s3://b", {"AWS_SKIP_SIGNATURE": "true"}, "none, as AWS_SKIP_SIGNATURE says"),
    ("s3://b", {"AWS_WEB_IDENTITY_TOKEN_FILE": f"/{SECRET}"}, "a web identity"),
    ("s3://b", {}, ""),
    ("gs://b", {"GOOGLE_SERVICE_ACCOUNT_KEY": SECRET}, "a service account's key"),
    ("gs://b", {"GOOGLE_APPLICATION_CREDENTIALS": f"/{SECRET}"}, "a key file"),
    ("az://b", {"AZURE_STORAGE_ACCOUNT_KEY": SECRET, "AZURE_STORAGE_ACCOUNT_NAME": "acc"}, "an account's key"),
    ("az://b", {"AZURE_STORAGE_SAS_TOKEN": SECRET}, "a shared access signature"),
    ("hf://datasets/a/b", {"HF_TOKEN": SECRET}, "the token of HF_TOKEN"),
]


@pytest.mark.parametrize(("uri", "given", "words"), CREDENTIALS)
def test_which_credentials_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, given: dict[str, str], words: str
) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZUR", "GOOGLE_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    access = access_of(Location.parse(uri))
    assert access.credentials.startswith(words) and bool(access.credentials) == bool(words)
    assert SECRET not in f"{access}"


def test_keys_and_endpoint_of_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {SECRET}\naws_secret_access_key = {SECRET}\nregion = eu-west-3\n"
        "endpoint_url = http://minio:9000\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    access = access_of(Location.parse("s3://b"))
    assert access.endpoint == "http://minio:9000, region eu-west-3" and access.named_by == "endpoint_url in ~/.aws"
    assert access.credentials == "keys: the profile lab in ~/.aws"
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(UsageError, match="there is no such profile"):
        access_of(Location.parse("s3://b"))


@pytest.mark.parametrize(
    ("stored", "status", "value"),
    [
        (100, "ok", "as the store's"),
        (99, "ok", "as the store's"),
        (70, "ok", "29 s ahead"),
        (0, "note", "99 s ahead"),
        (130, "ok", "28 s behind"),
        (3702, "note", "3600 s behind"),
    ],
)
def test_the_clock(stored: float, status: str, value: str) -> None:
    """Sent at 100.2 by this machine's clock, and answered at 102. The store's times have no fractions."""
    check = of_clock("s3://b", datetime.fromtimestamp(stored, UTC), 100.2, 102.0)
    assert check.status == status and check.value.startswith(value)
