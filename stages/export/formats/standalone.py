"""The parts of transformers that students use, without transformers.

s3prl's users are on transformers 4, whose classes differ from those of version 5 that students are built on. The code
that ships to them imports this file instead, and depends only on torch and safetensors.
"""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
from torch import Tensor, nn


class PreTrainedConfig:
    """A config whose classes are dataclasses, as in transformers 5."""

    output_attentions = False
    output_hidden_states = False
    return_dict = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(cls)

    def __post_init__(self, **kwargs: Any) -> None:
        pass

    @classmethod
    def from_pretrained(cls, folder: Path) -> "PreTrainedConfig":
        """Load from ``config.json``, without the fields that only transformers uses."""
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # every subclass is one
        return cls(**{key: value for key, value in document.items() if key in own})


class PreTrainedModel(nn.Module):
    """A model that loads from a folder."""

    config_class: type[PreTrainedConfig]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def post_init(self) -> None:
        """Do nothing: weights are loaded, never initialized."""

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    @classmethod
    def from_pretrained(cls, folder: "str | Path") -> "PreTrainedModel":
        """Load from ``config.json`` and ``model.safetensors``, which must contain every weight."""
        model = cls(cls.config_class.from_pretrained(Path(folder)))
        model.load_state_dict(safetensors.torch.load_file(Path(folder) / "model.safetensors"))
        return model


@dataclasses.dataclass
class BaseModelOutput:
    last_hidden_state: Tensor
    hidden_states: "tuple[Tensor, ...] | None" = None


initialization = SimpleNamespace(
    zeros_=nn.init.zeros_,
    normal_=nn.init.normal_,
    uniform_=nn.init.uniform_,
    kaiming_normal_=nn.init.kaiming_normal_,
)
