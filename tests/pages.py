"""The blocks of a page of the documentation, run as a reader would run them: in order, in one folder.

- ``console``: each line that begins with ``$`` is typed into bash; what follows it is what has to come out, where
  ``…`` stands for anything. A command without such lines may print what it likes.
- ``python`` with ``>>>``: a session, with the results that have to come out.
- ``python`` or ``toml`` whose first line is ``# NAME``: a file of that name.
"""

import doctest
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
NAMED = re.compile(r"# (\S+\.(?:py|toml))\n")


@dataclass(frozen=True)
class Block:
    """A block of a page: what it is written in, and its text."""

    language: str
    text: str

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command of a ``console``, with what it has to print."""
        found = COMMAND.findall(self.text)
        assert "".join(f"$ {command}\n{output}" for command, output in found) == self.text, self.text
        return found

    def write(self, folder: Path) -> None:
        """Write a file, to the name in its first line."""
        named = NAMED.match(self.text)
        assert named, f"a file without a name: {self.text[:60]}"
        (folder / named[1]).write_text(self.text, encoding="utf-8")


def blocks(page: Path, instead: Mapping[str, str] | None = None) -> Iterator[Block]:
    """The blocks of a page that can be run.

    Args:
        instead: text of the page → what to run in its place, for a test that has less time than a reader. Each text
            has to be there.
    """
    text = page.read_text(encoding="utf-8")
    for theirs, ours in (instead or {}).items():
        assert text.count(theirs) == 1, f"{page}: {theirs!r} is there {text.count(theirs)} times"
        text = text.replace(theirs, ours)
    for language, block in BLOCK.findall(text):
        if language in ("console", "python", "toml"):
            yield Block(language, block)


def run(block: Block, folder: Path, path: str) -> None:
    """Run a block in a folder.

    Args:
        path: the PATH on which its commands are found.

    Raises:
        AssertionError: a command fails, or something else comes out than the page says.
    """
    if block.language == "console":
        for command, output in block.commands:
            typed(command, output, folder, path)
    elif ">>> " in block.text:
        _session(block.text, folder)
    else:
        block.write(folder)


def typed(command: str, output: str, folder: Path, path: str) -> None:
    """Type one command, and compare what comes out with what has to: see :func:`run`."""
    # Wide, as a terminal may be: tables and messages then have the lines that the page shows.
    environment = os.environ | {"PATH": path, "COLUMNS": "120", "PYTHONWARNINGS": "ignore"}
    shell = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(
        shell, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    lines = [
        "(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + "\n" for line in output.splitlines()
    ]
    expected = "".join(lines)
    assert not output or re.fullmatch(expected, done.stdout), f"$ {command}\n{done.stdout}\nand not\n{output}"


def _session(text: str, folder: Path) -> None:
    said: list[str] = []
    test = doctest.DocTestParser().get_doctest(text, {}, folder.name, None, 0)
    with chdir(folder):
        failed = doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed
    assert not failed, "".join(said)
