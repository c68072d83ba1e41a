"""The index of a cache: one row per utterance, its place and its labels, in one Parquet file."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gdist.pipeline.cache.entries import OWN, Coded, Entries
from gdist.pipeline.cache.places import require_line, require_places
from gdist.pipeline.cache.tables import Bounded
from gdist.pipeline.errors import ManifestError
from gdist.pipeline.framing import Framing
from gdist.pipeline.schema import SchemaError

SAMPLED = 65_536  # rows that show whether a column of texts repeats itself
LIMIT = 2**31 - 1  # bytes of text in an Arrow array with 32-bit offsets


def to_table(entries: Entries, labels: pa.Table | None = None) -> pa.Table:
    """Build the index, including the manifest's label columns, row for row.

    Raises:
        ManifestError: a label column has the name of one of the index's own columns.
    """
    columns: dict[str, Any] = {name: _own(entries, name) for name in OWN}
    if labels is not None:
        taken = [name for name in labels.column_names if name in columns]
        if taken:
            raise ManifestError(
                f"the cache's index has a column `{taken[0]}` of its own", "rename the manifest's label"
            )
        for name in labels.column_names:
            columns[name] = labels[name].combine_chunks() if labels[name].nbytes < LIMIT else labels[name]
    return pa.table(columns)


def from_table(table: pa.Table) -> Entries:
    """Invert :func:`to_table`."""
    return _entries({name: table[name] for name in table.column_names})


def read(index: bytes, gdist: Mapping[str, Any], framing: Framing) -> Entries:
    """Read the index, one column after another, so that no more than one is in memory twice.

    Args:
        gdist: the root document's description.
        framing: of the cache's teacher.

    Raises:
        SchemaError: it is no index, or does not agree with the root document.
    """
    table = Bounded(index, gdist["utterances"], OWN, coded=True)
    columns = {}
    for name in table.names:
        require_line(name)
        column = table.read(name)
        if name in OWN and name != "problem" and column.null_count:
            raise SchemaError(f"its column {name} has {column.null_count} rows without a value")
        columns[name] = _compact(name, column)
    entries = _entries(columns)
    require_places(entries, gdist, framing)
    return entries


def joined(first: Entries, second: Entries) -> Entries:
    """Return the entries of both, one after another, without labels."""
    tables = [pa.table({name: _own(part, name) for name in OWN}) for part in (first, second)]
    return from_table(pa.concat_tables(tables))


def _own(entries: Entries, name: str) -> pa.Array:
    if OWN[name] != pa.string():
        return pa.array(entries.numbers(name), OWN[name])  # type: ignore[arg-type]
    column = entries.texts(name)
    return column if pa.types.is_large_string(column.type) else column.cast(OWN[name])


def _entries(columns: dict[str, Any]) -> Entries:
    compact = {name: _compact(name, column) for name, column in columns.items()}
    return Entries({name: compact.pop(name) for name in OWN}, compact)


def _compact(name: str, column: Any) -> Any:
    """Return a column as a numpy array, where it is one of our numbers, or as one Arrow array: texts that repeat
    themselves once each, with 32-bit codes."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if name in OWN and OWN[name] != pa.string():
        return column.to_numpy()
    if pa.types.is_dictionary(column.type):
        return Coded.of(column.unify_dictionaries().combine_chunks())
    texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if texts and name != "id" and _repeats(column):
        return Coded.of(column.dictionary_encode().combine_chunks())
    if texts and column.nbytes > LIMIT:
        column = column.cast(pa.large_string())
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _repeats(column: pa.ChunkedArray) -> bool:
    sample = column.slice(0, SAMPLED)
    return bool(len(sample) and pc.count_distinct(sample, mode="all").as_py() <= len(sample) // 4)
