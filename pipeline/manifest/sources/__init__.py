"""What a manifest is built from: folders of audio and other tools' manifests.

To add a kind, write one file with a subclass of :class:`Source` and add its row to ``SOURCES``; `--kind` follows
from the table, and ManifestSuite of the conformance suites checks it. A kind is detected from the content,
in the table's order: the most general comes last.
"""

from collections.abc import Iterator
from typing import Any

from gdist.pipeline.errors import ManifestError, UsageError
from gdist.pipeline.extensions import Registry, instance
from gdist.pipeline.manifest.sources.base import (
    AUDIO_SUFFIXES,
    ManifestRow,
    Options,
    Source,
    head,
    is_folder,
    is_there,
    lines,
)
from gdist.pipeline.manifest.sources.common_voice import CommonVoice
from gdist.pipeline.manifest.sources.delimited import Delimited
from gdist.pipeline.manifest.sources.fairseq import Fairseq
from gdist.pipeline.manifest.sources.folder import Folder
from gdist.pipeline.manifest.sources.hugging_face import HuggingFace
from gdist.pipeline.manifest.sources.kaldi import Kaldi
from gdist.pipeline.manifest.sources.known import refuse_known
from gdist.pipeline.manifest.sources.lhotse import Lhotse
from gdist.pipeline.manifest.sources.librispeech import LibriSpeech
from gdist.pipeline.manifest.sources.metadata import AudioFolder
from gdist.pipeline.manifest.sources.nemo import Nemo
from gdist.pipeline.manifest.sources.shar import Shar
from gdist.pipeline.manifest.sources.speechbrain import SpeechBrain
from gdist.pipeline.manifest.sources.tars import expanded
from gdist.pipeline.manifest.sources.webdataset import WebDataset
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.paths import Place

__all__ = ["SOURCES", "Options", "Source", "detect", "rows_of"]

_ROWS = (
    LibriSpeech(),
    Kaldi(),
    Shar(),
    Nemo(),
    AudioFolder(),
    HuggingFace(),
    WebDataset(),
    Folder(),
    Lhotse(),
    CommonVoice(),
    SpeechBrain(),
    Fairseq(),
    Delimited(),
)
_SAID = {"root": "--root", "allow_commands": "--allow-commands"}


def _accept(found: Any) -> Source:
    """Make a row of ``SOURCES`` from a source, or from a class that makes one without arguments."""
    made = instance(found, Source)
    if not isinstance(made, Source):
        raise TypeError("a kind of manifest must be a subclass of gdist.pipeline.manifest.sources.Source")
    return made


SOURCES: Registry[Source] = Registry(
    "kind of manifest", "gdist.manifests", {made.name: made for made in _ROWS}, _accept
)


def rows_of(src: Place, kind: str, options: Options) -> tuple[str, Iterator[ManifestRow]]:
    """Return what ``src`` was taken for, a key of ``SOURCES``, and its rows.

    Raises:
        ManifestError: ``src`` is missing, or of no kind that gdist knows, or not of this one.
        UsageError: an option means nothing for this kind.
    """
    found = detect(src) if kind == "auto" else SOURCES.use(kind)
    source = SOURCES.find(found, f"--kind {kind}")
    if not source.reads_both and is_folder(src) != source.reads_folders:
        raise ManifestError(f"{src} is not what --kind {found} reads", "leave out --kind to detect it")
    for name, said in _SAID.items():
        if getattr(options, name) and name not in source.options:
            takers = ", ".join(name_ for name_, row in SOURCES.own.items() if name in row.options)
            raise UsageError(f"{said} means nothing for {src}, taken for {found}", f"it is for: {takers}")
    return found, source.rows_with(src, options)


def detect(src: Place) -> str:
    """Detect the kind of ``src`` from its content.

    Raises:
        ManifestError: it is missing, empty, or of no kind that gdist knows.
    """
    if is_folder(src):
        return next(
            name
            for name, source in SOURCES.items()
            if (source.reads_folders or source.reads_both) and source.recognizes(src, "", "")
        )
    src = expanded(src)[0]
    if not is_there(src):
        raise ManifestError(f"cannot build a manifest from {src}: no such file or folder")
    if src.suffix.lower() in AUDIO_SUFFIXES:
        raise ManifestError(
            f"{src} is one audio file", f"give its folder: gdist manifest build {in_shell(src.parent)} …"
        )
    start = head(src, 512)
    if not start.strip():
        raise ManifestError(f"cannot build a manifest from {src}: it is empty")
    refuse_known(src)
    binary = b"\0" in start and not start.startswith(b"\x1f\x8b")
    text = iter(()) if binary or start.startswith(b"PAR1") else lines(src)
    first, second = next(text, ""), next(text, "")
    for name, source in SOURCES.items():
        may = (source.reads_both or not source.reads_folders) and (source.binary or not binary)
        if may and source.recognizes(src, first, second):
            return name
    if start.startswith(b"PAR1"):
        raise ManifestError(f"{src} is a manifest, or another Parquet file", f"gdist manifest check {in_shell(src)}")
    if binary:
        raise ManifestError(f"cannot read {src}: it is not UTF-8 text", f"kinds of manifest: {', '.join(SOURCES)}")
    raise ManifestError(
        f"cannot detect what {src} is; its first line is {first[:60]!r}",
        f"name its kind with --kind: {', '.join(SOURCES)}",
    )
