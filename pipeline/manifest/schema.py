"""The schema of the utterance table: its columns and their types, and what makes a table a manifest.

    id           string, unique             path      string: relative to the manifest's folder, absolute, or a URI
    start        int64, null: 0             num_samples   int64, null: to the end; both count samples at sample_rate
    sample_rate  int32, null: unknown       any other column is a label and keeps its type

Only ``id`` and ``path`` are required; the other three are added as nulls, so a table in memory has all five. Others
are there only where they are given:

    channel      int32, from 0; null: the mean of all channels
    byte_offset  int64, null: 0             byte_size     int64, null: to the end of the file; the audio file is this
                                                          range of the bytes of path
    gain_bits    int32, null: 0             samples are multiplied by 2 to this power before they are rounded
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from gdist.pipeline.audio import MAX_GAIN_BITS
from gdist.pipeline.errors import ManifestError
from gdist.pipeline.ids import LONGEST_ID, first_obeyed

COLUMNS = {
    "id": pa.string(),
    "path": pa.string(),
    "start": pa.int64(),
    "num_samples": pa.int64(),
    "sample_rate": pa.int32(),
}
OPTIONAL = {"channel": pa.int32(), "byte_offset": pa.int64(), "byte_size": pa.int64(), "gain_bits": pa.int32()}
"""A manifest without one of these columns stays without it, so that its bytes and its fingerprint stay the same."""

INTEGERS = tuple(name for name, kind in (COLUMNS | OPTIONAL).items() if pa.types.is_integer(kind))

_LONGEST = 1 << 48  # samples: with 16,000 Hz, still in 64 bits
_BOUNDS: dict[str, tuple[int, int | None]] = {
    "start": (0, _LONGEST),
    "num_samples": (0, _LONGEST),
    "sample_rate": (1, None),
    "channel": (0, None),
    "byte_offset": (0, None),
    "byte_size": (0, None),
    "gain_bits": (-MAX_GAIN_BITS, MAX_GAIN_BITS),
}


def conformed(table: pa.Table, where: str) -> pa.Table:
    """Put the schema's columns first, cast to the schema's types; ManifestError where the table breaks a rule."""
    names = table.column_names
    if missing := {"id", "path"} - set(names):
        raise ManifestError(
            f"{where} lacks the column {' and '.join(sorted(missing))}; it has: {', '.join(names) or 'none'}",
            "a manifest needs id and path; start, num_samples, sample_rate and labels are optional",
        )
    if twice := _repeated(names):
        raise ManifestError(f"{where} has the column {twice[0]} twice")
    if not len(table):
        raise ManifestError(f"{where} has no utterances")
    typed = COLUMNS | {name: kind for name, kind in OPTIONAL.items() if name in names}
    columns = {name: _cast(table, name, kind, where) for name, kind in typed.items()}
    for name in ("id", "path"):
        # The sum of nothing, in a column of nulls alone, is null.
        if empty := columns[name].null_count + (pc.sum(pc.equal(columns[name], "")).as_py() or 0):
            raise ManifestError(f"{where}: {name} is empty in {empty} of {len(table)} rows")
    _require_lines(columns["id"], where)
    if pc.count_distinct(columns["id"]).as_py() < len(table):
        twice = _repeated(columns["id"].to_pylist())
        more = f" and {len(twice) - 3} more" if len(twice) > 3 else ""
        raise ManifestError(f"{where}: ids are not unique: {', '.join(twice[:3])}{more}", "give each row its own id")
    for name in _BOUNDS.keys() & columns.keys():
        (low, high), (minimum, maximum) = pc.min_max(columns[name]).as_py().values(), _BOUNDS[name]
        if low is not None and low < minimum:
            raise ManifestError(f"{where}: {name} is {low} in some row; it must be {minimum} or more")
        if high is not None and maximum is not None and high > maximum:
            raise ManifestError(f"{where}: {name} is {high} in some row; it must be {maximum} or less")
    return pa.table(columns | {name: table[name] for name in names if name not in columns})


def _require_lines(ids: pa.ChunkedArray, where: str) -> None:
    """Raise ManifestError where an id is no line of text: it is printed, and names rows in other tools' files."""
    before = 0
    for chunk in filter(len, ids.chunks):
        row = first_obeyed(chunk)
        if row < 0 and pc.max(pc.binary_length(chunk)).as_py() > LONGEST_ID:
            row = pc.index(pc.greater(pc.binary_length(chunk), LONGEST_ID), True).as_py()
        if row >= 0:
            what = f"the id {chunk[row].as_py()!r:.60} of row {before + row + 1}"
            why = f"{where}: {what} has control characters, or too many"
            raise ManifestError(why, "give it an id of one line")
        before += len(chunk)


def _cast(table: pa.Table, name: str, wanted: pa.DataType, where: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), wanted)])
    given = table[name].type
    value_type = given.value_type if pa.types.is_dictionary(given) else given
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    # pandas turns a column of integers with gaps into floats; the safe cast refuses values that are not whole.
    number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    try:
        if any(test(value_type) for test in (text if wanted == pa.string() else number)):
            return table[name].cast(wanted)
        reason = f"it is {given}"
    except pa.ArrowInvalid as error:
        reason = str(error)
    raise ManifestError(
        f"{where}: the column {name} must be {wanted}: {reason}",
        f"give it another name if it is a label: gdist reads {name} as docs/audio.md says"
        if name in OPTIONAL
        else None,
    )


def from_rows(rows: Iterable[Mapping[str, object]], where: str) -> pa.Table:
    """Build a manifest's table from a source's rows; labels get the types of their values."""
    listed = list(rows)
    if not listed:
        raise ManifestError(f"{where} lists no utterances")
    names = dict.fromkeys(name for row in listed for name in row)
    columns: dict[str, pa.Array] = {}
    try:
        for name in names:
            values = pa.array([row.get(name) for row in listed], (COLUMNS | OPTIONAL).get(name))
            if _is_hollow(values.type):
                raise ManifestError(f"{where}: the column {name} has an empty object, which Parquet cannot hold")
            columns[name] = values.cast(pa.string()) if pa.types.is_null(values.type) else values
    except OverflowError as error:
        odd = next((number for number, row in enumerate(listed, start=1) if _is_too_large(row.get(name))), 0)
        raise ManifestError(f"{where}: {name} of utterance {odd} is an integer of more than 64 bits") from error
    except (pa.ArrowException, TypeError) as error:
        raise ManifestError(f"{where}: the column {name} mixes types, or has an unsupported one: {error}") from error
    except UnicodeEncodeError as error:
        raise ManifestError(f"{where}: not UTF-8: {error.object!r}", "rename the file") from error
    return conformed(pa.table(columns), where)


def _is_hollow(kind: pa.DataType) -> bool:
    """Whether a type is, or contains, a struct without fields."""
    inside = [kind.field(at).type for at in range(kind.num_fields)]
    return (pa.types.is_struct(kind) and not inside) or any(map(_is_hollow, inside))


def _is_too_large(value: object) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def with_columns(table: pa.Table, **values: Sequence[object]) -> pa.Table:
    """Replace the values of some columns; their types and positions stay."""
    for name, column in values.items():
        index = table.column_names.index(name)
        table = table.set_column(index, name, pa.array(column, table.schema.field(name).type))
    return table


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
