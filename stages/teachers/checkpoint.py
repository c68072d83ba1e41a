"""A checkpoint's weights: complete, finite, and what they are known by."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gdist.pipeline.errors import TeacherError

logger = logging.getLogger(__name__)


def check_weights(model: Any, loading: Mapping[str, Any], name: str, used: tuple[str, ...]) -> None:
    """Raise TeacherError unless every weight in use came from the checkpoint and is finite.

    Args:
        loading: what ``from_pretrained`` returned with ``output_loading_info``.
        used: how the names of the parameters begin that the teacher uses.
    """
    missing = sorted(key for key in loading["missing_keys"] if key.startswith(used))
    if missing:
        raise TeacherError(
            f"{name} lacks {len(missing)} of the model's weights, which would be replaced by random ones: "
            f"{_some(missing)}.",
            hint="The checkpoint and its config.json do not belong together; download it again.",
        )
    prefix = f"{model.base_model_prefix}."
    extra = sorted(key for key in loading["unexpected_keys"] if key.removeprefix(prefix).startswith(used))
    if extra:
        raise TeacherError(
            f"{name} has {len(extra)} weights in the encoder that its config.json does not describe: {_some(extra)}.",
            hint="The checkpoint and its config.json do not belong together; download it again.",
        )
    heads = dict.fromkeys(key.removeprefix(prefix).partition(".")[0] for key in sorted(loading["unexpected_keys"]))
    if heads:
        logger.warning("%s: the encoder alone is the teacher; left out: %s", name, ", ".join(heads))
    broken = [n for n, t in model.state_dict().items() if n.startswith(used) and not bool(t.isfinite().all())]
    if broken:
        raise TeacherError(
            f"{name} has weights that are not finite: {_some(broken)}.",
            hint="The file is damaged or its training diverged; use another checkpoint.",
        )


def fingerprint(
    model: Any, config: Mapping[str, Any], fields: Sequence[str], used: tuple[str, ...], final_norm: bool
) -> str:
    """SHA-256 (hex) over the weights in use and the config fields that change what is computed."""
    identity = {field: config[field] for field in fields if field in config}
    digest = hashlib.sha256(json.dumps(identity | {"final_norm": final_norm}, sort_keys=True).encode())
    # torch renamed the two parts of weight norm; a checkpoint's identity must not change with that.
    weights = {
        name.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(used)
    }
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
