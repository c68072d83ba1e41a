"""A folder of audio."""

from collections import Counter
from collections.abc import Iterable, Iterator

from gdist.pipeline import console
from gdist.pipeline.audio import media
from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import AUDIO_SUFFIXES, ManifestRow, Source, is_audio, relative, walk
from gdist.pipeline.printing import one_line
from gdist.pipeline.storage.paths import Place


class Folder(Source):
    """Any tree of audio files."""

    name = "folder"
    reads_folders = True
    summary = "any folder of audio files"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """List the audio. The id is the path below ``src``; its suffix is kept only where two ids would collide."""
        found = list(walk(src))
        names = [relative(path, src) for path in found if is_audio(path)]
        report_skipped(path for path in found if not is_audio(path))
        stems = Counter(name.with_suffix("") for name in names)
        if not names:
            raise no_audio(src)
        for name in names:
            stem = name.with_suffix("")
            yield {"id": one_line(str(stem if stems[stem] == 1 else name)), "path": str(src / name)}

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return True


def report_skipped(others: Iterable[Place]) -> None:
    """Say how many files were left out that PyAV would decode, if it were installed."""
    suffixes = Counter(path.suffix.lower() for path in others if path.suffix.lower() in media.SUFFIXES)
    if suffixes:
        counted = ", ".join(f"{count} × {suffix}" for suffix, count in suffixes.most_common())
        console.say(f"skipped {counted}; {media.INSTALL}", style="yellow")


def no_audio(src: Place) -> ManifestError:
    others = Counter(path.suffix.lower() or path.name for path in walk(src)).most_common(3)
    found = f"found {', '.join(f'{count} × {suffix}' for suffix, count in others)}; " if others else ""
    reads = f"gdist reads {' '.join(sorted(AUDIO_SUFFIXES))}, and more with {media.INSTALL}"
    hint = f"{found}{reads}; convert others: ffmpeg -i IN -ar 16000 OUT.flac"
    return ManifestError(f"no audio below {src}", hint)
