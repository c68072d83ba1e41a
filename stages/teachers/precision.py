"""In which arithmetic a teacher computes."""

import contextlib
from collections.abc import Iterator

import torch

from gdist.pipeline.errors import ConfigError

# tf32 is float32 whose products a GPU rounds to 10 bits of mantissa.
PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: str = "cpu") -> None:
    """Raises ConfigError unless ``precision`` is one of fp32, tf32 (on CUDA only), bf16, fp16."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision == "tf32" and not device.startswith("cuda"):
        raise ConfigError(f"precision tf32 needs a CUDA device, and this is {device}", "--precision fp32")


@contextlib.contextmanager
def arithmetic(device: torch.device, dtype: torch.dtype | None, tf32: bool) -> Iterator[None]:
    """Autocast to ``dtype``, if there is one, with kernels that are chosen by shape and not by a stopwatch."""
    with contextlib.ExitStack() as stack:
        if dtype is not None:
            stack.enter_context(torch.autocast(device.type, dtype))
        if device.type == "cuda":
            # cuDNN uses TF32 by default, which is off by 1e-3. Without `enabled`, these flags turn cuDNN off.
            flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32)
            stack.enter_context(flags)
            matmul = torch.backends.cuda.matmul
            stack.callback(setattr, matmul, "allow_tf32", matmul.allow_tf32)
            matmul.allow_tf32 = tf32
        yield
