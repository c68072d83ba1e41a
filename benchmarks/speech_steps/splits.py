"""Which utterances are trained on and tested on: a pure function of the voice and the utterance.

Three columns, because tasks ask different things of a test split:

    split               training of students, and fidelity. `train` has no utterance that any task tests on.
    split_new_voices    tasks on what is said (ks, qbe, pr, lid), and whether two voices are one (asv): every voice of
                        `test` is in no other split.
    split_known_voices  tasks on who speaks (sid): by utterance, every voice is in every split.

`HELD_OUT` names the voices that are in no training split. They were fixed before anything was measured: of every
language with two voices one, so that the other can be learned from, and of the six voices of digits two.
"""

import hashlib

HELD_OUT = {
    "lucas": "test",
    "theo": "test",
    "nicolas": "valid",
    "july": "test",
    "armelle": "test",
    "menardi": "test",
    "cs-small": "test",
    "nl-big": "test",
}
SHARE = 0.1  # of a voice's utterances, for each of validation and test
COLUMNS = ("split", "split_new_voices", "split_known_voices")


def splits(speaker: str | None, key: str) -> dict[str, str | None]:
    """The three columns of one utterance; None where a task does not use it.

    An utterance without a known speaker is for training only: its voice may be anybody's.

    Args:
        key: the utterance's id, or what several recordings of one utterance share, so that they stay together.
    """
    if speaker is None:
        return dict(zip(COLUMNS, ("train", "train", None), strict=True))
    by_utterance = _by_utterance(key)
    if held := HELD_OUT.get(speaker):
        return dict(zip(COLUMNS, (held, held, by_utterance), strict=True))
    new = None if by_utterance == "test" else by_utterance
    return dict(zip(COLUMNS, (by_utterance, new, by_utterance), strict=True))


def _by_utterance(key: str) -> str:
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    return "test" if place < SHARE else "valid" if place < 2 * SHARE else "train"
