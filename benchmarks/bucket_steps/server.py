"""A bucket on this machine: nginx serves the files of a folder, behind a line whose latency and speed are set.

nginx is not what limits a line: a GB from the page cache takes it a tenth of a second of one core (Ceph's radosgw 2.1
seconds of two, and moto more), which leaves the cores to what is measured. It is what serves the bytes; S3's listings
are the proxy's (proxy.py). Nothing is written through it: the cache is made in the folder.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

CONFIG = """
daemon off;
user {user};
worker_processes 1;
pid {place}/nginx.pid;
error_log {place}/nginx.log;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;
  client_body_temp_path {place}/temp; proxy_temp_path {place}/temp; fastcgi_temp_path {place}/temp;
  uwsgi_temp_path {place}/temp; scgi_temp_path {place}/temp;
  server {{ listen 127.0.0.1:{port}; root {place}/files; }}
}}
"""


@dataclass(frozen=True)
class Traffic:
    """What has passed through the line: (method, key in the bucket, range, bytes) of each request."""

    rows: list[tuple[str, str, str, int]]
    connections: int  # how many objects, or parts of some, were on the way at once

    @property
    def gets(self) -> int:
        """The requests for shards."""
        return sum(method == "GET" and "/c/" in key for method, key, _, _ in self.rows)

    @property
    def bytes(self) -> int:
        """The bytes of shards."""
        return sum(size for method, key, _, size in self.rows if method == "GET" and "/c/" in key)

    @property
    def others(self) -> int:
        """All other requests: listings, and documents that describe the cache."""
        return len(self.rows) - self.gets


class Bucket:
    """``s3://bench``, for the length of a ``with`` block; environment variables point obstore and children to it."""

    def __init__(self, place: Path) -> None:
        self.place, self.folder, self.uri = place, place / "files" / "bench", "s3://bench"
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Bucket":
        if shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None:
            raise SystemExit("error: this benchmark needs nginx\n  try: apt-get install nginx-light")
        (self.place / "temp").mkdir(parents=True)
        self.folder.mkdir(parents=True)
        port, self.port = free_port(), free_port()
        user = "root" if os.geteuid() == 0 else "nobody"
        config = self.place / "nginx.conf"
        config.write_text(CONFIG.format(place=self.place, port=port, user=user))
        nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
        proxy = [sys.executable, str(Path(__file__).with_name("proxy.py")), str(self.port), str(port)]
        try:
            for command in ([nginx, "-p", str(self.place), "-c", str(config)], [*proxy, str(self.place / "files")]):
                self.processes.append(subprocess.Popen(command))
            for each in (port, self.port):
                self.wait_for(each)
        except BaseException:
            self.__exit__()
            raise
        os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        return self

    def wait_for(self, port: int) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline or any(process.poll() is not None for process in self.processes):
                    raise SystemExit(f"error: nothing answers at port {port}; see {self.place}/nginx.log") from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()

    def line(self, latency: float, megabytes_per_second: float) -> None:
        """Set the line, and begin to count again. No limit where it is 0."""
        self._ask("POST", "/-/line", {"seconds": latency, "bytes_per_second": megabytes_per_second * 1e6})

    def traffic(self) -> Traffic:
        """Return what has passed since then."""
        found = self._ask("GET", "/-/count")
        rows = [(method, key.removeprefix("bench/"), span, size) for method, key, span, size in found["rows"]]
        return Traffic(rows, found["most_active"])

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def download(self, keys: Sequence[str], connections: int) -> float:
        """Seconds that a plain download of whole objects takes, so many at a time; the bytes are thrown away."""
        store = S3Store("bench", client_options={"allow_http": True})
        with ThreadPoolExecutor(max(connections, 1)) as pool:
            began = time.perf_counter()
            for _ in pool.map(lambda key: len(obstore.get(store, key).bytes()), keys):
                pass
            return time.perf_counter() - began


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
