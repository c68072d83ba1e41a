"""Long utterances as equal consecutive segments."""

import pyarrow as pa

from gdist.pipeline.errors import UsageError
from gdist.pipeline.manifest.schema import with_columns


def split(table: pa.Table, seconds: float) -> pa.Table:
    """Cut the utterances of a table that are longer than ``seconds``; see :meth:`Manifest.split`.

    Raises:
        UsageError: ``seconds`` is less than 1, or not a number.
    """
    if not seconds >= 1:
        raise UsageError(f"cannot split utterances every {seconds} s", "use 1 second or more")
    rows: list[int] = []
    changed: dict[str, list[object]] = {name: [] for name in ("id", "start", "num_samples")}
    if "text" in table.column_names:
        changed["text"] = []
    known = zip(*(table[name].to_pylist() for name in ("start", "num_samples", "sample_rate")), strict=True)
    for row, (start, total, rate) in enumerate(known):
        limit = int(seconds * (rate or 0))
        pieces = -(-total // limit) if total and limit else 1
        for piece in range(pieces):
            first = (total or 0) * piece // pieces
            rows.append(row)
            changed["start"].append((start or 0) + first)
            changed["num_samples"].append(None if total is None else total * (piece + 1) // pieces - first)
            id = table["id"][row].as_py()
            changed["id"].append(id if pieces == 1 else f"{id}-{piece:04}")
            if "text" in changed:
                changed["text"].append(table["text"][row].as_py() if pieces == 1 else None)
    return with_columns(table.take(rows), **changed)
