"""Tables as text: CSV, in which a quoted cell may hold line breaks, and TSV, in which a quote is a quote."""

import csv
from collections.abc import Iterator
from typing import Any

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import whole_lines
from gdist.pipeline.storage.paths import Place

type Cells = dict[str, str | None]  # an empty cell is null


class Table:
    """The rows of a CSV or a TSV, as they are read.

    Args:
        spaces: whether spaces after a comma are kept.

    Attributes:
        names: the header's cells, without spaces around them.
    """

    def __init__(self, src: Place, spaces: bool = True) -> None:
        self.src, self._spaces = src, spaces
        self._lines = whole_lines(src)  # their ends belong to a cell where it is quoted
        first = next(self._lines, "")
        self.tabs = is_tsv(first)
        self.names = columns(first)
        self.line = 1

    def __iter__(self) -> Iterator[Cells]:
        """Yield one dictionary per row, with the header's names.

        Raises:
            ManifestError: a row has another number of cells than the header, or is not CSV.
        """
        reader = csv.reader(self._lines, strict=True, **_dialect(self.tabs, self._spaces))
        try:
            for cells in reader:
                self.line = 1 + reader.line_num
                if not cells:
                    continue  # a blank line
                if len(cells) != len(self.names):
                    raise ManifestError(
                        f"{self.src}, line {self.line}: expected {len(self.names)} cells, found {len(cells)}",
                        "in a TSV, quotes have no meaning: a cell can contain neither tabs nor line breaks"
                        if self.tabs
                        else "put cells that contain commas or line breaks in double quotes",
                    )
                yield {name: cell or None for name, cell in zip(self.names, cells, strict=True)}
        except csv.Error as error:
            raise ManifestError(f"{self.src}, line {1 + reader.line_num}: not CSV: {error}") from error


def is_tsv(header: str) -> bool:
    """Whether the first line of a table separates its cells by tabs."""
    return "\t" in header and header.count("\t") >= header.count(",")


def columns(header: str) -> list[str]:
    """Return the cells of a table's first line, or none where it is not one."""
    try:
        cells = next(csv.reader([header.rstrip("\r\n")], strict=True, **_dialect(is_tsv(header), False)), [])
    except csv.Error:
        return []
    return [cell.strip() for cell in cells]


def _dialect(tabs: bool, spaces: bool) -> dict[str, Any]:
    return {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"skipinitialspace": not spaces}
