"""What only a GPU can tell: correctness first, then speeds, in 400 seconds at most.

    make gpu                                        # everything, into benchmarks/gpu/CARD.json
    python benchmarks/gpu.py extraction training    # some steps
    python benchmarks/gpu.py --device cpu --small   # a dry run, which any machine can do in a minute

Each step has its own limit. The file is written again after every figure, so that what was measured stays whatever
comes next; a step that fails is recorded, and the next one runs. Figures of an earlier run that this one does not
measure again stay in the file.
"""

import argparse
import json
import re
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_steps import choices, correctness, extraction, inference, machine, training
from gpu_steps.setting import Say, Setting

Step = Callable[[Setting, Say], None]

# Name → the step, and the seconds that it may take. The most important come first.
STEPS: dict[str, tuple[Step, int]] = {
    "machine": (machine.run, 20),
    "tests": (correctness.run, 120),
    "extraction": (extraction.run, 100),
    "training": (training.run, 100),
    "loader": (training.loader, 25),
    "launches": (training.launches, 25),
    "choices": (choices.run, 45),
    "inference": (inference.run, 30),
}


class OutOfTime(BaseException):
    """A step has taken all the time it may; a BaseException, so that no step catches it."""


def card(device: str) -> str:
    """The device's name, as the name of a file: ``nvidia-h100-80gb-hbm3``."""
    name = torch.cuda.get_device_name(0) if device == "cuda" else "cpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def finish(step: Step, setting: Setting, say: Say, seconds: float) -> str:
    """Run one step, at most ``seconds`` long. Returns how it ended, "ok" or why it did not."""

    def late(*_: object) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        step(setting, say)
    except OutOfTime:
        return f"out of time after {seconds:.0f} s"
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "ok"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)} [default: all, in this order]")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models and little speech: a dry run")
    parser.add_argument("--seconds", type=float, default=400.0, help="for everything")
    parser.add_argument("--json", type=Path, help="file for the figures [default: benchmarks/gpu/CARD.json]")
    options = parser.parse_args()
    unknown = [name for name in options.steps if name not in STEPS]
    if unknown:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU; --device cpu --small is a dry run")
    began = time.monotonic()
    out = options.json or Path(__file__).parent / "gpu" / f"{card(options.device)}.json"
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    # A disk would be measured too; what is written should be bounded by the memory's speed alone.
    shared = Path("/dev/shm") if options.device == "cuda" and Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=shared) as scratch:
        setting = Setting(options.device, options.small, Path(scratch))
        for name in options.steps or STEPS:
            step, most = STEPS[name]
            figures: dict[str, Any] = {}
            results[name] = figures

            def say(figures: dict[str, Any] = figures, name: str = name, **more: Any) -> None:
                figures.update(more)
                print(f"{name}: {json.dumps(more)}", flush=True)
                out.write_text(json.dumps(results, indent=1) + "\n")

            left = options.seconds - (time.monotonic() - began)
            started = time.monotonic()
            # Limits are those of a GPU: a dry run only tries the steps, on whatever machine that is.
            mine = left if options.small else min(most, left)
            status = finish(step, setting, say, mine) if left > 5 else "no time was left"
            say(status=status, seconds=round(time.monotonic() - started, 1))
            if options.device == "cuda" and "CUDA error" in status:
                break  # the device is lost for this process: whatever follows would only repeat this


if __name__ == "__main__":
    main()
