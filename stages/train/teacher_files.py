"""What a cache has of its teacher: config, front-end and first layers, checked before a student uses them.

A cache may be anybody's. What its config says must be what its arrays are made with, and no module is made of it that
is larger than the weights that are there.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.needs import Needs, repair_command
from gdist.pipeline.cache.tensors import loaded, require_shapes
from gdist.pipeline.errors import CacheDamagedError
from gdist.pipeline.schema import SchemaError, parse
from gdist.stages.frontend.kinds import build_frontend, frontend_of
from gdist.stages.teacher_config import require_config

CONFIG, FRONTEND, LAYERS = "config.json", "frontend.safetensors", "layers.safetensors"


def teachers_config(cache: Cache) -> dict[str, Any]:
    """The config of the cache's teacher.

    Raises:
        CacheDamagedError: it is none, or not that of the teacher whose hidden states the cache has.
    """
    try:
        config: dict[str, Any] = parse(cache.document(CONFIG))
        require_config(config)
        config = config | {"do_normalize": cache.identity["teacher"]["do_normalize"]}
        _require_fitting(config, cache)
    except SchemaError as error:
        raise _damaged(cache, CONFIG, str(error)) from error
    return config


def _require_fitting(config: dict[str, Any], cache: Cache) -> None:
    try:
        frontend = frontend_of(config)
        framing = frontend.framing
    except ValueError as error:
        raise SchemaError(f"its front-end is impossible: {error}") from error
    if frontend.hidden_size != cache.identity["dim"]:
        raise SchemaError(f"its hidden size is {frontend.hidden_size}, and the cache's is {cache.identity['dim']}")
    if framing != cache.framing:
        raise SchemaError(f"its front-end has {framing}, and the cache {cache.framing}")
    layers = cache.identity["teacher"]["num_layers"]
    if config.get("num_hidden_layers", layers) != layers:
        raise SchemaError(
            f"its num_hidden_layers is {config['num_hidden_layers']}, and the cache's teacher has {layers}"
        )
    if config.get("intermediate_size", 0) > 64 * frontend.hidden_size:
        raise SchemaError(f"its intermediate_size is {config['intermediate_size']}, 64 times the hidden size at most")


def frontend_tensors(cache: Cache, teacher: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """The weights of the teacher's front-end: exactly those that its config describes.

    Args:
        teacher: :func:`teachers_config`, where it was read before.

    Raises:
        CacheDamagedError: they are others, or no weights.
    """
    config = frontend_of(teachers_config(cache) if teacher is None else teacher)
    try:
        tensors = loaded(cache.document(FRONTEND))
        with torch.device("meta"):  # shapes only: the config may describe more than there is memory
            described = build_frontend(config).state_dict()
        expected = {name: tuple(tensor.shape) for name, tensor in described.items()}
        require_shapes(tensors, expected, f"the front-end that {CONFIG} describes")
    except SchemaError as error:
        raise _damaged(cache, FRONTEND, str(error)) from error
    return tensors


def layer_tensors(cache: Cache) -> dict[str, Tensor]:
    """The weights of the teacher's first layers, and of its final norm where it has one.

    Raises:
        CacheDamagedError: they are no weights.
    """
    try:
        return loaded(cache.document(LAYERS))
    except SchemaError as error:
        raise _damaged(cache, LAYERS, str(error)) from error


def _damaged(cache: Cache, name: str, why: str) -> CacheDamagedError:
    command = repair_command(cache.uri, cache.gdist, Needs(teacher=True))
    return CacheDamagedError(f"{cache.uri}/teacher/{name} is not of the cache's teacher: {why}", command)
