"""A web server that serves a folder and answers for parts of files, as a process of its own. It lists nothing.

python web.py FOLDER PORT [OPTION…]

no-ranges       it always answers with the whole file
token=T         it answers only requests with this token
no-token        it refuses requests with any token: they were not meant for it
hub=ADDRESS     it is the Hugging Face Hub: its files are at ADDRESS, to which it redirects
"""

import re
import sys
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

RESOLVE = re.compile(r"/datasets/me/speech/resolve/(main|v1)/(.*)")


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, options: dict[str, str], **settings: Any) -> None:
        self.options = options
        super().__init__(*arguments, **settings)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        said = self.headers.get("Authorization")
        wanted = self.options.get("token")
        if (wanted and said != f"Bearer {wanted}") or ("no-token" in self.options and said):
            self.say(401 if wanted else 400)
            return
        path = self.path
        if hub := self.options.get("hub"):
            found = RESOLVE.fullmatch(path)
            if not found or not Path(self.translate_path(f"/{found[2]}")).is_file():
                self.say(404)
            else:
                self.say(302, Location=f"{hub}/{found[2]}")
            return
        file = Path(self.translate_path(path))
        if not file.is_file():
            self.say(404)
            return
        data = file.read_bytes()
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not part or "no-ranges" in self.options:
            self.say(200, data if with_body else b"", len(data))
            return
        start = int(part[1]) if part[1] else max(len(data) - int(part[2]), 0)
        stop = min(int(part[2]) + 1, len(data)) if part[1] and part[2] else len(data)
        if start >= len(data):
            self.say(416)
            return
        self.say(206, data[start:stop], None, **{"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def say(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(folder: Path, log: Path, *options: str) -> Any:
    """A server for the length of a ``with``; gives its address."""
    import subprocess

    from conftest import free_port

    port = free_port()
    with log.open("wb") as written:
        process = subprocess.Popen([sys.executable, __file__, str(folder), str(port), *options], stderr=written)
        try:
            _wait(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait(port: int, process: Any) -> None:
    import socket
    import time

    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "the server does not start"
            time.sleep(0.02)


if __name__ == "__main__":
    given = dict(option.partition("=")[::2] for option in sys.argv[3:])
    handler = partial(Handler, options=given, directory=sys.argv[1])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), cast(Any, handler)).serve_forever()
