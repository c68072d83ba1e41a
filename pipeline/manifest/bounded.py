"""A Parquet file may say in a few bytes that a text of a megabyte stands in a million rows. It is measured first."""

from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gdist.pipeline.errors import ManifestError

TIMES, LEAST = 64, 1 << 28  # a table may take so many times the bytes of its file; at least, and for small ones
NUMBER_BYTES = 8  # that a value takes at most, apart from texts
_TEXTS = (pa.string(), pa.large_string())


def read_table(file: Path | BinaryIO, where: str) -> pa.Table:
    """Read a Parquet file that takes no more memory than a multiple of its bytes.

    Raises:
        ManifestError: it would.
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    declared = pq.ParquetFile(file)
    size = file.stat().st_size if isinstance(file, Path) else _length(file)
    limit = max(TIMES * size, LEAST)
    metadata, total = declared.metadata, 0
    for place in range(metadata.num_row_groups):
        group = metadata.row_group(place)
        columns = [group.column(number) for number in range(group.num_columns)]
        total += sum(abs(each.total_uncompressed_size) for each in columns)
        total += NUMBER_BYTES * sum(abs(each.num_values) for each in columns)
        _require(total, limit, where)
    schema = declared.schema_arrow
    texts = [each.name for each in schema if each.type in _TEXTS]
    table = pq.ParquetFile(file, read_dictionary=texts).read()  # each different text once
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


def _length(file: BinaryIO) -> int:
    file.seek(0, 2)
    return file.tell()


def _require(total: int, limit: int, where: str) -> None:
    if total > limit:
        raise ManifestError(f"{where} would take more than {limit:,} bytes of memory, many times what the file has")
