"""A folder of audio."""

from collections import Counter
from collections.abc import Iterator

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import AUDIO_SUFFIXES, ManifestRow, Source, is_audio, relative, walk
from gdist.pipeline.storage.paths import Place


class Folder(Source):
    """Any tree of audio files."""

    name = "folder"
    reads_folders = True
    summary = "any folder of audio files"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """List the audio. The id is the path below ``src``; its suffix is kept only where two ids would collide."""
        names = [relative(path, src) for path in walk(src) if is_audio(path)]
        stems = Counter(name.with_suffix("") for name in names)
        if not names:
            raise no_audio(src)
        for name in names:
            stem = name.with_suffix("")
            yield {"id": str(stem if stems[stem] == 1 else name), "path": str(src / name)}

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return True


def no_audio(src: Place) -> ManifestError:
    others = Counter(path.suffix.lower() or path.name for path in walk(src)).most_common(3)
    found = f"found {', '.join(f'{count} × {suffix}' for suffix, count in others)}; " if others else ""
    hint = f"{found}gdist reads {' '.join(sorted(AUDIO_SUFFIXES))}; convert others: ffmpeg -i IN -ar 16000 OUT.flac"
    return ManifestError(f"no audio below {src}", hint)
