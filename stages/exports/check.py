"""Whether an export answers as its student does, asked in a process that has no gdist."""

import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from gdist.pipeline.errors import GdistError
from gdist.stages.frontend import normalize
from gdist.stages.students import Student

TOLERANCE = 1e-5  # of the largest hidden state there is
LENGTHS = (16000, 5517, 9841)  # samples: odd, and ragged

# gdist may be installed beside what is tested: its absence is arranged for.
_ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"gdist", "zarr", "dask", "distributed", "pyarrow", "click", "obstore"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
_ASK = """
import torch, safetensors.torch
inputs = safetensors.torch.load_file(sys.argv[2])
with torch.no_grad():
    states = answer(inputs["waveform_BS"], inputs["mask_BS"])
safetensors.torch.save_file({str(k): h.contiguous() for k, h in enumerate(states)}, sys.argv[3])
"""


def example_batch(student: Student) -> tuple[Tensor, Tensor]:
    """A ragged batch as the student wants it: something like speech, and always the same."""
    generator = torch.Generator().manual_seed(0)
    samples_B = torch.tensor(LENGTHS)
    mask_BS = torch.arange(max(LENGTHS)) < samples_B[:, None]
    pitch_B = torch.tensor([110.0, 180.0, 240.0])[:, None]
    seconds_S = torch.arange(max(LENGTHS)) / 16000
    tone_BS = torch.sin(2 * torch.pi * pitch_B * seconds_S) * (2 * torch.pi * 3 * seconds_S).sin()
    waveform_BS = (0.1 * tone_BS + 0.01 * torch.randn(mask_BS.shape, generator=generator)) * mask_BS
    return normalize(waveform_BS, samples_B) if student.config.do_normalize else waveform_BS, mask_BS.long()


def largest_difference(student: Student, answer: str, folder: Path, python: str = sys.executable) -> float:
    """The largest difference of any hidden state, over the largest value there is.

    Args:
        answer: Python that defines ``answer(waveform_BS, mask_BS)`` → hidden states, from the folder ``sys.argv[1]``.

    Raises:
        GdistError: it cannot be loaded, or differs by more than ``TOLERANCE``.
    """
    waveform_BS, mask_BS = example_batch(student)
    with torch.no_grad():
        expected = student(waveform_BS, attention_mask=mask_BS).hidden_states
    with tempfile.TemporaryDirectory() as scratch:
        asked, told = Path(scratch) / "inputs.safetensors", Path(scratch) / "states.safetensors"
        safetensors.torch.save_file({"waveform_BS": waveform_BS, "mask_BS": mask_BS}, asked)
        done = subprocess.run(
            [python, "-c", _ALONE + answer + _ASK, str(folder), str(asked), str(told)],
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip() or "no word").splitlines()[-1]
            raise GdistError(f"what was exported cannot be loaded without gdist: {last}", "report this as a bug")
        states = safetensors.torch.load_file(told)
    size = max(float(h.abs().max()) for h in expected)
    difference = max(float((states[str(k)] - h).abs().max()) for k, h in enumerate(expected)) / size
    if len(states) != len(expected) or not difference <= TOLERANCE:
        raise GdistError(
            f"what was exported answers otherwise than the student, by {difference:.1e}", "report this as a bug"
        )
    return difference
