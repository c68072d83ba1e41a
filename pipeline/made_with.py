"""What something was made with: the versions of the software, gdist's own revision, and the machine.

It is recorded in runs, evaluations and exports, and compared nowhere. No names of people, hosts or folders are in it.
"""

import json
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from gdist.pipeline.machine import cores, total_memory

PACKAGES = ("gdist", "torch", "transformers", "zarr")


def made_with(device: str = "cpu") -> dict[str, Any]:
    """Return ``versions`` by package and ``machine``: its system, processor, cores, bytes of memory, and its GPU.

    Args:
        device: where it was computed; a GPU is named if it was there.
    """
    versions = {name: metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    if found := revision():
        versions["revision"] = found
    machine: dict[str, Any] = {"system": f"{platform.system()} {platform.machine()}", "cores": cores()}
    if processor := _processor():
        machine["processor"] = processor
    if memory := total_memory():
        machine["memory"] = memory
    if device.startswith("cuda"):
        import torch

        machine["gpu"] = torch.cuda.get_device_name(device)
    return {"versions": versions, "machine": machine}


@cache
def revision() -> str | None:
    """The git revision of gdist, where it was installed from git, or is used from a checkout (``pip install -e``).

    A checkout with changes that are not committed has ``+changes`` behind it.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, metadata.PackageNotFoundError):
        origin = json.loads(metadata.distribution("gdist").read_text("direct_url.json") or "{}")
        if "vcs_info" in origin:
            return str(origin["vcs_info"]["commit_id"])
        if origin["dir_info"].get("editable"):
            return _head(Path(unquote(urlsplit(origin["url"]).path)))
    return None


def _head(checkout: Path) -> str | None:
    """The commit that a checkout is at; None where git does not say."""
    answers = []
    for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        try:
            done = subprocess.run(
                ["git", "-C", checkout, *words], capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        answers.append(done.stdout.strip())
    return answers[0] + "+changes" * bool(answers[1])


def _processor() -> str | None:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or None
