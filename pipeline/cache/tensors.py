"""Files of tensors in a cache, which may be anybody's: of numbers that can be computed with, and of few kinds."""

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from gdist.pipeline.schema import SchemaError

KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DIMENSIONS = 8


def loaded(data: bytes, finite: bool = True) -> dict[str, Tensor]:
    """Return name → tensor of a safetensors file's bytes. It takes no more memory than the file.

    Args:
        finite: whether its numbers must be; what marks something as missing may be NaN.

    Raises:
        SchemaError: it is no such file, or has tensors of another kind.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        text = str(error).strip().partition("\n")[0]
        raise SchemaError(f"it is no whole file of tensors ({text:.120})") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in KINDS or tensor.ndim > DIMENSIONS:
            raise SchemaError(f"its {name!r:.80} is {_kind(tensor)}, which no weights are")
        if finite and not tensor.isfinite().all():
            raise SchemaError(f"its {name!r:.80} has values that are not finite")
    return tensors


def require_shapes(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], of: str) -> None:
    """Raise SchemaError unless the tensors have exactly these names and shapes, which are those of ``of``."""
    for name in sorted(tensors.keys() | expected.keys()):
        if name not in tensors:
            raise SchemaError(f"it lacks {name!r:.80} of {of}")
        if name not in expected:
            raise SchemaError(f"it has {name!r:.80}, which {of} has not")
        if tuple(tensors[name].shape) != expected[name]:
            raise SchemaError(
                f"its {name} has the shape {list(tensors[name].shape)}; {of} has {list(expected[name])}"
            )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of {tensor.ndim} dimensions"
