"""How the fields of a run are written in a sweep's file: `"train.lr"`, or `lr` in a table `train`; or `cache`, or
`start_from`."""

import re
from collections.abc import Mapping
from typing import Any

from gdist.pipeline.config import require
from gdist.pipeline.printing import OBEYED

ALONE = ("cache", "start_from")  # fields that are in no table
MAX_TEXT = 1_000
Settings = dict[str, Any]
"""``table.field``, ``cache`` or ``start_from`` → value"""


def settings(table: Mapping[str, Any], where: str) -> Settings:
    """Fields by their full names; ``[set.train]`` and ``"train.steps"`` are the same.

    Raises:
        ConfigError: a name is not one of a field, or a field is there twice.
    """
    found: Settings = {}
    for name, value in table.items():
        inner = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        for full, one in inner.items():
            right = full in ALONE or re.fullmatch(r"[^.\s]+\.[^.\s]+", full)
            require(bool(right), f"{where}: `{full}` is not a field", 'for example "train.lr", cache or start_from')
            require(full not in found, f"{where}: `{full}` is there twice")
            found[full] = one
    return found


def table_of(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name, {})
    require(isinstance(table, dict), f"{name} is not a table")
    return dict(table)


def text_of(content: Mapping[str, Any], name: str) -> str | None:
    value = content.get(name)
    require(value is None or (isinstance(value, str) and bool(value)), f"{name} = {value!r:.99}: must be text")
    require(
        value is None or (len(value) <= MAX_TEXT and not re.search(f"[{OBEYED}]", value)),
        f"{name} = {value!r:.99}: must be one line of at most {MAX_TEXT} characters",
    )
    return value
