"""How large a Parquet file becomes, found out before any of it is decoded: from the heads of its pages.

What the file's end says of sizes may be wrong, and a text that is stored once may stand for a million rows. So the
head of every page is read: how many values it has, and how many bytes these take when they are decompressed. A head
is a struct in Thrift's compact protocol, and so is the description of all pages at the file's end. That is read here,
too: pyarrow ends the whole process at some descriptions that contradict themselves, when it is asked for them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from gdist.pipeline.schema import SchemaError

DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # types of pages
PLAIN, CODED = 0, {2, 8}  # encodings: values as they are; numbers of entries of the dictionary
ALLOWED = {0, 2, 3, 8}  # 3, runs: of truth values
UNCOMPRESSED, ZSTD = 0, 6  # codecs
DEPTH = 8  # of structs in a head
MARK = b"PAR1"

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class Chunk(NamedTuple):
    """A column's part in a group of rows, as the file's end describes it."""

    codec: int
    values: int
    first: int
    size: int


class Group(NamedTuple):
    """A group of rows."""

    rows: int
    chunks: list[Chunk]


class Page(NamedTuple):
    """What the head of a page says.

    Attributes:
        start, stop: where its content is, as it is stored.
        size: of the content, decompressed.
    """

    kind: int
    start: int
    stop: int
    size: int
    values: int
    encoding: int


class Thrift:
    """Reads structs of Thrift's compact protocol: field's number → value, with structs as dictionaries.

    Worked by hand: 15 00 15 c8 01 00 is {1: 0, 2: 100}: 15 is a field one further of type 5, an i32, whose 00 is 0
    and whose c8 01 is 200 in zigzag; the 00 at the end is no further field.
    """

    def __init__(self, data: memoryview, place: int) -> None:
        self.data, self.place = data, place

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Read a struct; SchemaError where there is none."""
        if depth > DEPTH:
            raise SchemaError("its description is nested too deeply")
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            found[number] = self._value(head & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_BYTE, _DOUBLE, _BINARY):
            length = {_BYTE: 1, _DOUBLE: 8}.get(kind) or self._varint()
            self.place += length
            return None
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            if count > len(self.data) - self.place:  # each takes a byte at least
                raise SchemaError("a list in it is cut short")
            of = head & 15
            if of in (_TRUE, _FALSE):
                self.place += count
                return None
            return [self._value(of, depth + 1) for _ in range(count)]
        raise SchemaError("it has a description of a kind that Parquet has not")

    def _byte(self) -> int:
        if not 0 <= self.place < len(self.data):
            raise SchemaError("its description is cut short")
        self.place += 1
        return self.data[self.place - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise SchemaError("its description has a number of more than ten bytes")

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


def groups_of(data: memoryview) -> list[Group]:
    """Return the groups of rows that the file's end describes; SchemaError where it describes none."""
    size = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != MARK or not 0 < size <= len(data) - 12:
        raise SchemaError("it is no Parquet file")
    found = Thrift(data[-8 - size : -8], 0).struct().get(4, [])
    groups = []
    for group in found if isinstance(found, list) else [None]:
        columns = _field(group, 1, list)
        groups.append(Group(_field(group, 3, int), [_chunk(_field(column, 3, dict)) for column in columns]))
    return groups


def _chunk(described: dict[int, Any]) -> Chunk:
    codec, values, size, first = (_field(described, number, int) for number in (4, 5, 7, 9))
    dictionary = described.get(11)
    if isinstance(dictionary, int) and 0 < dictionary < first:  # as pyarrow decides it, too
        first = dictionary
    return Chunk(codec, values, first, size)


def _field[T](struct: Any, number: int, kind: type[T]) -> T:
    found = struct.get(number) if isinstance(struct, dict) else None
    if type(found) is not kind:
        raise SchemaError(f"its description lacks field {number} of a part")
    return found


def pages_of(data: memoryview, chunk: Chunk, name: str) -> Iterator[Page]:
    """Yield the pages of a column's part; SchemaError where they are not within it."""
    first, end, found = chunk.first, chunk.first + chunk.size, 0
    if not 0 <= first <= end <= len(data):
        raise SchemaError(f"its column {name!r:.60} is not within it")
    while first < end and found < chunk.values:
        thrift = Thrift(data, first)
        head = thrift.struct()
        kind, size, stored = (head.get(number, -1) for number in (1, 2, 3))
        own = head.get({DATA: 5, DICTIONARY: 7, DATA_V2: 8}.get(kind, 0))
        own = own if isinstance(own, dict) else {}
        values, encoding = own.get(1, -1), own.get(4 if kind == DATA_V2 else 2, -1)
        stop = thrift.place + stored if isinstance(stored, int) else -1
        whole = all(type(each) is int and each >= 0 for each in (kind, size, stored, values, encoding))
        if not whole or stop > end:
            raise SchemaError(f"its column {name!r:.60} has a page that cannot be read")
        if encoding not in ALLOWED:
            raise SchemaError(f"its column {name!r:.60} has an encoding that gdist does not write")
        yield Page(kind, thrift.place, stop, size, values, encoding)
        first, found = stop, found + (values if kind != DICTIONARY else 0)


class Column(NamedTuple):
    """What a column takes in memory at most.

    Attributes:
        size: of all its pages, decompressed.
        dense: of its values, each by itself.
        coded: whether all of its values are numbers of entries of a dictionary.
    """

    size: int
    dense: int
    coded: bool


def column_of(data: memoryview, groups: list[Group], place: int, described: Any, limit: int) -> Column:
    """Look through the pages of a column.

    Args:
        groups: from :func:`groups_of`.
        described: the column in pyarrow's description of the schema.
        limit: bytes that no page may have; SchemaError otherwise, before it is decompressed.
    """
    size = dense = 0
    coded, name, texts = True, described.path, described.physical_type == "BYTE_ARRAY"
    for group in groups:
        if place >= len(group.chunks):
            raise SchemaError(f"a group of it lacks the column {name!r:.60}")
        chunk = group.chunks[place]
        longest = described.length if described.physical_type == "FIXED_LEN_BYTE_ARRAY" else 8
        if chunk.codec not in (UNCOMPRESSED, ZSTD):
            raise SchemaError(f"its column {name!r:.60} is compressed in a way that gdist does not write")
        for page in pages_of(data, chunk, name):
            size += page.size
            if size > limit:
                raise SchemaError(f"its column {name!r:.60} takes more than {limit:,} bytes")
            if page.kind == DICTIONARY:
                if page.values > chunk.values:
                    raise SchemaError(f"its column {name!r:.60} has a dictionary of more than its values")
                longest = _longest(data, page, chunk.codec) if texts else longest
            elif page.encoding in CODED or not texts:
                dense += page.values * longest
                coded = coded and page.encoding in CODED
            else:
                dense += page.size
                coded = False
    return Column(size, dense, coded)


def _longest(data: memoryview, page: Page, codec: int) -> int:
    """Return the bytes of the longest text of a dictionary, and of its offset."""
    content = data[page.start : page.stop]
    try:
        plain = content if codec == UNCOMPRESSED else memoryview(pa.decompress(content, page.size, "zstd"))
    except (OSError, ValueError) as error:
        raise SchemaError(f"a dictionary of it cannot be decompressed ({error})") from error
    place = longest = entries = 0
    while entries < page.values and place + 4 <= len(plain):
        entries += 1
        length = int.from_bytes(plain[place : place + 4], "little")
        place, longest = place + 4 + length, max(longest, length)
    return min(longest, len(plain)) + 8
