"""A kind of manifest of your own: sessions of VoxForge, with etc/PROMPTS and wav/.

gdist manifest build voxforge/ --kind own_manifest.py:VoxForge --out voxforge.parquet
"""

from collections.abc import Iterator

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, Source, lines, walk
from gdist.pipeline.storage.paths import Place


class VoxForge(Source):
    """Folders SPEAKER-DATE-CODE, each with etc/PROMPTS and wav/."""

    name = "voxforge"
    reads_folders = True
    summary = "sessions of VoxForge, with etc/PROMPTS and wav/"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """One row per line ``SESSION/mfc/NAME TEXT`` of each PROMPTS: the audio is SESSION/wav/NAME.wav.

        Lengths and rates are left to gdist, which reads the headers. ``walk`` and ``lines`` work in buckets too.
        """
        for prompts in prompts_below(src):
            session = prompts.parent.parent
            for number, line in enumerate(lines(prompts), start=1):
                place, _, text = line.partition(" ")
                name = place.rpartition("/")[2]
                if not name or not text:
                    raise ManifestError(
                        f"{prompts}, line {number}: expected a name and a text, found {line!r}",
                        "remove the line, or give it the text that was read",
                    )
                yield {
                    "id": f"{session.name}/{name}",
                    "path": str(session / "wav" / f"{name}.wav"),
                    "speaker": session.name.partition("-")[0],
                    "text": text,
                }

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        """Whether ``--kind auto`` may choose this kind; used only if an installed package announces it."""
        return any(True for _ in prompts_below(src))


def prompts_below(src: Place) -> Iterator[Place]:
    """The PROMPTS of each session, in order."""
    yield from (path for path in walk(src) if path.name == "PROMPTS" and path.parent.name == "etc")
