"""Real object stores for tests, each in its own processes: moto always; Azurite and Ceph where they are asked for.

    GDIST_BUCKETS=azurite,ceph python -m pytest tests/pipeline/storage      (`make buckets` does this)

`chosen()` is what a test is parametrised over. Between a server and gdist there may be a proxy that misbehaves
(flaky.py), which :class:`Flaky` starts.
"""

import base64
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import pytest
from ceph import start_ceph
from conftest import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}  # fmt: skip
# Azurite's account and key are the same everywhere, and public.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
AZURITE = Path(__file__).parents[3] / ".azurite/node_modules/.bin/azurite-blob"  # where `make buckets` puts it


def chosen() -> list[str]:
    """The servers that tests run on."""
    return ["moto", *filter(None, os.environ.get("GDIST_BUCKETS", "").split(","))]


class Server:
    """A server without buckets. Its processes die with it.

    Attributes:
        scheme: of its locations.
        port: where it listens.
    """

    scheme = "s3"

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.log = (folder / "log").open("wb")
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            self.start()
            self.wait()
        except BaseException:
            self.stop()
            raise

    def start(self) -> None:
        raise NotImplementedError

    def spawn(self, *command: object, **environment: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            list(map(str, command)), stdout=self.log, stderr=self.log, env=os.environ | environment
        )
        self.processes.append(process)
        return process

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            except OSError:
                alive = all(process.poll() is None for process in self.processes)
                said = (self.folder / "log").read_text(errors="replace")[-2000:]
                assert alive and time.monotonic() < deadline, f"the server does not start: {said}"
                time.sleep(0.1)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        self.log.close()

    def environment(self, port: int) -> dict[str, str]:
        """What a user would export to reach it at a port."""
        return KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}

    @property
    def client(self) -> Any:
        """boto3, which sees what other programs see."""
        boto3 = pytest.importorskip("boto3")
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", **keys)

    def create(self, bucket: str) -> None:
        self.client.create_bucket(Bucket=bucket)
        # Ceph makes its pools at the first write, which takes longer than some tests have patience.
        self.client.put_object(Bucket=bucket, Key="first", Body=b"")
        self.client.delete_object(Bucket=bucket, Key="first")

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """Every key below ``prefix``, as another program lists them."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]


class Moto(Server):
    def start(self) -> None:
        pytest.importorskip("moto.server")
        self.spawn(sys.executable, "-m", "moto.server", "-p", self.port)


class Ceph(Server):
    def start(self) -> None:
        for program in ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin"):
            assert shutil.which(program), f"GDIST_BUCKETS=ceph: {program} is not installed"
        start_ceph(self.folder, self.port, self.spawn, KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"])


class Azurite(Server):
    scheme = "az"

    def start(self) -> None:
        program = os.environ.get("GDIST_AZURITE") or shutil.which("azurite-blob") or str(AZURITE)
        quiet = ("--disableTelemetry", "--silent", "--skipApiVersionCheck", "--inMemoryPersistence")
        self.spawn(program, *quiet, "--blobHost", "127.0.0.1", "--blobPort", self.port)

    def environment(self, port: int) -> dict[str, str]:
        return {
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
        }

    def create(self, bucket: str) -> None:
        self.request("PUT", bucket, restype="container")

    def keys(self, bucket: str, prefix: str) -> list[str]:
        found: list[str] = []
        marker = ""
        while True:
            more = {"marker": marker} if marker else {}
            answer = self.request("GET", bucket, restype="container", comp="list", prefix=prefix, **more)
            tree = ElementTree.fromstring(answer)
            found += [blob.findtext("Name") or "" for blob in tree.iter("Blob")]
            marker = tree.findtext("NextMarker") or ""
            if not marker:
                return found

    def request(self, method: str, container: str, **query: str) -> bytes:
        """Send a request, signed as Azure wants it ("Shared Key")."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        resource = f"/{ACCOUNT}/{ACCOUNT}/{container}" + "".join(f"\n{name}:{query[name]}" for name in sorted(query))
        named = "".join(f"{name}:{value}\n" for name, value in headers.items())
        text = f"{method}{12 * chr(10)}{named}{resource}"
        signature = hmac.digest(base64.b64decode(ACCOUNT_KEY), text.encode(), "sha256")
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
        url = f"http://127.0.0.1:{self.port}/{ACCOUNT}/{container}?{urlencode(query, quote_via=quote)}"
        asked = urllib.request.Request(url, method=method, headers=headers)
        with urllib.request.urlopen(asked, timeout=10) as answer:
            data: bytes = answer.read()
        return data


SERVERS = {"moto": Moto, "ceph": Ceph, "azurite": Azurite}


class Proxy:
    """A proxy that misbehaves (flaky.py), in its own process."""

    def __init__(self, server: Server, port: int = 0) -> None:
        self.port, script = port or free_port(), Path(__file__).parent / "flaky.py"
        self.endpoint = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, str(script), str(self.port), str(server.port)]
        self.process = subprocess.Popen(command, stdout=server.log, stderr=server.log)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.saw()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, "the proxy does not start"
                time.sleep(0.05)

    def does(self, *rules: dict[str, Any]) -> None:
        """From now on the proxy does this; its log starts empty."""
        asked = urllib.request.Request(f"{self.endpoint}/-/rules", json.dumps(rules).encode())
        urllib.request.urlopen(asked, timeout=5).close()

    def saw(self) -> list[dict[str, Any]]:
        """What went through."""
        with urllib.request.urlopen(f"{self.endpoint}/-/log", timeout=5) as answer:
            seen: list[dict[str, Any]] = json.load(answer)["log"]
        return seen

    def faults(self) -> list[str]:
        return [record["fault"] for record in self.saw() if record["fault"]]

    def freeze(self) -> None:
        """Connections are still accepted by the kernel, and nothing ever answers."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Flaky(Proxy):
    """A proxy in front of a bucket.

    Attributes:
        uri: of the bucket.
    """

    def __init__(self, server: Server, bucket: str) -> None:
        super().__init__(server)
        server.create(bucket)
        self.server, self.bucket, self.uri = server, bucket, f"{server.scheme}://{bucket}"


@contextmanager
def reachable(server: Server, port: int, **more: str) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a user of a server, and nothing else about stores, for the length of a ``with``."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("AWS_", "AZUR", "GOOGLE_"))]:
            environment.delenv(name)
        for name, value in (server.environment(port) | more).items():
            environment.setenv(name, value)
        yield environment


@contextmanager
def proxied(name: str, folder: Path, bucket: str, **more: str) -> Iterator[Flaky]:
    """A bucket of one of :data:`SERVERS` behind a proxy, and the environment of its user, for the length of a
    ``with``."""
    with running(name, folder) as behind:
        proxy = Flaky(behind, bucket)
        try:
            with reachable(behind, proxy.port, **more):
                yield proxy
        finally:
            proxy.kill()


@contextmanager
def running(name: str, folder: Path) -> Iterator[Server]:
    """One of :data:`SERVERS`, for the length of a ``with``."""
    server = SERVERS[name](folder)
    try:
        yield server
    finally:
        server.stop()
