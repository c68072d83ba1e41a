"""What a run, an evaluation and an export say of the software and the machine."""

import getpass
import json
import socket
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from gdist.pipeline.made_with import made_with, revision
from gdist.pipeline.run.schema import About
from gdist.pipeline.schema import conform


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> object:
    """Lets gdist be installed from where a document of PEP 610 says."""

    class Distribution:
        def __init__(self, text: str | None) -> None:
            self.text = text

        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return self.text

    def install(document: object) -> str | None:
        text = None if document is None else json.dumps(document)
        monkeypatch.setattr(metadata, "distribution", lambda name: Distribution(text))
        revision.cache_clear()
        return revision()

    yield install
    revision.cache_clear()


def git(folder: Path, *words: str) -> str:
    words = ("-c", "user.name=me", "-c", "user.email=me@example.org", *words)
    return subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_a_revision_is_known_where_git_was_used(installed: object, tmp_path: Path) -> None:
    assert callable(installed)
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    checkout = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
    assert installed(checkout) == head
    (tmp_path / "file").write_text("two")
    assert installed(checkout) == f"{head}+changes"
    assert installed({"url": "https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}) == "abc"
    assert installed({"url": tmp_path.as_uri(), "dir_info": {}}) is None
    assert installed({"url": (tmp_path / "no").as_uri(), "dir_info": {"editable": True}}) is None
    assert installed(None) is None and installed([]) is None


def test_it_names_no_people_hosts_or_folders() -> None:
    found = made_with()
    assert found["versions"]["gdist"] == metadata.version("gdist") and found["machine"]["cores"] >= 1
    assert found["machine"]["memory"] > 1 << 28 and "gpu" not in found["machine"]
    conform(found, About)
    words = json.dumps(found).replace('"', " ").split()
    assert socket.gethostname() not in words and getpass.getuser() not in words and str(Path.home()) not in words
