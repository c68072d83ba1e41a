"""fairseq's tab-separated manifests."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, Source, lines, located
from gdist.pipeline.storage.locations import join
from gdist.pipeline.storage.paths import Place, is_uri


class Fairseq(Source):
    """wav2vec's .tsv, with its .wrd or .ltr."""

    name = "fairseq"
    summary = "a fairseq .tsv, with its .wrd or .ltr"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """Read wav2vec's .tsv: the root, then ``path<TAB>num_samples``; text from a .wrd or .ltr of the same name."""
        root, *rest = list(lines(src)) or [""]
        audio = located(root, src.parent)
        if not is_uri(audio) and not Path(audio).is_dir():
            raise ManifestError(
                f"{src}: its first line says the audio is in {root!r}, which does not exist",
                "change the first line to the folder that the paths in the other lines are relative to",
            )
        texts = _texts(src, len(rest))
        for number, line in enumerate(rest, start=2):
            path, _, count = line.partition("\t")
            if not path or not count.isdigit():
                raise ManifestError(
                    f"{src}, line {number}: expected a path, a tab and a sample count, found {line!r}"
                )
            place = join(audio, path) if is_uri(audio) else f"{audio.removesuffix('/')}/{path}"
            row: ManifestRow = {
                "id": str(PurePosixPath(path).with_suffix("")),
                "path": place,
                "num_samples": int(count),
            }
            yield row | ({"text": texts[number - 2]} if texts else {})

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return "\t" not in first and re.fullmatch(r"[^\t]+\t\d+", second) is not None


def _texts(src: Place, count: int) -> list[str] | None:
    for suffix in (".wrd", ".ltr"):
        if (beside := src.with_suffix(suffix)).is_file():
            texts = list(lines(beside))
            if len(texts) != count:
                raise ManifestError(f"{beside} has {len(texts)} lines for {count} utterances", "remove or fix it")
            # .ltr spells words as letters: "H I | T H E R E |"
            return texts if suffix == ".wrd" else [t.replace(" ", "").replace("|", " ").strip() for t in texts]
    return None
