"""A pretended GPU: CPU tensors that say they are on cuda:0, so that a machine without a GPU tests what a GPU runs.

    with pretended() as counts:
        teacher = load_teacher(folder, device="cuda")
        counts.clear()
        states = [to_cpu(hidden_BTD) for hidden_BTD in teacher.hidden_states(waveform_BS, num_samples_B)]
    assert not counts.syncs, counts.syncs

The values are real and the control flow is the one of a GPU. Where a GPU differs from a CPU, so does this:

- an operator that gets tensors of both devices raises, as CUDA would;
- autocast for CUDA casts what a GPU would cast, and attention takes the operators that a GPU would take;
- every kernel launch and every synchronisation is counted, with the line of gdist that caused it;
- an asynchronous copy to the host arrives when something waits for it, not earlier: until then the host sees NaN. And
  pinned memory that is overwritten before its copy to the device was waited for raises.

It cannot tell: speed, memory, rounding of tensor cores, races between streams on the device, inference mode
(which is no_grad here), torch.compile, CUDA graphs, NCCL. ``tests/test_cuda.py`` is for those.
"""

from pretend.counts import Counts
from pretend.patches import pretended
from pretend.tensors import is_cuda, to_cpu

__all__ = ["Counts", "is_cuda", "pretended", "to_cpu"]
