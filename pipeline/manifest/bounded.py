"""A Parquet file may say in a few bytes that a text of a megabyte stands in a million rows. It is measured first."""

import itertools
import os
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.parquet import end_of, groups_of

TIMES, LEAST = 64, 1 << 28  # a table may take so many times the bytes of its file; at least, and for small ones
NUMBER_BYTES = 8  # that a value takes at most, apart from texts
_TEXTS = (pa.string(), pa.large_string())


def read_table(file: Path | BinaryIO, where: str) -> pa.Table:
    """Read a Parquet file that takes no more memory than a multiple of its bytes.

    Raises:
        ManifestError: it would.
        OSError, SchemaError, UnicodeDecodeError, pyarrow.ArrowException: it cannot be read.
    """
    with file.open("rb") if isinstance(file, Path) else nullcontext(file) as source:
        groups, size = groups_of(end_of(source)), source.seek(0, os.SEEK_END)
    limit, total = max(TIMES * size, LEAST), 0
    for chunk in itertools.chain.from_iterable(group.chunks for group in groups):
        total += abs(chunk.plain) + NUMBER_BYTES * abs(chunk.values)
        _require(total, limit, where)
    schema = pq.ParquetFile(file).schema_arrow
    texts = [each.name for each in schema if each.type in _TEXTS]
    table = pq.ParquetFile(file, read_dictionary=texts).read()  # each different text once
    table.validate(full=True)  # before anything is made of it: texts are UTF-8, offsets are within them
    total = 0
    for place, name in enumerate(table.column_names):
        column = table.column(place)
        if pa.types.is_dictionary(column.type) and column.type.value_type in _TEXTS:
            total += sum(map(_dense, column.chunks))
            _require(total, limit, where)
            table = table.set_column(place, name, column.cast(schema.field(place).type))
    return table


def _dense(chunk: pa.DictionaryArray) -> int:
    """Bytes of all texts, each as often as it occurs."""
    lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
    return (pc.sum(lengths.cast(pa.int64())).as_py() or 0) + 4 * len(chunk)


def _require(total: int, limit: int, where: str) -> None:
    if total > limit:
        raise ManifestError(f"{where} would take more than {limit:,} bytes of memory, many times what the file has")
