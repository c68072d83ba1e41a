"""Common Voice's TSVs, as they are in its archives."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, Options, Source, below
from gdist.pipeline.manifest.sources.cells import Table, columns
from gdist.pipeline.manifest.sources.labels import Labels, ids_from_paths
from gdist.pipeline.storage.paths import Place


class CommonVoice(Source):
    """validated.tsv, train.tsv, … of Common Voice, next to clips/."""

    name = "commonvoice"
    options = frozenset({"root"})
    summary = "a TSV of Common Voice, next to its clips/"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        return self.rows_with(src, Options())

    def rows_with(self, src: Place, options: Options) -> Iterator[ManifestRow]:
        """One row per clip: the id is its file's name; labels are speaker, text and the other columns.

        ``path`` is below clips/ next to the TSV, or below ``--root``. Quotes have no meaning.
        """
        table = Table(src)
        if missing := {"client_id", "path"} - set(table.names):
            raise ManifestError(
                f"{src} lacks the column {' and '.join(sorted(missing))} of Common Voice's TSVs",
                f"it has: {', '.join(table.names)}",
            )
        clips = below(src.parent, options.root or "clips")
        if isinstance(src, Path) and not Path(clips).is_dir():
            raise ManifestError(f"{src}: there is no {clips}, where its audio is expected", "name it: --root CLIPS")
        rows, names = [], []
        for row in table:
            if not (name := row["path"]):
                raise ManifestError(f"{src}, line {table.line}: it names no clip", "remove the line")
            rows.append(row)
            names.append(name if PurePosixPath(name).suffix else f"{name}.mp3")  # left out before 2019
        labels = Labels(table.names, skip={"path"})
        for row, name, id in zip(rows, names, ids_from_paths(names), strict=True):
            found: ManifestRow = {"id": id, "path": f"{clips.removesuffix('/')}/{name}"}
            yield found | labels.of(row)
        labels.report()

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        names = set(columns(first))
        return {"client_id", "path"} <= names and "id" not in names
