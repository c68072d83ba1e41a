"""Labels of other toolkits: what they are called here, which values a column can hold, and ids made from paths."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from gdist.pipeline import console
from gdist.pipeline.manifest.schema import COLUMNS, OPTIONAL
from gdist.pipeline.manifest.sources.base import ManifestRow

RESERVED = frozenset(COLUMNS | OPTIONAL)  # a label of this name would change which audio is read
_NAMES = {
    "speaker": ("client_id", "spk_id", "speaker_id", "spkid", "spk"),
    "text": ("sentence", "transcription", "transcript", "wrd"),
    "language": ("lang", "locale", "language_id"),
}
_OURS = {theirs: ours for ours, known in _NAMES.items() for theirs in known}


class Labels:
    """Renames and filters the labels of one source; :meth:`report` says what was left out.

    ``client_id`` becomes ``speaker``, ``sentence`` ``text`` and so on, unless the source also has a label of that
    name. Text, numbers and truth values are kept; anything nested is left out.
    """

    def __init__(self, keys: Iterable[str], skip: Iterable[str] = ()) -> None:
        self._taken, self._skip = set(keys), {*skip}
        self._left_out: Counter[str] = Counter()

    def of(self, values: Mapping[str, object]) -> ManifestRow:
        """Return the labels among ``values``; empty text is null."""
        found: ManifestRow = {}
        for key, value in values.items():
            if key in self._skip:
                continue
            name = _OURS.get(key, key)
            if name != key and (name in self._taken or name in found):
                name = key
            if name in RESERVED or not isinstance(value, str | int | float | bool | None):
                self._left_out[key] += 1
            else:
                found[name] = None if value == "" else value
        return found

    def report(self) -> None:
        """Say which labels were left out, if any."""
        if self._left_out:
            names = ", ".join(sorted(self._left_out))
            console.say(f"left out: {names} (a column of the manifest has this name, or the value is nested)")


def without_suffix(path: PurePosixPath) -> PurePosixPath:
    """``a/b.wav`` → ``a/b``; a path without a name, such as an empty one, as it is."""
    return path.with_suffix("") if path.name else path


def ids_from_paths(paths: Sequence[str]) -> list[str]:
    """Make an id for each row from its path: the file's name without its suffix, if that is enough.

    Where two files have one name, ids are paths below the folder that all share, and keep their suffixes if nothing
    else tells them apart. Rows of one file are numbered: ``ID-0000``, ``ID-0001``, …
    """
    files = list(dict.fromkeys(paths))
    whole = [PurePosixPath(path) for path in files]
    shared = 0
    if len(whole) > 1:
        columns = zip(*(path.parts[:-1] for path in whole), strict=False)
        for column in columns:
            if len(set(column)) > 1:
                break
            shared += 1
    below = [PurePosixPath(*path.parts[shared:]) for path in whole]
    choices = (
        [path.stem for path in whole],
        [str(without_suffix(path)) for path in below],
        [str(path) for path in below],
    )
    chosen = next((names for names in choices if len(set(names)) == len(files)), files)
    name_of = dict(zip(files, chosen, strict=True))
    total, seen = Counter(paths), Counter[str]()
    ids = []
    for path in paths:
        ids.append(name_of[path] if total[path] == 1 else f"{name_of[path]}-{seen[path]:04}")
        seen[path] += 1
    return ids
