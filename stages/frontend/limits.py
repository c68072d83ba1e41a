"""The values that the fields of a front-end's or a student's config may have.

These checks are here and not in pipeline because an exported student, loaded without gdist, runs them too. Each
raises ValueError with the field, its value and what it must be.
"""

import math
from typing import Any

MAX_WHOLE = 1 << 20  # of any size: far beyond those of any model, and a config may be a stranger's
MAX_LAYERS = 1 << 10  # modules are made of each
MAX_WIDTH = 1 << 14  # of hidden states
MAX_POSITIONS = 1 << 13  # for which embeddings are computed


def require_whole(config: Any, least: int, *names: str, most: int = MAX_WHOLE) -> None:
    """Require whole numbers, from ``least`` to ``most``. ``True`` is refused, although Python counts it as 1."""
    for name in names:
        value = getattr(config, name)
        if type(value) is not int:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {least}")
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
        if value > most:
            raise ValueError(f"{name} is {value}; it must be at most {most:,}")


def require_positive(config: Any, *names: str) -> None:
    """Require finite numbers above 0."""
    for name in names:
        if not is_number(value := getattr(config, name)) or value <= 0:
            raise ValueError(f"{name} is {value!r}; it must be a number above 0")


def require_flags(config: Any, *names: str) -> None:
    """Require True or False."""
    for name in names:
        if not isinstance(value := getattr(config, name), bool):
            raise ValueError(f"{name} is {value!r}; it must be true or false")


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def listed(name: str, value: Any) -> list[int]:
    """``value``, a list or tuple of whole numbers above 0, as a list."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} is {value!r}; it must be a list")
    for item in value:
        if type(item) is not int or item < 1:
            raise ValueError(f"{name} is {list(value)}; it must contain whole numbers, at least 1")
    if len(value) > MAX_LAYERS or max(value, default=1) > MAX_WHOLE:
        raise ValueError(
            f"{name} has {len(value)} numbers up to {max(value)}; at most {MAX_LAYERS:,} up to {MAX_WHOLE:,}"
        )
    return list(value)
