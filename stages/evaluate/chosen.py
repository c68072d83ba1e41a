"""Which utterances an evaluation reads, where that is not all of a split."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gdist.pipeline.cache.entries import Entry
from gdist.stages.evaluate.probes.base import KNOWN_VOICES, NEW_VOICES

# Corpora are split by hashes of ids too: of voices whose test utterances have the smallest, only those would be left.
SALT = "minutes of each voice: "


def within(frames: Iterable[tuple[str, int]], most: float, salt: str = "") -> set[str]:
    """Ids of utterances of together at most ``most`` frames, out of pairs of id and frames.

    Utterances are taken in the order of a hash of ``salt`` and their ids, up to the first that does not fit: always
    the same ones, and of a larger amount all that a smaller one has.
    """
    kept, so_far = set(), 0
    for name, count in sorted(frames, key=lambda pair: hashlib.sha256(f"{salt}{pair[0]}".encode()).digest()):
        so_far += count
        if so_far > most:
            break
        kept.add(name)
    return kept


def of_each_voice(entries: Sequence[Entry], frames_per_voice: float) -> list[Entry]:
    """``entries`` with at most so many frames of each voice; where the speaker is not known, all are one voice.

    Of each voice at least one utterance is kept, the shortest if no other fits, so that no voice disappears.
    """
    voices: dict[object, list[tuple[str, int]]] = defaultdict(list)
    for entry in entries:
        voices[entry.labels.get("speaker")].append((entry.id, entry.num_frames))
    kept: set[str] = set()
    for takes in voices.values():
        kept |= within(takes, frames_per_voice, SALT) or {min(takes, key=lambda take: (take[1], take[0]))[0]}
    return [entry for entry in entries if entry.id in kept]


def without_test(splits: Mapping[str, Sequence[Entry]]) -> dict[str, list[Entry]]:
    """The splits with the validation utterances in the place of the test split's, for probes to be measured on.

    The columns of tasks that have splits of their own are changed in the same way: where they say "test", the
    utterance is left out of the task.
    """
    return {
        "train": [_renamed(entry, train="train", valid="valid") for entry in splits["train"]],
        "valid": [_renamed(entry, train="train", valid="valid") for entry in splits["valid"]],
        "test": [_renamed(entry, valid="test") for entry in splits["valid"]],
    }


def _renamed(entry: Entry, **names: str) -> Entry:
    own = {column: names.get(entry.labels[column]) for column in (NEW_VOICES, KNOWN_VOICES) if column in entry.labels}
    return replace(entry, labels=entry.labels | own) if own else entry
