"""A kind of manifest of your own: a Kaldi folder with wav.scp and, if present, text and utt2spk.

gdist manifest build data/train --kind own_manifest.py:Kaldi --out train.parquet
"""

from collections.abc import Iterator

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, Source, lines, located
from gdist.pipeline.storage.paths import Place

LABELS = {"text": "text", "utt2spk": "speaker"}  # file → the manifest's column


class Kaldi(Source):
    """A folder with wav.scp."""

    name = "kaldi"
    reads_folders = True
    summary = "a Kaldi folder, with wav.scp"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """One row per line ``ID PATH`` of wav.scp.

        A relative path is taken from the working directory or, if nothing is there, from ``src``. Lengths and rates
        are left to gdist, which reads the headers. ``lines`` and ``located`` work in buckets too.
        """
        scp = src / "wav.scp"
        labels = {column: table(src / file) for file, column in LABELS.items() if (src / file).exists()}
        for number, line in enumerate(lines(scp), start=1):
            utterance, _, path = line.partition(" ")
            if not path or path.endswith("|"):
                raise ManifestError(
                    f"{scp}, line {number}: expected an id and a path, found {line!r}",
                    "run the command in the pipe, and list the files it writes",
                )
            row: ManifestRow = {"id": utterance, "path": located(path.strip(), src)}
            yield row | {column: known.get(utterance) for column, known in labels.items()}

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        """Whether ``--kind auto`` may choose this kind; used only if an installed package announces it."""
        return (src / "wav.scp").exists()


def table(path: Place) -> dict[str, str]:
    """Read a file of lines ``ID value``."""
    return {name: value for name, _, value in (line.partition(" ") for line in lines(path))}
