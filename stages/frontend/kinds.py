"""The kinds of front-end, by name: one file with a config and a module, and one row here."""

from collections.abc import Mapping
from typing import Any

from gdist.stages.frontend.config import FrontendConfig
from gdist.stages.frontend.fbank import FbankConfig, FbankFrontend
from gdist.stages.frontend.frontend import Frontend
from gdist.stages.frontend.interface import AudioFrontend, Config
from gdist.stages.frontend.log_mel import LogMelConfig, LogMelFrontend

FRONTENDS: dict[str, tuple[Any, Any]] = {
    FrontendConfig.kind: (FrontendConfig, Frontend),
    LogMelConfig.kind: (LogMelConfig, LogMelFrontend),
    FbankConfig.kind: (FbankConfig, FbankFrontend),
}
# A teacher's model_type → its front-end's kind; all other families have convolutions.
KINDS = {"whisper": LogMelConfig.kind, "wav2vec2-bert": FbankConfig.kind}


def kind_of(family: str) -> str:
    """The kind of front-end that a family of teachers has, by its ``model_type``."""
    return KINDS.get(family, FrontendConfig.kind)


def frontend_config(fields: Mapping[str, Any]) -> Config:
    """The config that ``to_dict`` of a front-end's config returned.

    Raises:
        ValueError: the kind is unknown, or a field has an impossible value.
        TypeError: there is no such field.
    """
    values = dict(fields)
    kind = values.pop("kind", FrontendConfig.kind)
    if not isinstance(kind, str) or kind not in FRONTENDS:
        raise ValueError(f"frontend.kind is {kind!r}; it must be one of {', '.join(FRONTENDS)}")
    config: Config = FRONTENDS[kind][0](**values)
    return config


def frontend_of(teacher_config: Mapping[str, Any]) -> Config:
    """The front-end that a teacher's Hugging Face config, as a dictionary, describes.

    Raises:
        ValueError: gdist cannot build it.
    """
    kind = kind_of(str(teacher_config.get("model_type")))
    config: Config = FRONTENDS[kind][0].from_teacher_config(dict(teacher_config))
    return config


def build_frontend(config: Config) -> AudioFrontend:
    """The module with this config."""
    module: AudioFrontend = FRONTENDS[config.kind][1](config)
    return module
