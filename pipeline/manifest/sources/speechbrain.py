"""SpeechBrain's CSVs."""

import re
from collections.abc import Iterator

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, OptionalSource, Options, located
from gdist.pipeline.manifest.sources.cells import Cells, Table, columns
from gdist.pipeline.manifest.sources.labels import Labels
from gdist.pipeline.storage.paths import Place

_PLACEHOLDER = re.compile(r"\$\{?(\w+)\}?|\{(\w+)\}")


class SpeechBrain(OptionalSource):
    """A CSV with the columns ID and wav; start and stop count samples."""

    name = "speechbrain"
    options = frozenset({"root"})
    summary = "SpeechBrain's CSV, with ID and wav"

    def rows_with(self, src: Place, options: Options) -> Iterator[ManifestRow]:
        """One row per line: ``spk_id`` and ``wrd`` become speaker and text, other columns are labels.

        A placeholder such as ``$data_root`` is replaced by ``--root``. ``duration``, in seconds, is not needed: the
        header of the audio says it in samples.
        """
        table = Table(src, spaces=False)
        if missing := {"ID", "wav"} - set(table.names):
            raise ManifestError(
                f"{src} lacks the column {' and '.join(sorted(missing))} of SpeechBrain's CSVs",
                f"it has: {', '.join(table.names)}",
            )
        labels = Labels(table.names, skip={"ID", "wav", "start", "stop", "duration", "wav_format", "wav_opts"})
        for row in table:
            where = f"{src}, line {table.line}"
            path = _resolved(row["wav"] or "", options.root, where)
            start, stop = _sample(row, "start", where), _sample(row, "stop", where)
            if stop is not None and stop < (start or 0):
                raise ManifestError(f"{where}: it stops at sample {stop}, before it starts")
            length = None if stop is None else stop - (start or 0)
            found: ManifestRow = {"id": row["ID"], "path": located(path, src.parent) if path else ""}
            if "start" in table.names or "stop" in table.names:
                found |= {"start": start, "num_samples": length}
            yield found | labels.of(row)
        labels.report()

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return {"ID", "wav"} <= set(columns(first))


def _resolved(path: str, root: str | None, where: str) -> str:
    names = {found[1] or found[2] for found in _PLACEHOLDER.finditer(path)}
    if names and (root is None or len(names) > 1):
        raise ManifestError(
            f"{where}: the path {path!r} has the placeholder {' and '.join(sorted(names))}",
            "say which folder it stands for: --root DATA_FOLDER" if len(names) == 1 else "write the folders into it",
        )
    return _PLACEHOLDER.sub(lambda _: (root or "").removesuffix("/"), path)


def _sample(row: Cells, name: str, where: str) -> int | None:
    value = row.get(name)
    if value is None:
        return None
    if not re.fullmatch(r"\d+(\.0*)?", value):
        raise ManifestError(f"{where}: {name} is {value!r}", "SpeechBrain counts samples there: write a whole number")
    return int(float(value))
