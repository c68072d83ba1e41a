"""What was said: the transcripts of the telephone prompts and of the game's dialogues, as the packages write them."""

import re

# Whole notes in place of words: "[this is a simple beep tone]", "(10 seconds of silence)", "<beep ascending>".
_NOTE = r"\[[^\]]*\]|\([^)]*\)|<[^>]*>"
_ONLY_NOTES = re.compile(rf"\s*(?:(?:{_NOTE})[\s.]*)+")
_OUTER_NOTES = re.compile(rf"^(?:\s*(?:{_NOTE}))+|(?:(?:{_NOTE})[\s.]*)+$")
_LINE = re.compile(r"([^\s:;]+):\s*(.*)")
_STRING = r'"((?:[^"\\]|\\.)*)"'
_DIALOGUE = re.compile(rf"dialogId\(\s*{_STRING}.*?\)\s*dialogStr\(\s*{_STRING}\s*\)", re.DOTALL)


def prompts(text: str) -> dict[str, str]:
    """Read ``core-sounds-LANGUAGE.txt``: lines ``name: words``. The first line of a name counts.

    >>> prompts("; Core Asterisk Sounds\\n\\nactivated: Activated.\\ndigits/mon-1: February\\n")
    {'activated': 'Activated.', 'digits/mon-1': 'February'}
    """
    found: dict[str, str] = {}
    for line in text.lstrip("\ufeff").splitlines():
        if match := _LINE.fullmatch(line.strip()):
            found.setdefault(match[1], match[2].removeprefix(f"{match[1]}:").strip())  # some lines repeat the name
    return found


def dialogues(lua: str) -> dict[str, str]:
    """Read a level's ``dialogs_LANGUAGE.lua``: ``dialogId(name, font, English)`` and then ``dialogStr(words)``.

    Only these two calls are recognized, as text: a script of somebody else's is never run.

    >>> dialogues('dialogId("let-m-oko", "font_small", "An eye?")\\ndialogStr("Vidíš to \\\\\\"oko\\\\\\"?")')
    {'let-m-oko': 'Vidíš to "oko"?'}
    """
    found: dict[str, str] = {}
    for name, words in _DIALOGUE.findall(lua):
        found.setdefault(name, " ".join(re.sub(r"\\(.)", r"\1", words).split()))
    return found


def is_note(text: str) -> bool:
    """Whether a transcript describes a sound instead of giving words.

    >>> is_note("[sound of monkeys screaming]"), is_note("at [@]")
    (True, False)
    """
    return _ONLY_NOTES.fullmatch(text) is not None


def words(text: str) -> str | None:
    """The words of a transcript without the notes around them; None where it is unclear which words were said.

    >>> words("at [@]"), words("...  has left the conference."), words("Sorry, [that] is not valid.")
    ('at', 'has left the conference.', None)
    """
    plain = " ".join(_OUTER_NOTES.sub("", text).split())
    plain = re.sub(r"^[.…]+ ?|(\.\.+|…)$", "", plain).strip()  # a prompt that another one goes before or after
    plain = plain.strip('"') if plain.count('"') % 2 else plain
    # "%1" is filled in by the game.
    if re.search(r"[\[\]<>()]|%\d", plain) or not any(c.isalnum() for c in plain):
        return None
    return plain
