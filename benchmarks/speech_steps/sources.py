"""Where the speech is in each package, and who says what there: one row of ``PROMPTS`` or ``GAMES`` per package."""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gdist.pipeline.manifest.schema import from_rows
from gdist.pipeline.manifest.sources import SOURCES
from gdist.pipeline.manifest.table import Manifest
from speech_steps.transcripts import dialogues, is_note, prompts, words

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOT_SPEECH = "a tone, silence or noise"
NO_TRANSCRIPT = "without a transcript: perhaps no speech"
_TONES = re.compile(r"beep|beeperr|ascending-2tone|descending-2tone|tt-monkeys|confbridge-(join|leave)|silence/.*")
# Packages without transcripts say the words of these names as the language's other voice does.
_CERTAIN = re.compile(r"digits/(\d+|day-\d|mon-\d+)|letters/[a-z]")


@dataclass(frozen=True)
class Recording:
    """One utterance as its source describes it, before anyone has listened to it.

    Attributes:
        key: decides the split; recordings of one utterance share it.
        refused: why it is left out whatever it sounds like; None otherwise.
    """

    id: str
    key: str
    path: Path
    speaker: str | None
    language: str
    condition: str
    text: str | None
    digit: int | None = None
    start: int = 0
    num_samples: int | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Prompts:
    """Telephone prompts of one voice, one file each; ``transcript`` is the package that has their words."""

    package: str
    source: str
    folder: str
    language: str
    speaker: str
    condition: str
    transcript: str
    own_words: bool = True


_CORE = "asterisk-core-sounds"
PROMPTS = (
    Prompts(f"{_CORE}-en-wav", "core-en", "en_US_f_Allison", "en", "allison", "prompts-8k", f"{_CORE}-en"),
    Prompts(f"{_CORE}-es-wav", "core-es", "es_MX_f_Allison", "es", "allison", "prompts-8k", f"{_CORE}-es"),
    Prompts(f"{_CORE}-fr-wav", "core-fr", "fr_CA_f_June", "fr", "june", "prompts-8k", f"{_CORE}-fr"),
    Prompts(f"{_CORE}-it-wav", "core-it", "it_IT_m_Carlo", "it", "carlo", "prompts-8k", f"{_CORE}-it"),
    Prompts(f"{_CORE}-ru-wav", "core-ru", "ru_RU_f_IvrvoiceRU", "ru", "maxim", "prompts-8k", f"{_CORE}-ru"),
    Prompts(
        "asterisk-prompt-it-menardi-wav", "menardi", "it_IT_f_Menardi", "it", "menardi", "prompts-8k", f"{_CORE}-it",
        own_words=False,
    ),
    Prompts(
        "asterisk-prompt-fr-armelle", "armelle", "fr", "fr", "armelle", "prompts-gsm-8k", f"{_CORE}-fr",
        own_words=False,
    ),
    Prompts("asterisk-prompt-es-co", "july", "es", "es", "july", "prompts-gsm-8k", f"{_CORE}-es", own_words=False),
)  # fmt: skip
GAMES = {"fillets-ng-data-cs": "cs", "fillets-ng-data-nl": "nl"}
SCRIPTS = "fillets-ng-data"
ROLES = {"m": "small", "v": "big"}  # the two fish, in the second part of a file's name


def package_names() -> list[str]:
    """Every package that has speech or transcripts."""
    return list(dict.fromkeys([*(p.package for p in PROMPTS), *(p.transcript for p in PROMPTS), *GAMES, SCRIPTS]))


def from_prompts(row: Prompts, unpacked: Path) -> Iterator[Recording]:
    """The recordings of one row of ``PROMPTS``."""
    root = unpacked / row.package / "usr/share/asterisk/sounds" / row.folder
    listed = unpacked / row.transcript / "usr/share/doc" / row.transcript / f"core-sounds-{row.language}.txt.gz"
    said = prompts(gzip.decompress(listed.read_bytes()).decode("utf-8", errors="replace"))
    for path in _files(root, ".wav", ".gsm"):
        name = path.relative_to(root).with_suffix("").as_posix()
        text = said.get(name, "") if row.own_words or _CERTAIN.fullmatch(name) else ""
        digit = re.fullmatch(r"digits/(\d)", name) if row.language == "en" else None
        yield Recording(
            id=f"{row.source}-{name.replace('/', '_')}",
            key=prompt_key(row.speaker, row.language, name),
            path=path,
            speaker=row.speaker,
            language=row.language,
            condition=row.condition,
            text=words(text),
            digit=int(digit[1]) if digit else None,
            refused=NOT_SPEECH if _TONES.fullmatch(name) or (row.own_words and is_note(text)) else None,
        )


def from_game(package: str, unpacked: Path) -> Iterator[Recording]:
    """The dialogues of the game in one language.

    In the original levels the second part of a name is the role, and `m` and `v` are one voice each. Other roles, and
    the levels that were added later (their names have two parts), are of unknown voices.
    """
    language = GAMES[package]
    game = "usr/share/games/fillets-ng"
    scripts = unpacked / SCRIPTS / game / "script"
    said: dict[str, dict[str, str]] = {}
    for path in _files(unpacked / package / game / "sound", ".ogg"):
        level = path.parent.parent.name
        if level not in said:
            script = scripts / level / f"dialogs_{language}.lua"
            said[level] = dialogues(script.read_text("utf-8", errors="replace")) if script.is_file() else {}
        parts = path.stem.split("-")
        role = ROLES.get(parts[1]) if len(parts) > 2 else None
        text = said[level].get(path.stem, "")
        yield Recording(
            id=f"fillets-{language}-{level}-{path.stem}",
            key=f"fillets-{language}-{level}-{path.stem}",
            path=path,
            speaker=f"{language}-{role}" if role else None,
            language=language,
            condition="game" if len(parts) > 2 else "game-added",
            text=words(text),
            # A line with a gap that the game fills in ("%1") is speech, though its words are not known.
            refused=None if role or words(text) or "%" in text else NO_TRANSCRIPT,
        )


def from_bundle(manifest: Manifest, audio: Path) -> Iterator[Recording]:
    """The speech that ships with gdist, or the further takes beside it, from a copy of its files in ``audio``."""
    for u in manifest.utterances():
        language, speaker = str(u.labels["language"]), str(u.labels["speaker"]).removesuffix("-es")
        if u.id.startswith("prompt-"):  # the prompts of asterisk-core-sounds again, from a codec of 16 kHz
            name = u.id.removeprefix(f"prompt-{language}-")
            key, condition, text = prompt_key(speaker, language, name), "prompts-16k", words(str(u.labels["text"]))
            digit = re.fullmatch(r"digits_(\d)", name) if language == "en" else None
            value = int(digit[1]) if digit else None
        else:
            value = int(str(u.labels["digit"]))
            key, condition, text = u.id, "digits-8k", DIGITS[value]
        path = audio / Path(u.path).name
        yield Recording(u.id, key, path, speaker, language, condition, text, value, u.start, u.num_samples)


def prompt_key(speaker: str, language: str, name: str) -> str:
    """The key that all recordings of one prompt by one voice share, whether its id has slashes or underscores."""
    return f"prompt/{speaker}/{language}/{name.replace('/', '_')}"


def manifest_of(listed: Path) -> Manifest:
    """Read a Parquet manifest, or a CSV as one."""
    if listed.suffix == ".csv":
        return Manifest(from_rows(SOURCES["csv"].rows(listed), str(listed)), str(listed.parent))
    return Manifest.read(listed)


def _files(root: Path, *suffixes: str) -> list[Path]:
    """Audio files below ``root``, in order; links, which packages use for a second name, are left out."""
    return sorted(p for p in root.rglob("*") if p.suffix in suffixes and p.is_file() and not p.is_symlink())
