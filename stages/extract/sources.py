"""What a repair is given beside the cache: the teacher and the manifest. All that is lacking is said at once."""

from dataclasses import dataclass

from gdist.pipeline.cache.copied import require_extracted
from gdist.pipeline.cache.needs import repair_command, teacher_of
from gdist.pipeline.cache.plan import WAVEFORM
from gdist.pipeline.cache.verify import Findings
from gdist.pipeline.errors import CacheError


@dataclass(frozen=True)
class Sources:
    """What a repair can use in addition to the cache itself.

    Attributes:
        teacher: a hub id or a folder; None means the hub id that the cache records.
        manifest: the manifest with the audio files; needed only for packs whose waveform is lost.
        device: where the teacher runs.
        uses: the user's own files that were named.
    """

    teacher: str | None = None
    manifest: str | None = None
    device: str = "auto"
    uses: tuple[str, ...] = ()

    def command(self, found: Findings) -> str:
        """Return the command that repairs what was found, with what the user has already named."""
        more = [part for use in self.uses for part in ("--use", use)]
        more += ["--device", self.device] if self.device != "auto" else []
        cache = found.cache
        return repair_command(cache.uri, cache.gdist, found.needs, self.teacher, self.manifest, more)

    def require(self, found: Findings) -> None:
        """Raise CacheError, with all that is lacking and the whole command, unless these sources suffice; for a copy
        which no teacher can make again, CacheMismatchError."""
        if found.needs.teacher or found.needs.manifest:
            require_extracted(found.cache.uri, found.cache.gdist, "run the teacher to repair")
        (name, is_folder), lacking = teacher_of(found.cache.gdist), []
        if found.needs.teacher and self.teacher is None and is_folder:
            lacking.append(f"its teacher has to run again, but it was a local folder ({name})")
        if found.needs.manifest and self.manifest is None:
            first, *others = sorted(audio_lost(found))
            more = f" (and of {len(others)} more)" if others else ""
            lacking.append(
                f"the audio of pack {first}{more} has to be read from its files, which a cache does not record"
            )
        if lacking:
            raise CacheError(f"to repair {found.cache.uri}: {'; and '.join(lacking)}", self.command(found))


def audio_lost(found: Findings) -> set[int]:
    """Return the packs whose audio has to be read from its files."""
    packs = {damage.pack for damage in found.bad if damage.array == WAVEFORM and damage.pack is not None}
    packs |= {left.task.pack for left in found.remains.values() if left.needs.manifest}
    return packs | {task.pack for task in found.missing if task.waveform and task not in found.remains}
