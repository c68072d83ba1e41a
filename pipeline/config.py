"""Frozen dataclasses from TOML files and ``--set table.field=value``; typing mistakes get a "did you mean" hint.

A config is a frozen dataclass whose fields are *tables*: frozen dataclasses of plain values, or ``dict`` for a table
whose owner checks its keys later (a student's own fields). Defaults are in the dataclasses and nowhere else.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from gdist.pipeline.errors import ConfigError
from gdist.pipeline.files import content_of, reason

MAX_BYTES = 1 << 22  # of a TOML file: a sweep of 10,000 points, one by one, has 1 MB
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # TOML has no such characters, and no config needs any
TomlTables = dict[str, dict[str, Any]]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: the closest known name, or the list of all known names."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"


def load_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the content of a TOML file.

    Args:
        what: the file is, for the message.

    Raises:
        ConfigError: the file cannot be read, or is not valid TOML.
    """
    try:
        return tomllib.loads(content_of(path, MAX_BYTES).decode())
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {reason(error)}") from error
    except ValueError as error:  # of TOML, of UTF-8, or of an integer of thousands of digits
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not valid TOML: it is nested too deeply") from error


def read_toml(path: Path) -> TomlTables:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: as :func:`load_toml`, or the file has a field outside a table.
    """
    tables = load_toml(path, "config")
    loose = [key for key, value in tables.items() if not isinstance(value, dict)]
    if loose:
        raise ConfigError(f"{path}: `{loose[0]}` is outside any table", "put it under [train], [student], …")
    return tables


def parse_set(assignment: str) -> tuple[str, str, Any]:
    """``table.field=value`` → (table, field, value). The value is read as TOML, or as a bare string."""
    key, equals, text = assignment.partition("=")
    table, dot, field = key.strip().partition(".")
    if not (equals and dot and table and field):
        raise ConfigError(f"--set {assignment!r} is not table.field=value", "for example --set train.steps=1000")
    return table, field, _read(text)


def _read(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):  # not TOML, or a number with thousands of digits
        return text.strip()


def merge(*layers: Mapping[str, Mapping[str, Any]]) -> TomlTables:
    """Merge TomlTables field by field; later layers win."""
    merged: TomlTables = {}
    for layer in layers:
        for table, fields in layer.items():
            merged.setdefault(table, {}).update(fields)
    return merged


def build[C](cls: type[C], tables: Mapping[str, Mapping[str, Any]]) -> C:
    """Build an instance of the config ``cls``.

    Raises:
        ConfigError: a table or a field is unknown, or a value has the wrong type.
    """
    hints = get_type_hints(cls)
    unknown = [name for name in tables if name not in hints]
    if unknown:
        raise ConfigError(f"unknown table [{unknown[0]}]", did_you_mean(unknown[0], hints))
    return cls(**{name: _build_table(hints[name], name, fields) for name, fields in tables.items()})


def _build_table(cls: Any, table: str, fields: Mapping[str, Any]) -> Any:
    if not dataclasses.is_dataclass(cls):
        return dict(fields)
    hints = get_type_hints(cls)
    for name in fields:
        if name not in hints:
            hint = did_you_mean(name, hints)
            raise ConfigError(
                f"unknown field `{table}.{name}`", hint.replace("did you mean `", f"did you mean `{table}.")
            )
    values = {name: coerce(value, hints[name], f"{table}.{name}") for name, value in fields.items()}
    assert isinstance(cls, type)
    return cls(**values)


def coerce(value: Any, hint: Any, where: str) -> Any:
    """Convert ``value`` to type ``hint``: a plain type, a Literal, a list or tuple of these, or any of these or None.

    A whole number is accepted as a float. A list may be typed ``4,8,12``, and a single value as a list of one.

    Args:
        where: ``table.field``, for the message.

    Raises:
        ConfigError: the value does not fit the type; the message says what is expected.
    """
    return _coerce(value, hint, where, "")


def _coerce(value: Any, hint: Any, where: str, otherwise: str) -> Any:
    origin, options = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or value == "none":  # TOML has no null
            return None
        return _coerce(value, next(option for option in options if option is not type(None)), where, " or none")
    if origin is typing.Literal:
        if any(value == option and type(value) is type(option) for option in options):
            return value
        raise ConfigError(f"{where} = {value!r}: not one of {', '.join(map(str, options))}{otherwise}")
    if origin in (tuple, list) and not isinstance(value, Mapping):
        try:
            return origin(_coerce(item, options[0], where, "") for item in _items(value, options[0]))
        except ConfigError as error:
            raise ConfigError(error.message, f"it takes a list{otherwise}, typed {where}=1,2,3") from error
    if hint is float and type(value) in (int, float):
        return _finite(value, where)
    if type(value) is hint:
        # TOML's integers have 64 bits: a run's config with a larger one could not be read back.
        if hint is int and not -(2**63) <= value < 2**63:
            raise ConfigError(f"{where} is too large for a 64-bit integer")
        if hint is str and (found := CONTROL.search(value)):
            raise ConfigError(f"{where} = {value!r:.60}: it contains {found[0]!r}, which no text of a config may")
        return value
    expected = f"list of {options[0].__name__}" if options else hint.__name__
    quoted = f"""for a name made of digits, quote it twice: --set {where}='"{value}"'""" if hint is str else None
    raise ConfigError(f"{where} = {value!r}: expected {expected}{otherwise}, got {type(value).__name__}", quoted)


def _finite(value: float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    require(math.isfinite(number), f"{where} = {number}: must be a finite number")
    return number


def _items(value: Any, hint: Any) -> Iterable[Any]:
    """Return the items of a value given for a list."""
    if isinstance(value, str):
        return [part.strip() if hint is str else _read(part) for part in value.split(",")]
    return value if isinstance(value, (list, tuple)) else [value]


def require(condition: bool, message: str, hint: str | None = None) -> None:
    """Raise ConfigError unless ``condition`` holds: one line per rule in ``__post_init__``."""
    if not condition:
        raise ConfigError(message, hint)


def to_tables(config: Any) -> TomlTables:
    """Invert :func:`build`: plain tables with every field spelled out, except those that are None."""
    tables = dataclasses.asdict(config)
    return {name: {k: v for k, v in fields.items() if v is not None} for name, fields in tables.items()}


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Write flat tables as TOML. JSON's scalars and lists are valid TOML too, except for how JSON escapes emoji, and
    for a delete character, which JSON does not escape."""
    lines: list[str] = []
    for name, fields in tables.items():
        lines += [
            f"[{name}]",
            *(f"{key} = {_toml(value)}" for key, value in fields.items()),
            "",
        ]
    return "\n".join(lines)


def readable_toml(tables: TomlTables) -> str:
    """What :func:`to_toml` writes, if it is read back as the same.

    Raises:
        ConfigError: it is not: a value is none that TOML has.
    """
    text = to_toml(tables)
    try:
        same = tomllib.loads(text.encode().decode()) == json.loads(json.dumps(tables))
    except ValueError as error:
        raise ConfigError(f"the config cannot be written as TOML: {error}") from error
    require(same, "the config cannot be written as TOML: it would be read as another one")
    return text


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def signature(tables: Mapping[str, Any]) -> str:
    """Return twelve hex digits that identify a resolved config, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()[:12]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line per field that differs between two (nested) mappings: ``table.field: old → new``."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += [f"{key}.{line}" for line in differences(before, after)]
        elif before != after and json.dumps(before) != json.dumps(after):
            lines.append(f"{key}: {before} → {after}")
    return lines
