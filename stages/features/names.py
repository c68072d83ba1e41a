"""File names for utterances: an id may contain anything, and must not become a path."""

import hashlib
from urllib.parse import quote

LONGEST = 180  # bytes; file systems allow 255, and a suffix follows


def file_name(utterance: str, dots: bool = True) -> str:
    """Return a name for an utterance: its id, with everything that is not a plain character as in a web address.

    Args:
        dots: whether dots stay; WebDataset takes the first one for the beginning of a suffix.

    >>> file_name("84-121123-0000"), file_name("en/common voice.mp3"), file_name("a.b", dots=False), file_name("..")
    ('84-121123-0000', 'en%2Fcommon%20voice.mp3', 'a%2Eb', '%2E%2E')
    """
    name = quote(utterance, safe="")
    if not dots or name.startswith("."):
        name = name.replace(".", "%2E")
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 33]}-{hashlib.sha256(utterance.encode()).hexdigest()[:32]}"
    return name
