"""What the machine is, and what bounds every other figure: products, copies, launches, the place written to."""

import importlib.metadata
import os
import time
from functools import partial

import numpy as np
import torch

from gpu_steps.setting import Say, Setting

PACKAGES = ("torch", "transformers", "zarr", "numcodecs", "numpy", "pyarrow", "obstore")


def run(setting: Setting, say: Say) -> None:
    """Versions, sizes and plain speeds."""
    say(
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
    )
    data = np.random.default_rng(0).bytes((8 if setting.small else 1024) << 20)
    began = time.perf_counter()
    (setting.work / "plain").write_bytes(data)
    say(plain_write_GBps=len(data) / 1e9 / (time.perf_counter() - began))
    (setting.work / "plain").unlink()
    size = 256 if setting.small else 8192
    left, right = (torch.randn(size, size, device=setting.device) for _ in range(2))
    matmul = torch.backends.cuda.matmul
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        before, matmul.allow_tf32 = matmul.allow_tf32, tf32
        a, b = left.to(dtype), right.to(dtype)
        say(**{f"{name}_tflops": 2 * size**3 / setting.clock(partial(torch.matmul, a, b), 3, 1) / 1e9})
        matmul.allow_tf32 = before
    amount = (1 if setting.small else 256) << 20
    here = torch.empty(amount, dtype=torch.uint8, pin_memory=setting.cuda)
    there, other = (torch.empty(amount, dtype=torch.uint8, device=setting.device) for _ in range(2))
    gigabytes = amount / 1e6
    say(
        device_copy_GBps=2 * gigabytes / setting.clock(lambda: other.copy_(there)),
        to_host_GBps=gigabytes / setting.clock(lambda: here.copy_(there, non_blocking=True)),
        to_device_GBps=gigabytes / setting.clock(lambda: there.copy_(here, non_blocking=True)),
    )
    tiny = torch.ones(8, device=setting.device)
    setting.wait()
    began = time.perf_counter()
    for _ in range(1000):
        tiny.add_(1)
    say(launch_us=(time.perf_counter() - began) * 1e3)
    if setting.cuda:
        properties = torch.cuda.get_device_properties(0)
        say(
            card=properties.name,
            memory_GB=properties.total_memory / 1e9,
            processors=properties.multi_processor_count,
            cudnn=torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        )
