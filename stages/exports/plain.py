"""Stand-ins for the few names of transformers that students' source uses, for upstreams that should need torch alone.

An s3prl export ships this file in transformers' place: s3prl's users hold older releases of it, or none.
"""

import dataclasses
from types import SimpleNamespace
from typing import Any

from torch import nn


class PreTrainedConfig:
    """Annotated fields with their defaults, as keywords; whatever else config.json holds becomes an attribute."""

    def __init__(self, **fields: Any) -> None:
        for owner in reversed(type(self).__mro__):
            for name in vars(owner).get("__annotations__", {}):
                default = vars(owner).get(name, dataclasses.MISSING)
                if isinstance(default, dataclasses.Field):
                    default = default.default_factory()  # type: ignore[misc]
                if default is not dataclasses.MISSING:
                    setattr(self, name, default)
        for name, value in fields.items():
            if not isinstance(getattr(type(self), name, None), property):
                setattr(self, name, value)
        self.__post_init__()

    def __post_init__(self, **kwargs: Any) -> None:
        pass


class PreTrainedModel(nn.Module):
    """A module with a config; weights are loaded into it."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config

    def post_init(self) -> None:
        """Nothing is drawn at random: weights are loaded."""

    def _init_weights(self, module: nn.Module) -> None:
        raise AssertionError("weights are loaded, never made")


class BaseModelOutput(SimpleNamespace):
    """``last_hidden_state`` and ``hidden_states``."""


init = None  # transformers.initialization
