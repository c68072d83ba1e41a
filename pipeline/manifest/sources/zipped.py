"""Audio inside a zip, by its bytes: possible where the zip stores it as it is."""

import zipfile
from bisect import bisect_right

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import readable
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.paths import place
from gdist.pipeline.storage.ranged import opened


class Zips:
    """Members of zips by their place. The zips of one build are read once each."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[int], list[tuple[str, int, bool]]]] = {}

    def require_stored(self, path: str, offset: int, length: int, where: str) -> None:
        """Refuse a range of bytes that is not inside one member that the zip stores without compression.

        Raises:
            ManifestError: the zip cannot be read, or the member is compressed or shorter; ``where`` names the line.
        """
        if path not in self._known:
            self._known[path] = _members(path)
        starts, members = self._known[path]
        index = bisect_right(starts, offset) - 1
        if index < 0 or offset + length > members[index][1]:
            raise ManifestError(f"{where}: {path} has no member at bytes {offset} to {offset + length}")
        if members[index][2]:
            raise ManifestError(
                f"{where}: {path} compresses {members[index][0]}, so its audio is not a range of the zip's bytes",
                f"store it instead: unzip {in_shell(path)} -d audio && (cd audio && zip -0r ../stored.zip .), and "
                f"make the manifest again",
            )


def _members(path: str) -> tuple[list[int], list[tuple[str, int, bool]]]:
    """Return where the headers of the members start, and each member's name, last possible byte, and compression."""
    src = place(path)
    try:
        with readable(src), opened(src) as file, zipfile.ZipFile(file) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            after = [*(info.header_offset for info in infos[1:]), archive.start_dir]
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ManifestError(f"cannot read {path}: it is not a whole zip: {error}") from error
    members = [
        (info.filename, stop, info.compress_type != zipfile.ZIP_STORED or bool(info.flag_bits & 1))
        for info, stop in zip(infos, after, strict=True)
    ]
    return [info.header_offset for info in infos], members
