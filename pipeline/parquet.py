"""What the end of a Parquet file says of its columns, read without pyarrow.

It is a struct in Thrift's compact protocol. pyarrow ends the whole process at some descriptions that contradict
themselves, when it is asked for what they say of a column; so what a stranger wrote is read here.
"""

import os
from typing import Any, BinaryIO, NamedTuple

from gdist.pipeline.schema import SchemaError

DEPTH = 8  # of structs in a head
MARK = b"PAR1"

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class Chunk(NamedTuple):
    """A column's part in a group of rows, as the file's end describes it.

    Attributes:
        plain: bytes of its pages, decompressed.
        first, size: where its pages are, in bytes, as they are stored.
    """

    codec: int
    values: int
    plain: int
    first: int
    size: int


class Group(NamedTuple):
    """A group of rows."""

    rows: int
    chunks: list[Chunk]


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


def end_of(file: BinaryIO) -> memoryview:
    """Read the end of a file, as much of it as :func:`groups_of` needs."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - 8))
    size = int.from_bytes(file.read(4), "little")
    file.seek(max(0, length - size - 12))
    return memoryview(file.read())


def groups_of(data: memoryview) -> list[Group]:
    """Return the groups of rows that the file's end describes; SchemaError where it describes none.

    Args:
        data: the file, or its end from 4 bytes before the description on (see :func:`end_of`).
    """
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
    codec, values, plain, size, first = (_field(described, number, int) for number in (4, 5, 6, 7, 9))
    dictionary = described.get(11)
    if isinstance(dictionary, int) and 0 < dictionary < first:  # as pyarrow decides it, too
        first = dictionary
    return Chunk(codec, values, plain, first, size)


def _field[T](struct: Any, number: int, kind: type[T]) -> T:
    found = struct.get(number) if isinstance(struct, dict) else None
    if type(found) is not kind:
        raise SchemaError(f"its description lacks field {number} of a part")
    return found
