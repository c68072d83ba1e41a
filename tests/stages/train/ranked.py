"""`gdist train` by torchrun: real processes, one per rank, which communicate over gloo."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def torchrun(
    ranks: int, cache: Path | str, out: Path, settings: Mapping[str, Any], *more: str
) -> subprocess.Popen[str]:
    """Start a training run; each rank is a separate process with one thread."""
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--no-python",
        sys.executable, "-c", "from gdist.stages.cli import main; main()",
        "train", "--cache", str(cache), "--out", str(out), *flags, *more,
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
