"""What a manifest is built from: folders of audio and other tools' manifests.

To add a kind, write one file with a subclass of :class:`Source` and add its row to ``SOURCES``; `--kind` follows
from the table, and ManifestSuite of the conformance suites checks it. A kind is detected from the content,
in the table's order: the most general comes last.
"""

from typing import Any

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.extensions import Registry, instance
from gdist.pipeline.manifest.sources.base import AUDIO_SUFFIXES, Source, lines, readable
from gdist.pipeline.manifest.sources.delimited import Delimited
from gdist.pipeline.manifest.sources.fairseq import Fairseq
from gdist.pipeline.manifest.sources.folder import Folder
from gdist.pipeline.manifest.sources.lhotse import Lhotse
from gdist.pipeline.manifest.sources.librispeech import LibriSpeech
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.paths import Place

__all__ = ["SOURCES", "Source", "detect"]


def _accept(found: Any) -> Source:
    """Make a row of ``SOURCES`` from a source, or from a class that makes one without arguments."""
    made = instance(found, Source)
    if not isinstance(made, Source):
        raise TypeError("a kind of manifest must be a subclass of gdist.pipeline.manifest.sources.Source")
    return made


SOURCES: Registry[Source] = Registry(
    "kind of manifest",
    "gdist.manifests",
    {made.name: made for made in (LibriSpeech(), Folder(), Lhotse(), Fairseq(), Delimited())},
    _accept,
)


def detect(src: Place) -> str:
    """Detect the kind of ``src`` from its content.

    Raises:
        ManifestError: it is missing, empty, or of no kind that gdist knows.
    """
    if src.is_dir():
        return next(
            name for name, source in SOURCES.items() if source.reads_folders and source.recognizes(src, "", "")
        )
    if not src.exists():
        raise ManifestError(f"cannot build a manifest from {src}: no such file or folder")
    if src.suffix.lower() in AUDIO_SUFFIXES:
        raise ManifestError(
            f"{src} is one audio file", f"give its folder: gdist manifest build {in_shell(src.parent)} …"
        )
    with readable(src), src.open("rb") as file:
        head = file.read(4)
    if head == b"PAR1":
        raise ManifestError(f"{src} is a manifest, or another Parquet file", f"gdist manifest check {in_shell(src)}")
    text = lines(src)
    first, second = next(text, ""), next(text, "")
    if not first:
        raise ManifestError(f"cannot build a manifest from {src}: it is empty")
    for name, source in SOURCES.items():
        if not source.reads_folders and source.recognizes(src, first, second):
            return name
    raise ManifestError(
        f"cannot detect what {src} is; its first line is {first[:60]!r}",
        f"name its kind with --kind: {', '.join(SOURCES)}",
    )
