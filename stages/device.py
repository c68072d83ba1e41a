"""Which device to compute on."""

import os

import torch

from gdist.pipeline.errors import ConfigError

KINDS = ("cpu", "cuda")


def choose_device(name: str, option: str) -> str:
    """``auto`` → cuda where there is one, else cpu; any other name is checked.

    Args:
        option: what the user typed the name after, for the message.

    Raises:
        ConfigError: no such kind of device, or this machine lacks it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{option}{name}: there is no such kind of device", f"{option}auto") from error
    if wanted.type not in KINDS:
        raise ConfigError(f"{option}{name}: gdist runs on {' or '.join(KINDS)}", f"{option}auto")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"{option}{name}: this machine has {torch.cuda.device_count()} CUDA devices", f"{option}auto"
        )
    return name


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each of the GPUs that this process may use."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named or [str(number) for number in range(torch.cuda.device_count())]
