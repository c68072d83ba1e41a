"""``tests/test_cuda.py``: speeds of wrong results would mean nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

from gpu_steps.setting import Say, Setting

ROOT = Path(__file__).parents[2]


def run(setting: Setting, say: Say) -> None:
    """Run the tests in a process of their own, and note what fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=0", "tests/test_cuda.py"]
    if setting.small:
        command += ["-k", "equals_the_cpu_and_an_utterance and hubert-base"]
    environment = os.environ | {"GDIST_CUDA_TESTS": setting.device}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        output, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
    summary = re.search(r"^=* ?(.*(?:passed|failed|skipped|error).*?) ?=*$", output, re.MULTILINE)
    say(
        passed=process.returncode == 0,
        summary=summary[1] if summary else output[-300:],
        failed=re.findall(r"^(?:FAILED|ERROR) (.*)$", output, re.MULTILINE),
    )
