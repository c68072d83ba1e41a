"""Caches, runs and exports as each version of their formats wrote them, and what is in them. They must open forever.

PYTHONPATH=tests python -m formats.make v2    # writes v2.tar.xz; those that exist are never written again
"""

import tarfile
from pathlib import Path

FOLDER = Path(__file__).parent
VERSIONS = sorted(path.name.partition(".")[0] for path in FOLDER.glob("*.tar.xz"))


def unpack(version: str, folder: Path) -> Path:
    """Unpack what a version wrote into a folder, and return that."""
    with tarfile.open(FOLDER / f"{version}.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder
