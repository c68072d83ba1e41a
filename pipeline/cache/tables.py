"""Parquet tables of a cache, which may be anybody's: bounded before they are decoded, and of the expected columns."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gdist.pipeline.cache.pages import column_of
from gdist.pipeline.parquet import Group, groups_of
from gdist.pipeline.schema import SchemaError

TIMES, LEAST = 64, 1 << 26  # a table takes so many times its bytes in memory at most, or so many bytes
ROWS_PER_BYTE = 8  # gdist's own have a fifth of a row for each byte
GROUP_ROWS = 64  # rows of a row group, on average, at least
TEXTS = (pa.string(), pa.large_string())


@contextmanager
def arrow() -> Iterator[None]:
    """Turn the errors of pyarrow, which cannot read something, into a SchemaError."""
    try:
        yield
    except SchemaError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, MemoryError) as error:
        text = str(error).strip().partition("\n")[0]
        raise SchemaError(f"it is no table that can be read ({text:.120})") from error


class Bounded:
    """A table that takes no more memory than a multiple of its bytes.

    Args:
        data: the file's bytes.
        rows: how many rows it must have.
        columns: name → type of the columns that it must have; a text may also be a large one.
        coded: whether columns of texts that repeat themselves, other than these, are read as dictionaries.

    Attributes:
        names: of all columns.
        file: opened by pyarrow.

    Raises:
        SchemaError: it is no such table.
    """

    def __init__(self, data: bytes, rows: int, columns: Mapping[str, pa.DataType], coded: bool = False) -> None:
        self._limit, self._total = max(TIMES * len(data), LEAST), 0
        with arrow():
            file = pq.ParquetFile(pa.BufferReader(data))
            metadata, schema = file.metadata, file.schema_arrow
            self.names, self._rows, groups = list(schema.names), rows, groups_of(memoryview(data))
            _require_rows(metadata.num_rows, groups, rows, len(data))
            self._require_columns(schema, columns)
            texts = {field.name for field in schema if field.type in TEXTS} - columns.keys() if coded else set()
            names = self._require_pages(data, metadata, groups, texts if rows else set())
            self.file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=names) if names else file

    def _require_columns(self, schema: pa.Schema, columns: Mapping[str, pa.DataType]) -> None:
        if len(set(self.names)) < len(self.names):
            raise SchemaError(f"it has the column {max(self.names, key=self.names.count)!r:.60} twice")
        for name, kind in columns.items():
            if name not in self.names:
                raise SchemaError(f"it lacks the column {name}")
            if (found := schema.field(name).type) != kind and {found, kind} != set(TEXTS):
                raise SchemaError(f"its column {name} is {found}; it must be {kind}")

    def _require_pages(
        self, data: bytes, metadata: pq.FileMetaData, groups: list[Group], texts: Collection[str]
    ) -> list[str]:
        """Check what the columns take. Returns those of ``texts`` that have only codes."""
        coded = []
        for place in range(metadata.num_columns):
            described = metadata.schema.column(place)
            name, found = described.path, column_of(memoryview(data), groups, place, described, self._limit)
            if found.coded and name in texts:
                coded.append(name)
            self._count(found.size if found.coded and name in texts else found.dense, name)
        return coded

    def _count(self, size: int, name: str) -> None:
        self._total += size
        if self._total > self._limit:
            raise SchemaError(f"it takes more than {self._limit:,} bytes in memory, up to its column {name!r:.60}")

    def read(self, name: str) -> pa.ChunkedArray:
        """Read a column whole; SchemaError where that cannot be done."""
        with arrow():
            column = self.file.read([name])[name]
            column.validate(full=True)
            if len(column) != self._rows:
                raise SchemaError(f"its column {name!r:.60} has {len(column)} values in {self._rows} rows")
            for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
                lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
                self._count(pc.sum(lengths).as_py() or 0, name)
            return column

    def batches(self, rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns, so many rows at a time; raises as :meth:`read` does."""
        with arrow():
            found = 0
            for batch in self.file.iter_batches(rows, columns=columns):
                batch.validate(full=True)
                found += len(batch)
                yield batch
            if found != self._rows:
                raise SchemaError(f"its columns have {found} values in {self._rows} rows")


def _require_rows(found: int, groups: list[Group], rows: int, size: int) -> None:
    if found != rows:
        raise SchemaError(f"it has {found} rows; it must have {rows}")
    if rows > ROWS_PER_BYTE * size:
        raise SchemaError(f"it has {rows} rows in {size} bytes")
    if len(groups) > rows // GROUP_ROWS + 16:
        raise SchemaError(f"its {rows} rows are in {len(groups)} groups")
    counted = sum(group.rows for group in groups)
    if counted != rows:
        raise SchemaError(f"its groups have {counted} rows, and it has {rows}")
