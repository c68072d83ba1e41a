"""A checkpoint's weights: complete, finite, and what they are known by."""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gdist.pipeline.errors import TeacherError

logger = logging.getLogger(__name__)

FREE = 1 << 21  # numbers that a model may have without weights: tables of positions, a mask's embedding
_APART = "The checkpoint and its config.json do not belong together; download it again."
# What torch.compile, DataParallel and their like put before, or between, the names of the modules that they wrap.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_forward_module|_fsdp_wrapped_module)\.")


def encoder_weights(
    state: Mapping[str, Tensor], expected: Collection[str], key_mapping: Mapping[str, str], name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of the encoder inside a checkpoint, under the model's own names, and what else there is.

    The encoder is where most of the expected names are, all behind the same prefix. A head may have names that look
    like an encoder's: behind another prefix they are the head's.

    Args:
        expected: the names of the parameters that the teacher uses.
        key_mapping: patterns of a checkpoint's names → the model's.

    Raises:
        TeacherError: there is more than one encoder, or its weights are quantized.
    """
    plain: dict[str, Tensor] = {}
    wrapped = not any(_WRAPPERS.search(key) for key in expected)
    for key, tensor in state.items():
        key = _WRAPPERS.sub("", key) if wrapped else key
        for pattern, replacement in key_mapping.items():
            key = re.sub(pattern, replacement, key)
        if key in plain:
            raise TeacherError(
                f"{name} has {key} twice, with and without a wrapper's prefix.", "save the model without the wrapper"
            )
        plain[key] = tensor
    wanted = {_old(key) for key in expected}
    roots: Counter[str] = Counter()
    for key in plain:
        parts = key.split(".")
        for i in range(len(parts)):
            if _old(".".join(parts[i:])) in wanted:
                roots["".join(f"{part}." for part in parts[:i])] += 1
    best = sorted(root for root, count in roots.items() if count == max(roots.values()))
    if len(best) > 1:
        raise TeacherError(
            f"{name} has {len(best)} encoders: at {' and at '.join(repr(root) for root in best[:3])}.",
            "save the one that is the teacher, alone, with transformers' save_pretrained",
        )
    root = best[0] if best else ""
    own = {key.removeprefix(root): tensor for key, tensor in plain.items() if key.startswith(root)}
    whole_numbers = sorted(
        key for key, tensor in own.items() if _old(key) in wanted and _is_quantized(key, tensor.dtype)
    )
    if whole_numbers:
        raise TeacherError(
            f"{name} has quantized weights, of type {own[whole_numbers[0]].dtype}: {_some(whole_numbers)}.",
            "give the checkpoint that was quantized, in fp32, fp16 or bf16",
        )
    return own, [key for key in plain if not key.startswith(root)]


def _is_quantized(name: str, dtype: torch.dtype) -> bool:
    return not (name.endswith("num_batches_tracked") or (dtype.is_floating_point and dtype.itemsize > 1))


def _old(name: str) -> str:
    """A parameter's name as torch had it before it renamed the two parts of weight norm."""
    return name.replace(".parametrizations.weight.original0", ".weight_g").replace(
        ".parametrizations.weight.original1", ".weight_v"
    )


def require_held(model: Any, weights: Mapping[str, Tensor], name: str, used: tuple[str, ...]) -> None:
    """Raise TeacherError for a model that is larger than its weights, before any of it is allocated.

    Args:
        model: on the device "meta".
        weights: of the encoder, from :func:`encoder_weights`.
        used: how the names of the parameters begin that the teacher uses.
    """
    held = {_old(key): tensor for key, tensor in weights.items()}
    absent: dict[str, int] = {}
    for key, tensor in {**dict(model.named_buffers()), **model.state_dict()}.items():
        stored = held.get(_old(key))
        if stored is None:
            absent[key] = tensor.numel()
        elif stored.shape != tensor.shape and key.startswith(used):
            raise TeacherError(
                f"The weights of {name} cannot be loaded: {key} has the shape {list(stored.shape)}, and config.json "
                f"describes {list(tensor.shape)}.",
                _APART,
            )
    if sum(absent.values()) > max(sum(tensor.numel() for tensor in held.values()), FREE):
        largest = sorted(absent, key=lambda key: -absent[key])
        raise TeacherError(
            f"{name} describes a model of which most is not in its weights, and which is therefore not made: "
            f"{_some(largest)}.",
            _APART,
        )


def check_weights(
    model: Any, loading: Mapping[str, Any], others: Sequence[str], name: str, used: tuple[str, ...]
) -> None:
    """Raise TeacherError unless every weight in use came from the checkpoint and is finite.

    Args:
        loading: what ``from_pretrained`` returned with ``output_loading_info``.
        others: the checkpoint's weights outside the encoder.
        used: how the names of the parameters begin that the teacher uses.
    """
    missing = sorted(key for key in loading["missing_keys"] if key.startswith(used))
    if missing:
        raise TeacherError(
            f"{name} lacks {len(missing)} of the model's weights, which would be replaced by random ones: "
            f"{_some(missing)}.",
            hint=_APART,
        )
    extra = sorted(key for key in loading["unexpected_keys"] if key.startswith(used))
    if extra:
        raise TeacherError(
            f"{name} has {len(extra)} weights in the encoder that its config.json does not describe: {_some(extra)}.",
            hint=_APART,
        )
    left_out = [key.removeprefix(f"{model.base_model_prefix}.") for key in (*loading["unexpected_keys"], *others)]
    heads = dict.fromkeys(key.partition(".")[0] for key in sorted(left_out))
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
    weights = {_old(name): tensor for name, tensor in model.state_dict().items() if name.startswith(used)}
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
