"""LibriSpeech's tree."""

import re
from collections.abc import Iterator

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, Source, lines, walk
from gdist.pipeline.storage.paths import Place

_TRANSCRIPTS = re.compile(r"^(\d+)-(\d+)\.trans\.txt$")
_SUBSET = re.compile(r"^(train|dev|test)\b")


class LibriSpeech(Source):
    """LibriSpeech, or a part of it."""

    name = "librispeech"
    reads_folders = True
    summary = "LibriSpeech's tree, or a part of it"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """Read LibriSpeech, or a part of it: SPEAKER-CHAPTER-UTT.flac next to SPEAKER-CHAPTER.trans.txt.

        Labels: speaker, chapter, text, and split (the subset's folder, such as train-clean-100, where there is one).
        """
        found = [(path, match) for path in walk(src) if (match := _TRANSCRIPTS.match(path.name))]
        if not found:
            raise ManifestError(f"no SPEAKER-CHAPTER.trans.txt below {src}", "for any tree of audio: --kind folder")
        for path, match in found:
            subset = path.parents[2].name if len(path.parents) > 2 else ""
            for line in lines(path):
                utterance, _, text = line.partition(" ")
                yield {
                    "id": utterance,
                    "path": str(path.with_name(f"{utterance}.flac")),
                    "speaker": match[1],
                    "chapter": match[2],
                    "text": text,
                    "split": subset if _SUBSET.match(subset) else None,
                }

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return any(_TRANSCRIPTS.match(path.name) for path in walk(src))
