"""A newcomer's path, by the site's own blocks alone: make newcomer

In an empty folder and an empty environment: docs/start.md from the installation to the first report, and then
docs/tutorial.md to an exported student. Prints how long each block took, without the reading. It needs nothing but
Python, since it installs gdist itself. The environment and the folders are deleted at the end, unless it fails.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pages import Block, blocks, typed

ROOT = Path(__file__).parents[2]


def main(python: str) -> None:
    """Walk the path with this Python."""
    place = Path(tempfile.mkdtemp(prefix="gdist-newcomer-"))
    began = time.monotonic()
    subprocess.run([python, "-m", "venv", place / "env"], check=True)
    path = f"{place / 'env' / 'bin'}:{os.environ['PATH']}"
    for page in ("start.md", "tutorial.md"):
        folder = place / page.removesuffix(".md")
        folder.mkdir()
        for block in blocks(ROOT / "docs" / page):
            at = time.monotonic()
            _walk(block, folder, path)
            first = block.text.strip().splitlines()[0]
            print(f"{time.monotonic() - at:7.1f} s  {page:12} {first[:90]}", flush=True)
        print(f"{time.monotonic() - began:7.1f} s  until the end of {page}", flush=True)
    shutil.rmtree(place)


def _walk(block: Block, folder: Path, path: str) -> None:
    if block.language == "console":
        for command, output in block.commands:
            # A checkout is what a newcomer has; the tests of the site use it as it is.
            at = ROOT if command.startswith("pip install .") else folder
            typed(command, output, at, path)
    elif ">>> " in block.text:
        program = "import doctest, sys; sys.exit(doctest.testfile('block.txt', module_relative=False).failed)"
        (folder / "block.txt").write_text(block.text, encoding="utf-8")
        subprocess.run(
            ["bash", "-c", f'python -c "{program}"'], cwd=folder, env=os.environ | {"PATH": path}, check=True
        )
    else:
        block.write(folder)


if __name__ == "__main__":
    main(sys.argv[1])
