"""Documents are refused in words, and what is right passes as it is."""

import json
import signal
import subprocess
import sys
from typing import Annotated, Any, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from gdist.pipeline.schema import Count, Finite, SchemaError, Sha256, conform, parse


class Shard(TypedDict):
    bytes: Count
    digest: Sha256


class Document(TypedDict):
    packs: Count
    rate: Finite
    kind: NotRequired[Annotated[str, Meta(max_length=4)]]
    objects: NotRequired[dict[str, Shard]]
    layers: NotRequired[list[Count]]


GOOD: dict[str, Any] = {"packs": 1, "rate": 0.5, "objects": {"a": {"bytes": 1, "digest": "0" * 64}}, "layers": [1]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"packs": -1}, "its packs is not an integer >= 0"),
        ({"packs": True}, "its packs is not an integer, but true or false"),
        ({"packs": 1.0}, "its packs is not an integer, but a finite number"),
        ({"packs": 2**70}, "its packs is not an integer <= 9007199254740992"),
        ({"rate": float("nan")}, "its rate is not a finite number >= -1.7e+308"),
        ({"rate": float("inf")}, "its rate is not a finite number <= 1.7e+308"),
        ({"kind": "12345"}, "its kind is not text of length <= 4"),
        ({"layers": [1, "2"]}, "its layers[1] is not an integer, but text"),
        ({"layers": None}, "its layers is not a list, but nothing"),
        ({"objects": {"a": {"bytes": 1}}}, "its objects[…] lacks digest"),
        ({"objects": {"a": {"bytes": 1, "digest": "0" * 64 + "\n"}}}, "its objects[…].digest is not text"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SchemaError) as caught:
        conform(GOOD | change, Document)
    assert str(caught.value).startswith(words)


def test_what_is_right_is_the_same_object() -> None:
    more = GOOD | {"of a later version": [1]}
    assert conform(more, Document) is more
    with pytest.raises(SchemaError, match=r"^it lacks packs$"):
        conform({"rate": 1}, Document)
    with pytest.raises(SchemaError, match=r"^it is not a table, but a list$"):
        conform([], Document)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"\0" * 9, "it contains only zeros"),
        (b"\xff", "it is not UTF-8"),
        (b'{"a": NaN}', "it has NaN, which is no number of JSON"),
        (b'{"a": -Infinity}', "it has -Infinity, which is no number of JSON"),
        (b'{"a": {"b": 1, "b": 2}}', "it has 'b' twice"),
        (b'{"a": "\\ud800"}', "it has half of a surrogate pair"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it is not whole"),
        (b'{"a": 1', "it is not whole"),
    ],
)
def test_json_s_traps(data: bytes, words: str) -> None:
    with pytest.raises(SchemaError) as caught:
        parse(data)
    assert str(caught.value).startswith(words)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_every_other_json_is_read_as_it_is(value: Any) -> None:
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value
    assert parse(json.dumps(value).encode()) == value


@given(st.dictionaries(st.sampled_from(sorted(Document.__annotations__)), VALUES), st.binary(max_size=40))
def test_nothing_else_is_raised(document: dict[str, Any], data: bytes) -> None:
    for attempt in (lambda: conform(GOOD | document, Document), lambda: parse(data)):
        try:
            attempt()
        except SchemaError as error:
            assert str(error).startswith("it")


RACE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import NotRequired, TypedDict
from gdist.pipeline.schema import Count, conform
sys.setswitchinterval(1e-6)
def first(schema, together):
    together.wait()
    conform({"b3": {"a7": 9}}, schema)
with ThreadPoolExecutor(8) as threads:
    for _ in range(60):
        inner = TypedDict("inner", {f"a{i}": NotRequired[Count] for i in range(40)})
        schema, together = TypedDict("outer", {f"b{i}": NotRequired[inner] for i in range(20)}), Barrier(8)
        list(threads.map(first, [schema] * 8, [together] * 8))
"""


def test_threads_may_meet_at_a_schema_that_is_new() -> None:
    """msgspec notes a TypedDict as prepared before it is: without a lock, all of this process would crash."""
    done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Typist:
    """A remark of a type, in whose preparation Ctrl-C is typed once."""

    types = False

    def __hash__(self) -> int:
        if self.types:
            self.types = False
            signal.raise_signal(signal.SIGINT)
        return 1


TYPIST = Typist()


class Typed(TypedDict):
    count: Annotated[int, TYPIST]


def test_an_interruption_while_a_schema_is_prepared_is_not_lost() -> None:
    """msgspec swallows exceptions of that moment: a training would go on, as if nobody had asked it to stop."""
    TYPIST.types = True
    with pytest.raises(KeyboardInterrupt):
        conform({"count": 1}, Typed)
    assert not TYPIST.types and conform({"count": 1}, Typed) == {"count": 1}
