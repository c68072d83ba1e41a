"""The models of the GPUs that compute a cache. Another model sums in another order, so it gives other last bits.

A cache records them, under ``about``. They are no part of its identity: a cache that one model began may be finished
by another, and a warning then says so.
"""

from collections.abc import Iterable

import torch

from gdist.pipeline import console
from gdist.pipeline.cache.cache import Cache


def model_of(device: str) -> str:
    """The model of the GPU that ``device`` names, on this machine; "" for a CPU."""
    return str(torch.cuda.get_device_properties(device).name) if device.startswith("cuda") else ""


def listed(models: Iterable[str], known: str = "") -> str:
    """The different models, and those in the list ``known``, as a list that a cache records."""
    return ", ".join(sorted({*models, *known.split(", ")} - {""}))


def warn_of_other_models(cache: Cache, models: str) -> None:
    """Say so where the cache was begun on other models of GPU than those that compute now."""
    recorded = cache.gdist["about"].get("gpus", "")
    if recorded and models and recorded != models:
        console.say(
            f"{cache.uri} was begun on {recorded} and continues on {models}: its packs will differ in the last bits",
            style="yellow",
        )
