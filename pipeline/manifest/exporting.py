"""A manifest, written as another toolkit's: checked first, so that nothing is lost without a word."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.seconds import headers
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.manifest.targets import TARGETS, Item, Target
from gdist.pipeline.manifest.utterance import Utterance
from gdist.pipeline.staging import NEW, put, workshop
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.paths import is_uri


@dataclass(frozen=True)
class Exported:
    """What was written: files below the folder, in order, and what they cannot say."""

    files: tuple[str, ...]
    notes: tuple[str, ...]


def export(manifest: Manifest, to: str, out: Path, path: str = "M.parquet") -> Exported:
    """Write a manifest in another form into the folder ``out``, whole or not at all.

    Args:
        to: a key of ``TARGETS``.
        path: where the manifest is, for messages.

    Raises:
        ManifestError: the form cannot say which samples an utterance is, audio cannot be read, or ``out`` has files.
    """
    target = TARGETS.find(to, f"--to {to}")
    check = f"gdist manifest check {in_shell(path)}"
    items = _items(manifest, check)
    _require_expressible(items, target, check)
    with _new_folder(out) as staged:
        notes = target.write(items, staged)
        files = tuple(sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()))
    if several := sum(item.header.channels > 1 and item.utterance.channel is None for item in items):
        notes.append(f"{several} utterances are of files with several channels; gdist averages them, others may not")
    if any(item.utterance.gain_bits for item in items):
        notes.append("left out gain_bits: the audio is at its own level")
    return Exported(files, tuple(notes))


def _items(manifest: Manifest, check: str) -> list[Item]:
    utterances = manifest.utterances()
    known = headers(u.segment.file for u in utterances)
    items = []
    for u in utterances:
        header = known.get(u.segment.file)
        if header is None:
            raise ManifestError(
                f"cannot export {u.id}: its audio cannot be read: {u.path}", f"{check} lists all of them"
            )
        if header.cut:
            raise ManifestError(f"cannot export {u.id}: {header.cut}: {u.path}", f"{check} lists all such files")
        length = header.num_samples - u.start if u.num_samples is None else u.num_samples
        rate = u.sample_rate or header.sample_rate
        if rate != header.sample_rate or length <= 0 or u.start + length > header.num_samples:
            raise ManifestError(f"cannot export {u.id}: it is not in its file: {u.path}", f"{check} says why")
        items.append(Item(u, header, length))
    return items


def _require_expressible(items: Sequence[Item], target: Target, check: str) -> None:
    said: list[tuple[bool, Callable[[Utterance], bool], str]] = [
        (target.ranges, lambda u: u.segment.is_member, "a range of the bytes of a file, such as a member of a tar"),
        (target.channels, lambda u: u.channel is not None, "one channel of a file"),
        (target.uris, lambda u: is_uri(u.path), "in a bucket"),
    ]
    for can, test, what in said:
        found = [item.utterance.id for item in items if test(item.utterance)]
        if found and not can:
            others = [name for name, row in TARGETS.items() if row.ranges and row.channels and row.uris]
            raise ManifestError(
                f"--to {target.name} cannot say that an utterance is {what}, and {len(found)} of {len(items)} are: "
                f"{found[0]}{', …' if len(found) > 1 else ''}",
                f"--to {others[0]}, which stores the audio itself" if others else check,
            )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes ``out`` at the end of the ``with``; a failure leaves nothing."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ManifestError(
            f"cannot export to {out}: it is there and not empty", "choose another --out, or remove it"
        )
    place = out.absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with workshop(place) as made:
            yield made / NEW
            put(made, place)
    except OSError as error:
        raise ManifestError(f"cannot export to {out}: {error.strerror or error}") from error
