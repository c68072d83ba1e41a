"""WebDataset's tars."""

import json
import re
from collections import Counter
from collections.abc import Iterator

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import (
    AUDIO_SUFFIXES,
    ManifestRow,
    Source,
    children,
    is_audio,
    is_folder,
    near,
)
from gdist.pipeline.manifest.sources.labels import Labels
from gdist.pipeline.manifest.sources.tars import Member, expanded, is_tar, members, text
from gdist.pipeline.storage.paths import Place

_PARTS = re.compile(r"((?:.*/)?[^./][^.]*)\.([^/]*)", re.DOTALL)


class WebDataset(Source):
    """Tars in which all files of one sample have one name: KEY.wav, KEY.json, KEY.txt."""

    name = "webdataset"
    reads_both = True
    binary = True
    summary = "a tar of WebDataset, a folder of them, or a name such as shard-{000..031}.tar"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """One row per audio file: it stays where it is, and the row says which bytes of the tar it is.

        The id is the key, with the tar's name before it if two tars have a key in common. A ``.txt`` is the label
        ``text``, a ``.cls`` the label ``cls``, and each entry of a ``.json`` is a label.
        """
        tars = children(src, "*.tar") if is_folder(src) else expanded(src)
        found = [(tar, *sample) for tar in tars for sample in _samples(tar)]
        if not found:
            kinds = Counter(member.name.rpartition(".")[2] for tar in tars for member, _ in members(tar))
            there = ", ".join(f"{count} × .{kind}" for kind, count in kinds.most_common(4))
            raise ManifestError(f"no audio in {src}; it has {there or 'no files'}")
        names = [key for _, key, _, _ in found]
        if len(set(names)) < len(names):
            names = [f"{tar.name.removesuffix('.tar')}/{key}" for tar, key, _, _ in found]
        labels = Labels({key for *_, values in found for key in values})
        for id, (_, _, audio, values) in zip(names, found, strict=True):
            yield audio.row() | {"id": id} | labels.of(values)
        labels.report()

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        if is_folder(src):
            # Of Shar, or what the tar was made from.
            beside = children(src, "cuts.*") or any(map(is_audio, near(src)))
            return bool(children(src, "*.tar")) and not beside
        return is_tar(src)


def _samples(tar: Place) -> Iterator[tuple[str, Member, dict[str, object]]]:
    """Yield key, audio and labels. The files of a sample follow one another, in any order."""
    key, audio, values = "", dict[str, Member](), dict[str, object]()
    for member, file in members(tar):
        name = member.name.removeprefix("./")
        if not (parts := _PARTS.fullmatch(name)):
            continue
        if parts[1] != key:
            yield from _rows(key, audio, values)
            key, audio, values = parts[1], {}, {}
        kind = parts[2].lower()
        if f".{kind.rpartition('.')[2]}" in AUDIO_SUFFIXES:
            audio[parts[2]] = member
        elif kind in ("json", "txt", "cls"):
            values |= _labels(kind, member, text(member, file))
    yield from _rows(key, audio, values)


def _rows(
    key: str, audio: dict[str, Member], values: dict[str, object]
) -> Iterator[tuple[str, Member, dict[str, object]]]:
    for kind, member in audio.items():
        yield (key if len(audio) == 1 else f"{key}.{kind}"), member, values


def _labels(kind: str, member: Member, content: bytes) -> dict[str, object]:
    where = f"{member.tar}: {member.name}"
    try:
        decoded = content.decode()
        if kind == "txt":
            return {"text": decoded.strip()}
        if kind == "cls":
            return {"cls": int(decoded)}
        entries = json.loads(decoded)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{where} is not UTF-8 text") from error
    except ValueError as error:
        raise ManifestError(f"{where} is not {'JSON' if kind == 'json' else 'a whole number'}: {error}") from error
    return entries if isinstance(entries, dict) else {}
