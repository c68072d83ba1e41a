"""A Hugging Face Hub of a few files, for tests: ``python hub.py FOLDER`` prints its port, and serves until it is told
to stop (``/stop``).

``FOLDER/org/model/REVISION/file`` is a file. A model with a file ``GATED`` is for the token ``granted``.
Statuses and headers are those of huggingface.co: an unknown model is 401 for someone unknown.
"""

import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(sys.argv[1])


class Hub(BaseHTTPRequestHandler):
    """Answers HEAD and GET of ``/org/model/resolve/REVISION/file``."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        if self.path == "/stop":
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            threading.Thread(target=self.server.shutdown).start()
            return
        self.answer(body=True)

    def refuse(self, status: int, code: str, message: str, commit: str = "") -> None:
        self.send_response(status)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, body: bool) -> None:
        parts = unquote(self.path).strip("/").split("/")
        token = self.headers.get("Authorization", "")
        if len(parts) < 5 or parts[2] != "resolve" or not (ROOT / parts[0] / parts[1]).is_dir():
            self.refuse(401 if not token else 404, "RepoNotFound", "Repository not found")
            return
        model, revision, file = ROOT / parts[0] / parts[1], parts[3], "/".join(parts[4:])
        commit = hashlib.sha1(f"{model}{revision}".encode()).hexdigest()
        if (model / "BROKEN").exists():
            self.refuse(507, "", "No space left")  # which no client tries again
        elif (model / "GATED").exists() and token != "Bearer granted":
            who = "your account" if token else "an account"
            self.refuse(
                403 if token else 401, "GatedRepo", f"Access to model is restricted; {who} must be granted it."
            )
        elif not (model / revision).is_dir():
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif not (model / revision / file).is_file():
            self.refuse(404, "EntryNotFound", "Entry not found", commit)
        else:
            content = (model / revision / file).read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
