"""fairseq's tab-separated manifests."""

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, Source, lines, located
from gdist.pipeline.manifest.sources.labels import ids_from_paths, without_suffix
from gdist.pipeline.manifest.sources.zipped import Zips
from gdist.pipeline.storage.locations import join
from gdist.pipeline.storage.paths import Place, is_uri

_SLICE = re.compile(r"(.+):(\d+):(\d+)")


class Fairseq(Source):
    """wav2vec's .tsv, with its .wrd or .ltr."""

    name = "fairseq"
    summary = "a fairseq .tsv, with its .wrd or .ltr"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """Read wav2vec's .tsv: the root, then ``path<TAB>num_samples``; text from a .wrd or .ltr of the same name.

        An absolute path is what it is, whatever the root. With an empty root, the other paths start from the current
        folder, as in fairseq, or from the file's. ``FILE.zip:OFFSET:LENGTH`` is a range of the bytes of a zip, and
        ``FILE.wav:START:LENGTH`` a range of samples. A third column becomes the label ``column_3``.
        """
        root, *rest = list(lines(src)) or [""]
        audio = located(root, src.parent) if root else ""
        if audio and not is_uri(audio) and not os.path.isdir(audio):  # noqa: PTH112 — the name may be too long
            raise ManifestError(
                f"{src}: its first line says the audio is in {root!r}, which does not exist",
                "change the first line to the folder that the paths in the other lines are relative to",
            )
        texts = _texts(src, len(rest))
        zips = Zips()
        found = [_row(line, audio, src, number, zips) for number, line in enumerate(rest, start=2)]
        if not audio or any(os.path.isabs(str(row["id"])) for row in found):  # noqa: PTH117
            names = ids_from_paths([str(row["path"]) for row in found])
            found = [row | {"id": name} for row, name in zip(found, names, strict=True)]
        for index, row in enumerate(found):
            yield row | ({"text": texts[index]} if texts else {})

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return "\t" not in first and re.fullmatch(r"[^\t]+\t\d+(\t[^\t]*)?", second) is not None


def _row(line: str, root: str, src: Place, number: int, zips: Zips) -> ManifestRow:
    path, count, *more = line.split("\t") if "\t" in line else (line, "")
    if not path or not count.isdigit() or len(more) > 1:
        raise ManifestError(f"{src}, line {number}: expected a path, a tab and a sample count, found {line!r}")
    label: ManifestRow = {"column_3": more[0] or None} if more else {}
    if not (sliced := _SLICE.fullmatch(path)):
        name = str(without_suffix(PurePosixPath(path)))
        return label | {"id": name, "path": _placed(path, root, src), "num_samples": int(count)}
    path, first, length = sliced[1], int(sliced[2]), int(sliced[3])
    row: ManifestRow = {"id": f"{without_suffix(PurePosixPath(path))}-{first}", "path": _placed(path, root, src)}
    if not path.lower().endswith(".zip"):
        return row | {"start": first, "num_samples": length} | label
    zips.require_stored(str(row["path"]), first, length, f"{src}, line {number}")
    return row | {"num_samples": int(count), "byte_offset": first, "byte_size": length} | label


def _placed(path: str, root: str, src: Place) -> str:
    if is_uri(path) or os.path.isabs(path):  # noqa: PTH117
        return path
    if not root:
        return located(path, src.parent)
    return join(root, path) if is_uri(root) else f"{root.removesuffix('/')}/{path}"


def _texts(src: Place, count: int) -> list[str] | None:
    for suffix in (".wrd", ".ltr"):
        if (beside := src.with_suffix(suffix)).is_file():
            texts = list(lines(beside))
            if len(texts) != count:
                raise ManifestError(f"{beside} has {len(texts)} lines for {count} utterances", "remove or fix it")
            # .ltr spells words as letters: "H I | T H E R E |"
            return texts if suffix == ".wrd" else [t.replace(" ", "").replace("|", " ").strip() for t in texts]
    return None
