"""A real HTTP proxy that misbehaves on demand, for use between gdist and an S3 server, in its own process:

    python tests/flaky.py PORT UPSTREAM_PORT

It does what networks and object stores do: answers 503, resets connections, stays silent, stalls halfway through a
body. Rules say what it does, and the first one that matches applies; see :class:`Rule`.

    POST /-/rules   a JSON list of rules, which replaces the old ones; the log is emptied
    GET  /-/log     what has passed since then: method, path, bytes up and down, the fault done to it, seconds
"""

import asyncio
import json
import random
import re
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

FAULTS = {
    "pass": "nothing (a rule for a delay, or an exception before a wider rule)",
    "status": "answers `status` with the error `code` and `message`; nothing is forwarded",
    "reset": "resets the connection once the request is in; nothing is forwarded",
    "reset-after": "forwards the request, then resets instead of answering: done, but the client cannot know",
    "silence": "takes the request and never answers; nothing is forwarded",
    "silence-after": "forwards the request, then never answers",
    "cut-upload": "resets half-way through the request's body",
    "stall-upload": "stops reading half-way through the request's body",
    "cut-download": "resets half-way through the answer's body",
    "stall-download": "stops half-way through the answer's body",
    "unconditional": "forwards the request without If-None-Match, as a server does that does not know it",
    "other-bytes": "changes the last byte of the answer's body",
}
WINDOW = 64 * 1024  # bytes in flight: small, so that a stalled upload is noticed by the sender and not buffered


@dataclass
class Rule:
    """Which requests to disturb, and how.

    Attributes:
        method, path: regular expressions; the path has no host, and has its query.
        times: how many requests it is done to (None: to all).
        rate: the share of matching requests it is done to, drawn from ``seed``.
        faults: the kinds to draw from, instead of one ``fault``.
        delay: seconds before the request is forwarded.
    """

    fault: str = "pass"
    method: str = ""
    path: str = ""
    times: int | None = None
    rate: float = 1.0
    seed: int = 0
    faults: list[str] = field(default_factory=list)
    status: int = 503
    code: str = "SlowDown"
    message: str = "as you wished"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0

    def __post_init__(self) -> None:
        assert {self.fault, *self.faults} <= FAULTS.keys(), f"there are: {', '.join(FAULTS)}"
        self._random = random.Random(self.seed)

    def applies(self, method: str, path: str) -> str | None:
        """The fault for this request; None when the rule does not apply."""
        if not (re.search(self.method, method) and re.search(self.path, path)) or self.times == 0:
            return None
        if self._random.random() >= self.rate:
            return None
        if self.times is not None:
            self.times -= 1
        return self._random.choice(self.faults) if self.faults else self.fault


class Proxy:
    """One listening port in front of one upstream port."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.rules: list[Rule] = []
        self.log: list[dict[str, Any]] = []
        self.active = self.most_active = 0

    async def serve(self, port: int) -> None:
        listener = socket.create_server(("127.0.0.1", port), backlog=512)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)  # connections inherit it
        server = await asyncio.start_server(self.connection, sock=listener, limit=WINDOW)
        await server.serve_forever()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one client connection, one after another."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                if path.startswith("/-/"):
                    await self.control(path, await reader.readexactly(_length(head)), writer)
                    continue
                self.active += 1
                self.most_active = max(self.most_active, self.active)
                try:
                    await self.request(method, path, head, reader, writer)
                finally:
                    self.active -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def control(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        answer: Any = {"log": self.log, "most_active": self.most_active}
        if path == "/-/rules":
            self.rules, self.log, answer = [Rule(**rule) for rule in json.loads(body)], [], {}
            self.most_active = self.active
        await _send(writer, 200, json.dumps(answer).encode())

    async def request(
        self, method: str, path: str, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward one request, or disturb it as the rules say."""
        began, length = time.monotonic(), _length(head)
        record: dict[str, Any] = {"method": method, "path": path, "fault": None, "up": length, "down": 0}
        self.log.append(record)
        rule, fault = next(
            ((rule, fault) for rule in self.rules if (fault := rule.applies(method, path))), (Rule(), "pass")
        )
        record["fault"] = None if fault == "pass" else fault
        if fault.endswith("-upload"):
            await reader.readexactly(length // 2)
            if fault == "cut-upload":
                _reset(writer)
            else:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
            await self.forever(writer)
        body = await reader.readexactly(length)
        if rule.delay:
            await asyncio.sleep(rule.delay)
        if fault == "status":
            xml = f"<Error><Code>{rule.code}</Code><Message>{rule.message}</Message></Error>"
            text = f'<?xml version="1.0" encoding="utf-8"?>{xml}'.encode()
            return await _send(writer, rule.status, b"" if method == "HEAD" else text, rule.headers)
        if fault == "reset":
            _reset(writer)
        if fault not in ("reset", "silence"):
            if fault == "unconditional":
                head = re.sub(rb"\r\nif-none-match:[^\r]*", b"", head, flags=re.IGNORECASE)
            answer = await self.forward(head, body)
            if fault == "other-bytes":
                answer = answer[:-1] + bytes([answer[-1] ^ 1])
            if fault == "reset-after":
                _reset(writer)
            elif fault != "silence-after":
                start = answer.index(b"\r\n\r\n") + 4
                record |= {"down": len(answer) - start, "status": int(answer.split(b" ", 2)[1])}
                if not fault.endswith("-download"):
                    writer.write(answer)
                    await writer.drain()
                    record["seconds"] = time.monotonic() - began
                    return None
                writer.write(answer[: start + (len(answer) - start) // 2])
                await writer.drain()
                if fault == "cut-download":
                    await asyncio.sleep(0.05)  # or the reset overtakes what was sent
                    _reset(writer)
        return await self.forever(writer)

    async def forever(self, writer: asyncio.StreamWriter) -> None:
        """Send nothing until the client gives up."""
        while not writer.transport.is_closing():
            if _gone(writer):
                writer.transport.abort()
            await asyncio.sleep(0.02)
        raise ConnectionResetError

    async def forward(self, head: bytes, body: bytes) -> bytes:
        """Return the upstream's whole answer, as one that leaves the client's connection open."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            lines[-2:] = [b"Connection: close", b"", b""]
            writer.write(b"\r\n".join(lines) + body)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        start = answer.index(b"\r\n\r\n")
        lines = [line for line in answer[:start].split(b"\r\n") if not line.lower().startswith(b"connection:")]
        return b"\r\n".join(lines) + answer[start:]


def _length(head: bytes) -> int:
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else 0


def _gone(writer: asyncio.StreamWriter) -> bool:
    """Whether the client closed its end, which asyncio does not notice while reading is paused."""
    info = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    established = 1
    return bool(info[0] != established)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    head = f"HTTP/1.1 {status} Status\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    writer.write(f"{head}{more}\r\n".encode() + body)
    await writer.drain()


if __name__ == "__main__":
    asyncio.run(Proxy(int(sys.argv[2])).serve(int(sys.argv[1])))
