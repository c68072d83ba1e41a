"""A kind of manifest of one's own: a folder in Kaldi's manner, with wav.scp, and text and utt2spk where they are.

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
    summary = "a folder in Kaldi's manner, with wav.scp"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """A row for each line ``ID PATH`` of wav.scp. A relative path starts from here, or else from ``src``.

        Lengths and rates are left to gdist, which reads the headers. ``lines`` and ``located`` work in buckets too.
        """
        scp = src / "wav.scp"
        labels = {column: table(src / file) for file, column in LABELS.items() if (src / file).exists()}
        for number, line in enumerate(lines(scp), start=1):
            utterance, _, path = line.partition(" ")
            if not path or path.endswith("|"):
                raise ManifestError(
                    f"{scp}, line {number}: expected an id and a path, found {line!r}",
                    "run what the pipe says, and name the files it writes",
                )
            row: ManifestRow = {"id": utterance, "path": located(path.strip(), src)}
            yield row | {column: known.get(utterance) for column, known in labels.items()}

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        """For a kind that an installed package announces: whether ``--kind auto`` may take it."""
        return (src / "wav.scp").exists()


def table(path: Place) -> dict[str, str]:
    """``ID value`` line by line."""
    return {name: value for name, _, value in (line.partition(" ") for line in lines(path))}
