"""A slow line in front of a fast server, as a process of its own; it also counts what passes.

    python proxy.py PORT SERVER_PORT FOLDER

Each request waits for the line's latency before it is answered, and each connection gets at most so many bytes per
second. Bodies are spliced from socket to socket by the kernel, so that they take a tenth of a second of a core for
each GB and the proxy is not what limits the line. The server has plain files under FOLDER/BUCKET/KEY and no
listings: these are answered here, as S3 answers them.

    POST /-/line   {"seconds": 0.03, "bytes_per_second": 60e6}: from now on; the counts start again
    GET  /-/count  requests since then: [method, key, range, bytes] each, and how many objects were on the way at once
"""

import fcntl
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PIECE = 1 << 18  # bytes sent at once: 4 ms of a line of 60 MB/s
LATE = 0.02  # a line that was not used for longer than this has lost that time
PAGE = 1000  # keys in one answer to a listing
F_SETPIPE_SZ = 1031


class Line:
    """What all connections share: the settings, and the counts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock = folder, threading.Lock()
        self.set({})

    def set(self, wanted: dict[str, float]) -> None:
        self.seconds, self.rate = wanted.get("seconds", 0.0), wanted.get("bytes_per_second", 0.0)
        self.rows: list[tuple[str, str, str, int]] = []
        self.active = self.most_active = 0

    def begin(self) -> None:
        with self.lock:
            self.active += 1
            self.most_active = max(self.most_active, self.active)

    def end(self) -> None:
        with self.lock:
            self.active = max(self.active - 1, 0)


class Connection:
    """One client's connection, with its own to the server; both stay open from request to request."""

    def __init__(self, client: socket.socket, server: int, line: Line) -> None:
        self.client, self.port, self.line = client, server, line
        self.server: socket.socket | None = None
        self.pipe = os.pipe()
        fcntl.fcntl(self.pipe[0], F_SETPIPE_SZ, 1 << 20)

    def run(self) -> None:
        rest = b""
        try:
            while True:
                head, rest = read_head(self.client, rest)
                if not head:
                    return
                body, rest = read_body(self.client, rest, length_of(head))
                self.answer(head, body)
        except OSError:
            pass  # the client is gone, as it is after every benchmark
        finally:
            for end in (self.client, self.server):
                if end is not None:
                    end.close()
            for descriptor in self.pipe:
                os.close(descriptor)

    def answer(self, head: bytes, body: bytes) -> None:
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        url = urlsplit(target)
        if url.path.startswith("/-/"):
            self.reply(control(self.line, url.path, body))
            return
        time.sleep(self.line.seconds)
        key, query = unquote(url.path).lstrip("/"), parse_qs(url.query)
        if "list-type" in query:
            page = listing(self.line.folder / key.rstrip("/"), {name: values[0] for name, values in query.items()})
            self.reply(page, "application/xml")
            self.line.rows.append((method, "", url.query, len(page)))
            return
        self.line.begin()
        try:
            size = self.forward(head, body, method)
        finally:
            self.line.end()
        self.line.rows.append((method, key, field(head, b"range"), size))

    def reply(self, body: bytes, kind: str = "application/json") -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.client.sendall(head.encode() + body)

    def forward(self, head: bytes, body: bytes, method: str) -> int:
        """Let the server answer. Returns the size of the answer's body."""
        if self.server is None:
            self.server = connected(socket.create_connection(("127.0.0.1", self.port)))
        self.server.sendall(head + body)
        answer, rest = read_head(self.server, b"")
        if not answer:
            raise ConnectionError("the server closed the connection")
        size = 0 if method == "HEAD" else length_of(answer)
        self.client.sendall(answer + rest)
        self.paced(size, len(rest))
        return size

    def paced(self, size: int, sent: int) -> None:
        """Move the rest of a body from the server to the client, no faster than the line."""
        assert self.server is not None
        source, client = self.server.fileno(), self.client.fileno()
        rate, due = self.line.rate, time.monotonic() + sent / (self.line.rate or 1e12)
        while sent < size:
            got = os.splice(source, self.pipe[1], min(PIECE, size - sent))
            if not got:
                raise ConnectionError("the server closed the connection")
            if rate:
                now = time.monotonic()
                due = max(due + got / rate, now - LATE)
                if due > now:
                    time.sleep(due - now)
            sent += got
            while got:
                got -= os.splice(self.pipe[0], client, got)


def control(line: Line, path: str, body: bytes) -> bytes:
    if path == "/-/line":
        line.set(json.loads(body))
    return json.dumps({"rows": line.rows, "most_active": line.most_active}).encode()


def listing(folder: Path, query: dict[str, str]) -> bytes:
    """Answer ListObjectsV2: what is below a prefix, with or without a delimiter, page by page."""
    prefix, after = query.get("prefix", ""), query.get("continuation-token") or query.get("start-after", "")
    found: dict[str, Path | None] = {}
    for at, _, names in (folder / prefix.rpartition("/")[0]).walk():
        for path in (at / name for name in names):
            key = path.relative_to(folder).as_posix()
            below, slash, _ = key.removeprefix(prefix).partition("/")
            if key.startswith(prefix):
                common = slash and query.get("delimiter")
                found[f"{prefix}{below}/" if common else key] = None if common else path
    keys = sorted(key for key in found if key > after)
    parts = [f"<IsTruncated>{str(len(keys) > PAGE).lower()}</IsTruncated>"]
    if len(keys) > PAGE:
        parts.append(f"<NextContinuationToken>{escape(keys[PAGE - 1])}</NextContinuationToken>")
    for key in keys[:PAGE]:
        at_key = found[key]
        parts.append(
            _entry(key, at_key) if at_key else f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
        )
    text = f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>{"".join(parts)}</ListBucketResult>'
    return text.encode()


def _entry(key: str, path: Path) -> str:
    stat = path.stat()
    when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stat.st_mtime))
    tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
    fields = {"Key": escape(key), "LastModified": when, "ETag": tag, "Size": stat.st_size}
    return f"<Contents>{''.join(f'<{name}>{value}</{name}>' for name, value in fields.items())}</Contents>"


def read_head(source: socket.socket, data: bytes) -> tuple[bytes, bytes]:
    """Return a head with its empty line, and what has arrived after it; two times nothing at the end."""
    while (end := data.find(b"\r\n\r\n")) < 0:
        more = source.recv(1 << 16)
        if not more:
            return b"", b""
        data += more
    return data[: end + 4], data[end + 4 :]


def read_body(source: socket.socket, data: bytes, size: int) -> tuple[bytes, bytes]:
    while len(data) < size:
        data += source.recv(1 << 16)
    return data[:size], data[size:]


def field(head: bytes, name: bytes) -> str:
    """Return the value of a header field; "" where there is none."""
    for row in head.split(b"\r\n")[1:]:
        found, _, value = row.partition(b":")
        if found.lower() == name:
            return value.strip().decode()
    return ""


def length_of(head: bytes) -> int:
    return int(field(head, b"content-length") or 0)


def connected(one: socket.socket) -> socket.socket:
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def main(port: int, server: int, folder: str) -> None:
    line = Line(Path(folder))
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    while True:
        client: Any = connected(listener.accept()[0])
        threading.Thread(target=Connection(client, server, line).run, daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
