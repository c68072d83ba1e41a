"""How real documents become hostile ones. Everything is chosen by the given random numbers and by nothing else."""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any

import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor

NUMBERS: tuple[Any, ...] = (
    *(0, -0.0, 1, -1, 2, 7, 127, 255, 256, -512, 65_536, 10**6, 10**9, 10**10, 2**31 - 1, 2**31, 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40, 0.5, 1.5, -1e-300, 1e300, 1e400, -1e400, float("nan")),
)
DEPTH = 100  # of a document, below which nothing is changed
TEXTS = (
    *("", " ", "\0", "\n", "\x1b[31mred\x1b[0m", "\u202egnp.exe", "\x7f", "\ud800", "é" * 300, "a" * 5000, "null"),
    *("..", "../../etc/passwd", "/etc/passwd", "//", "C:\\x", "~root", "file:///etc/passwd", "s3://bucket", "s3://"),
    *("http://127.0.0.1:1/x", "memory://x", "nan", "1e400", "-1", "True", "__import__('os')", "%s%n", "{0}", "\\"),
    *("float16", "float64", "complex128", "object", "<M8[ns]", "zstd", "gzip", "int8", "cuda:99", "none", "x" * 255),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, [0] * 1000, {"a": {"a": {"a": 1}}})
TYPES = (pa.string(), pa.int8(), pa.uint64(), pa.float64(), pa.binary(), pa.bool_(), pa.null(), pa.list_(pa.int32()))


def value(random: Random) -> Any:
    """Return any JSON value that programs stumble over."""
    kind = random.randrange(4)
    if kind == 0:
        return random.choice(NUMBERS)
    if kind == 1:
        return random.choice(TEXTS)
    return copy.deepcopy(random.choice(OTHERS)) if kind == 2 else random.randrange(-10, 1000)


def near(old: Any, random: Random) -> Any:
    """Return a value of the same kind as ``old``: what passes a check of types."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return random.choice([old + 1, old - 1, -old, old * 2, old // 2, old * 1000, old + random.randrange(-50, 50)])
    if isinstance(old, float):
        return random.choice([-old, old * 1e3, old / 1e3, old + 1, 0.0])
    if isinstance(old, str):
        place = random.randrange(len(old) + 1)
        return random.choice([old[:place], old + old, old[:place] + random.choice(TEXTS) + old[place:], old.upper()])
    if isinstance(old, list):
        return random.choice([old[:-1], old + old, old[::-1], [*old, value(random)], old[:1] * 3])
    return value(random)


def _places(document: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of everything in a document, depth first, as far as Python can follow."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, below in list(items):
        yield document, key
        if isinstance(below, (dict, list)) and below and depth < DEPTH:
            yield from _places(below, depth + 1)


def hostile(document: Any, random: Random) -> Any:
    """Return a copy of a JSON document with one to four changes: other values, lost, doubled and swapped parts."""
    document = copy.deepcopy(document)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        places = list(_places(document)) if isinstance(document, (dict, list)) else []
        if not places:
            return value(random)
        holder, key = random.choice(places)
        change = random.randrange(8)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[random.choice(TEXTS)] = copy.deepcopy(holder[key])
        elif change == 2:
            other, name = random.choice(places)
            if name in (other if isinstance(other, dict) else range(len(other))):
                with suppress(RecursionError):
                    holder[key] = copy.deepcopy(other[name])
        elif change < 5:
            holder[key] = near(holder[key], random)
        else:
            holder[key] = value(random)
    return document


def text_of(document: Any) -> bytes:
    """Return a document as JSON, whatever it contains: infinities and halves of characters too."""
    return json.dumps(document).encode()


def torn(data: bytes, random: Random) -> bytes:
    """Return bytes with one to four changes: other bits; zeroed, lost, doubled and inserted parts; cut off."""
    for _ in range(random.choice([1, 1, 2, 4])):
        start = random.randrange(len(data) + 1)
        part = data[start : start + random.choice([1, 1, 2, 4, 8, 64, 1000])]
        rest = data[start + len(part) :]
        new = random.choice(
            [
                bytes(byte ^ 1 << random.randrange(8) for byte in part[:1]) + part[1:],
                random.randbytes(len(part)),
                b"\0" * len(part),
                b"\xff" * len(part),
                b"",
                part + part,
                part + random.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1]).to_bytes(8, "little"),
                None,
            ]
        )
        data = data[:start] if new is None else data[:start] + new + rest
    return data


def other_table(table: pa.Table, random: Random) -> pa.Table:
    """Return a table with one to three changes to its columns: values, types, names, rows, missing and more."""
    for _ in range(random.choice([1, 1, 2, 3])):
        if not table.num_columns:
            return table
        place = random.randrange(table.num_columns)
        name, column = table.column_names[place], table.column(place)
        values, row = column.to_pylist(), random.randrange(max(table.num_rows, 1))
        change = random.randrange(8)
        if change == 0:
            table = table.remove_column(place)
        elif change == 1:
            table = table.append_column(random.choice(["id", name, *TEXTS[:5]]), column)
        elif change == 2:
            rows = [random.randrange(table.num_rows) for _ in range(random.randrange(4))] if values else []
            table = table.take(pa.array(rows, pa.int64())) if random.random() < 0.3 else pa.concat_tables([table] * 2)
        elif change == 3:
            new = (
                [None] * len(values)
                if random.random() < 0.3
                else [None if i == row else v for i, v in enumerate(values)]
            )
            table = table.set_column(place, name, pa.array(new, column.type))
        elif change == 4:
            kind = random.choice(
                [pa.string(), pa.int8(), pa.uint64(), pa.float64(), pa.binary(), pa.bool_(), pa.null()]
            )
            table = _set(table, place, values, kind)
        else:
            for at in {row, random.randrange(max(len(values), 1))} if values else ():
                values[at] = near(values[at], random) if random.random() < 0.6 else value(random)
            table = _set(table, place, values, column.type)
    return table


def _set(table: pa.Table, place: int, values: list[Any], kind: pa.DataType) -> pa.Table:
    """Replace a column, as far as its values have this type or a type of their own; else leave the table as it is."""
    for of in (kind, None):
        with suppress(pa.ArrowException, ValueError, TypeError, OverflowError, UnicodeError):
            return table.set_column(place, table.column_names[place], pa.array(values, of))
    return table


def other_tensors(tensors: dict[str, Tensor], random: Random) -> dict[str, Tensor]:
    """Return tensors with one to three changes: other shapes, types, names and values; lost and doubled ones."""
    tensors = dict(tensors)
    for _ in range(random.choice([1, 1, 2, 3])):
        if not tensors:
            return tensors
        name = random.choice(sorted(tensors))
        old = tensors[name]
        change = random.randrange(8)
        if change == 0:
            del tensors[name]
        elif change == 1:
            tensors[random.choice(["", "x", name + ".0", *sorted(tensors)])] = old.clone()
        elif change == 2:
            tensors[name] = old.flatten()[: max(old.numel() - random.choice([1, 2, old.numel()]), 0)].clone()
        elif change == 3:
            tensors[name] = old.T.contiguous() if old.ndim == 2 else old.unsqueeze(random.randrange(old.ndim + 1))
        elif change == 4:
            tensors[name] = old.to(random.choice([torch.float16, torch.float64, torch.int8, torch.int64, torch.bool]))
        elif change == 5:
            tensors[name] = torch.full_like(old, random.choice([0, 1, -1, 100]))
        elif change == 6 and old.is_floating_point():
            tensors[name] = torch.full_like(old, random.choice([math.nan, math.inf, -math.inf, 6e4]))
        else:
            tensors[name] = tensors[random.choice(sorted(tensors))].clone()
    return tensors


def hostile_safetensors(data: bytes, random: Random) -> bytes:
    """Return a safetensors file with a changed header, or with changed tensors; or changed bytes."""
    change = random.randrange(4)
    if change == 0:
        return torn(data, random)
    if change == 1:
        length = int.from_bytes(data[:8], "little")
        header = text_of(hostile(json.loads(data[8 : 8 + length]), random))
        return len(header).to_bytes(8, "little") + header + data[8 + length :]
    saved: bytes = safetensors.torch.save(other_tensors(safetensors.torch.load(data), random))
    return saved
