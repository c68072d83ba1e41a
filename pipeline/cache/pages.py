"""How large a Parquet file becomes, found out before any of it is decoded: from the heads of its pages.

What the file's end says of sizes may be wrong, and a text that is stored once may stand for a million rows. So the
head of every page is read: how many values it has, and how many bytes these take when they are decompressed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from gdist.pipeline.parquet import Chunk, Group, Thrift
from gdist.pipeline.schema import SchemaError

DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # types of pages
PLAIN, CODED = 0, {2, 8}  # encodings: values as they are; numbers of entries of the dictionary
ALLOWED = {0, 2, 3, 8}  # 3, runs: of truth values
UNCOMPRESSED, ZSTD = 0, 6  # codecs


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
