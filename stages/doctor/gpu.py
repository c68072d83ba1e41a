"""GPUs: whether torch can use them, and whether they compute."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.printing import one_line
from gdist.stages.doctor.check import Check, milliseconds, note, ok, problem, timed

SIDE = 512  # of the matrices that are multiplied: a moment on any GPU
BUILDS = "https://pytorch.org/get-started/locally has the pip command for each build of torch"


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver.

    Attributes:
        version: such as ``550.54.14``; empty where it does not answer.
        cuda: the newest CUDA that it knows, such as ``12.4``; empty where it does not say.
        gpus: the names of the GPUs that it sees.
    """

    version: str
    cuda: str
    gpus: tuple[str, ...]


def driver() -> Driver | None:
    """Ask nvidia-smi; None where the machine has no driver of NVIDIA."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Driver("", "", ()) if Path("/dev/nvidia0").exists() else None
    said = []
    for words in ([], ["-L"]):
        try:
            done = subprocess.run([program, *words], capture_output=True, text=True, errors="replace", timeout=20)
        except (OSError, subprocess.SubprocessError):
            return Driver("", "", ())
        said.append(done.stdout)
    version, cuda = (re.search(rf"{what} Version:\s*([\d.]+)", said[0]) for what in ("Driver", "CUDA"))
    gpus = re.findall(r"^GPU \d+: (.*?)(?: \(UUID.*)?$", said[1], re.MULTILINE)
    return Driver(version[1] if version else "", cuda[1] if cuda else "", tuple(gpus))


def check_gpus() -> Iterator[Check]:
    """What torch was built for, the driver, and each GPU."""
    try:
        import torch
    except (ImportError, OSError, RuntimeError):
        return  # the packages say so
    here, hip = driver(), getattr(torch.version, "hip", None)
    built = f"for ROCm {hip}" if hip else f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
    count, why = _devices(torch)
    yield ok("gpu", "torch", f"{torch.__version__}, built {built}")
    yield of_driver(here, torch.version.cuda, bool(hip), count, why)
    for number in range(count):
        yield _of_device(torch, number)


def of_driver(here: Driver | None, built: str | None, hip: bool, count: int, why: str = "") -> Check:
    """Whether driver and build of torch fit together.

    Args:
        built: the version of CUDA that torch was built for; None without CUDA.
        hip: whether it was built for AMD's GPUs.
        count: how many GPUs torch sees.
        why: what it says where it sees none.
    """
    if here is None:
        if count:
            return ok("gpu", "GPUs", f"{count}")
        means = "everything works on the processor, slowly: extraction and training of large models want a GPU"
        return note("gpu", "GPUs", "none", means)
    value = f"NVIDIA {here.version or 'that does not answer'}" + (f", up to CUDA {here.cuda}" if here.cuda else "")
    value += f", {len(here.gpus)} GPU{'s' * (len(here.gpus) != 1)}"
    if count:
        return ok("gpu", "driver", value)
    if here.version and not here.gpus:
        means = "a driver is installed, and sees no GPU: everything is computed on the processor"
        return note("gpu", "driver", value, means, "check `nvidia-smi -L`; a container needs --gpus all")
    if built is None and not hip:
        means = "there is a GPU, and torch was built for CPUs only: it cannot be used"
        return problem("gpu", "driver", value, means, f"install a build of torch with CUDA: {BUILDS}")
    if not here.version:
        means = f"there is a GPU, and its driver does not answer{f': {why}' if why else ''}"
        return problem("gpu", "driver", value, means, "check `nvidia-smi`; after an update of the driver, reboot")
    if here.cuda and built and _major(here.cuda) < _major(built):
        means = f"the driver knows CUDA {here.cuda} and is too old for torch's CUDA {built}"
        hint = f"update the driver, or install a build of torch for CUDA {_major(here.cuda)}: {BUILDS}"
        return problem("gpu", "driver", value, means, hint)
    means = f"there is a GPU, and torch cannot use it{f': {why}' if why else ''}"
    hint = "check whether CUDA_VISIBLE_DEVICES hides it, and whether `nvidia-smi` shows an error"
    return problem("gpu", "driver", value, means, hint)


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _devices(torch: Any) -> tuple[int, str]:
    """How many GPUs torch can use; and where there are none, what it says about that."""
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return 0, ""
    if torch.cuda.is_available():
        return int(torch.cuda.device_count()), ""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return 0, one_line(str(error).strip().partition("\n")[0])[:300]
    return 0, ""


def _of_device(torch: Any, number: int) -> Check:
    """Multiply two matrices on one GPU, and compare the product with the processor's."""
    name, label = f"cuda:{number}", f"GPU {number}"
    try:
        about = torch.cuda.get_device_properties(name)
        label = f"{about.name}, {console.size(about.total_memory)}"
        left, right = torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

        def product() -> Any:
            return (left.to(name) @ right.to(name)).cpu()

        product()  # the first one also loads the libraries
        there, seconds = timed(product)
        free = torch.cuda.mem_get_info(name)[0]
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        return problem("gpu", name, label, *_failure(str(error), torch))
    here = left @ right
    if not bool((there - here).abs().max() <= 0.01 * here.abs().max()):
        means = "a product of two matrices differs from what the processor computes: this GPU cannot be trusted"
        return problem(
            "gpu", name, label, means, "look for errors in `dmesg` and `nvidia-smi -q`, and use another one"
        )
    value = f"{label}, {console.size(free)} free; two matrices multiplied in {milliseconds(seconds)}"
    if free < 0.5 * about.total_memory:
        means = "more than half of its memory is used by others: large batches may not fit"
        return note("gpu", name, value, means, "see who uses it: nvidia-smi")
    return ok("gpu", name, value)


def _failure(said: str, torch: Any) -> tuple[str, str]:
    """What a failed multiplication means, and what to do."""
    first = one_line(said.strip().partition("\n")[0])[:300]
    if "no kernel image" in said:
        kinds = ", ".join(torch.cuda.get_arch_list())
        return f"this build of torch has no code for this GPU, only for {kinds}", f"install another build: {BUILDS}"
    if "out of memory" in said:
        return f"its memory is used by others: {first}", "see who uses it: nvidia-smi"
    return f"it is there and does not compute: {first}", "look for errors in `dmesg` and `nvidia-smi -q`"
