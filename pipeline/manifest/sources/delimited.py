"""Tables as text: CSV, or TSV with a header."""

import re
from collections.abc import Iterator

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.schema import INTEGERS
from gdist.pipeline.manifest.sources.base import ManifestRow, Source, below
from gdist.pipeline.manifest.sources.cells import Table, columns
from gdist.pipeline.storage.paths import Place, is_uri

_TEXT = ("id", "path", "text")  # never turned into integers, whatever they look like


class Delimited(Source):
    """CSV or TSV whose header names the manifest's columns."""

    name = "csv"
    summary = "a CSV, or a TSV with a header, with the columns id and path"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """Read a CSV, or a TSV with a header, whose columns are the manifest's.

        Empty cells are null; paths start from the table's folder. A column becomes integers if every value is an
        integer and is written as one (007 stays text). A CSV may quote cells; in a TSV, a quote is a quote.
        """
        table = Table(src)
        names = table.names
        if missing := {"id", "path"} - set(names):
            raise ManifestError(
                f"{src} lacks the column {' and '.join(sorted(missing))}; it has: {', '.join(names) or 'none'}",
                "its first line names the columns: id,path, and optionally start,num_samples,sample_rate,channel "
                "and labels",
            )
        if len(set(names)) < len(names):
            raise ManifestError(
                f"{src} has a column twice; it has: {', '.join(names)}", "rename or remove one of them"
            )
        rows = list(table)
        integers = [name for name in names if name not in _TEXT and all(_is_integer(row[name]) for row in rows)]
        for name in set(INTEGERS) & set(names) - set(integers):
            odd = next(row[name] for row in rows if not _is_integer(row[name]))
            raise ManifestError(
                f"{src}: the column {name} contains {odd!r}", "it counts samples, or is a number: write whole numbers"
            )
        for row in rows:
            path = row["path"] or ""
            located = path if is_uri(path) or not path else below(src.parent, path)
            found: ManifestRow = {**row, "path": located}
            yield found | {name: _integer(row[name]) for name in integers}

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return bool({"id", "path"} & set(columns(first)))


def _is_integer(value: object) -> bool:
    return value is None or bool(re.fullmatch(r"0|-?[1-9]\d{0,17}", str(value)))


def _integer(value: str | None) -> int | None:
    return None if value is None else int(value)
