"""The door for documents that somebody else may have written: nothing of one is used before its type is checked.

A document's schema is a TypedDict, next to the code that the document belongs to. Its fields use the types below,
which say how large a number may be and how long a text or a list. What the types cannot say (rows that overlap, ids
that occur twice), the owner of the document checks right after :func:`conform`.

JSON's own traps are refused on the way in: ``NaN`` and ``Infinity``, a name that occurs twice, half of a surrogate
pair, nesting without end.
"""

import json
import math
import re
from collections.abc import Sequence
from threading import Lock, Thread
from typing import Annotated, Any, NoReturn, cast

from msgspec import Meta, ValidationError, convert
from msgspec.json import Decoder

LARGEST = 2**53  # the largest integer that every reader of JSON keeps; 9 PB, or 17 million years of samples
MEASURABLE = 1e30  # sums of squares of numbers up to this stay finite
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Positive = Annotated[int, Meta(ge=1, le=LARGEST)]
Finite = Annotated[float, Meta(ge=-1.7e308, le=1.7e308)]
Ratio = Annotated[float, Meta(ge=-1.0, le=1.0)]
Word = Annotated[str, Meta(max_length=256)]  # a name, a version
Sentence = Annotated[str, Meta(max_length=1 << 16)]  # a message, a location
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Xxh3 = Annotated[str, Meta(pattern="^[0-9a-f]{32}$", max_length=32)]
Plain = dict[str, Any]  # a table whose own owner checks it

_READY: set[Any] = set()  # what msgspec has prepared
_PREPARING = Lock()
_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?(.*)`$")
_KINDS = {
    "int": "an integer",
    "float": "a finite number",
    "str": "text",
    "bool": "true or false",
    "object": "a table",
    "array": "a list",
    "null": "nothing",
}


class SchemaError(ValueError):
    """What is wrong with a document, in words that follow the document's name: ``it lacks packs``."""


def parse(data: bytes, measured: bool = False) -> Any:
    """Return what JSON bytes contain.

    Args:
        measured: whether fractions may be undefined, as what was measured of a model that diverged is: Python writes
            NaN and Infinity then. These, and numbers beyond 1e30, are read as NaN.

    Raises:
        SchemaError: they are no JSON, or one of JSON's traps.
    """
    if not data:
        raise SchemaError("it is empty")
    if not data.strip(b"\0"):
        raise SchemaError("it contains only zeros")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise SchemaError("it is not UTF-8") from error
    try:
        if measured:
            document = json.loads(text, object_pairs_hook=_once, **_MEASURED)
        else:
            document = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except SchemaError:
        raise
    except RecursionError as error:
        raise SchemaError("it is nested too deeply") from error
    except ValueError as error:  # also an integer of thousands of digits
        raise SchemaError(f"it is not whole ({error})") from error
    if "\\u" in text and _has_half(document):
        raise SchemaError("it has half of a surrogate pair, which is no character")
    return document


def conform[T](document: Any, schema: type[T]) -> T:
    """Return a document as what its schema says. It is the same object, with whatever else it contains.

    Raises:
        SchemaError: something is missing in it, or has another type or size.
    """
    _make_ready(schema)
    try:
        convert(document, schema)
    except ValidationError as error:
        raise SchemaError(_in_words(str(error))) from error
    except RecursionError as error:
        raise SchemaError("it is nested too deeply") from error
    return cast("T", document)


def _make_ready(schema: Any) -> None:
    """Let msgspec prepare a schema, in a thread of its own: it swallows what Ctrl-C raises within it."""
    if schema not in _READY:
        preparing = Thread(target=_prepare, args=(schema,))
        preparing.start()
        preparing.join()  # which Ctrl-C, as any signal, interrupts


def _prepare(schema: Any) -> None:
    """Prepare a schema, one at a time.

    msgspec notes a TypedDict as prepared before it is, so that one may contain itself. A second thread that met it in
    that moment would read what is not there yet, and the process would crash.
    """
    with _PREPARING:
        Decoder(schema)
        _READY.add(schema)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SchemaError(f"it has {twice!r:.60} twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise SchemaError(f"it has {name}, which is no number of JSON")


def _undefined(name: str) -> float:
    return math.nan


def _fraction(text: str) -> float:
    value = float(text)
    return value if abs(value) <= MEASURABLE else math.nan


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= 20 else math.nan


_MEASURED: Any = {"parse_constant": _undefined, "parse_float": _fraction, "parse_int": _whole}


def _has_half(document: Any) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _in_words(message: str) -> str:
    """msgspec's message in words: ``Expected `int` >= 0 - at `$.packs``` → ``its packs is not an integer >= 0``."""
    place = _PLACE.search(message)
    what = _PLACE.sub("", message)
    where = f"its {place[1].replace('[...]', '[…]')}" if place and place[1] else "it"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"{where} lacks {missing[1]}"
    if expected := re.match(r"Expected `(.*?)`(.*?)(?:, got `(.*)`)?$", what):
        kinds = " or ".join(_KINDS.get(kind.strip(), kind.strip()) for kind in expected[1].split("|"))
        rule = re.sub(r" matching regex .*", " of the right form", expected[2], flags=re.DOTALL)
        got = f", but {_KINDS.get(expected[3], expected[3])}" if expected[3] else ""
        return f"{where} is not {kinds}{rule}{got}"
    return f"{where} cannot be used: {what}"
