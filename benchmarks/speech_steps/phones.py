"""Phones of the transcripts, by espeak-ng: rules and dictionaries, the same phones every time.

espeak-ng is taken from the PATH if it is there, else from its Debian packages, unpacked without installing them.

One inventory for all languages: a symbol is one letter of the International Phonetic Alphabet with its diacritics
(``nʲ``, ``ɛ̃``). Stress and length are dropped, since espeak-ng marks them in some languages and not in others;
diphthongs and affricates are two symbols, since it joins them in some and not in others.
"""

import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gdist.pipeline.errors import GdistError
from speech_steps.packages import Package, PackageError, fetch, look_up, needed_to_run, unpack

VOICES = {"en": "en-us", "es": "es-419", "fr": "fr", "it": "it", "ru": "ru", "cs": "cs", "nl": "nl"}
PROCESSES = 4
_DROPPED = "ˈˌːˑ̆͜͡.'‿|"


@dataclass(frozen=True)
class Espeak:
    """An espeak-ng that runs: its command, its environment, what it says of itself, and the packages it came from."""

    command: str
    environment: Mapping[str, str]
    version: str
    packages: tuple[Package, ...] = field(default=())

    def phones(self, language: str, text: str) -> str | None:
        """The phones of ``text``, separated by spaces; None where there are none.

        Raises:
            GdistError: espeak-ng failed.
        """
        # A single letter is read as its name, and as a word it would not always be: "a".
        typed = text.upper() if len(text.strip(" .")) == 1 else text
        done = subprocess.run(
            [self.command, "-q", "--ipa", "--sep=_", "-v", VOICES[language], "--stdin"],
            input=typed, env=dict(self.environment), capture_output=True, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
        if done.returncode:
            why = done.stderr.strip() or f"exit code {done.returncode}"
            raise GdistError(f"espeak-ng cannot read {text!r} in {language}: {why}", "leave phones out: --no-phones")
        return symbols(done.stdout) or None

    def all_phones(self, rows: Iterable[tuple[str, str | None]]) -> list[str | None]:
        """The phones of every (language, text), in order; each text of a language is read once."""
        listed = list(rows)
        wanted = sorted({(language, text) for language, text in listed if text and language in VOICES})
        with ThreadPoolExecutor(PROCESSES) as pool:
            spoken = dict(zip(wanted, pool.map(lambda pair: self.phones(*pair), wanted), strict=True))
        return [spoken.get((language, text or "")) for language, text in listed]


def symbols(ipa: str) -> str:
    """espeak-ng's answer as symbols of one inventory, separated by spaces.

    >>> symbols("(en)_l_ˈɒ_ɡ_ɪ_n_(fr) tʃʲ_ˈaɪ_n\\u0329_aː")
    'l ɒ ɡ ɪ n t ʃʲ a ɪ n̩ a'
    """
    plain = re.sub(r"\([^)]*\)", " ", ipa)  # "(en)" says that the next words are read as English ones
    found: list[str] = []
    for letter in unicodedata.normalize("NFD", plain):
        kind = unicodedata.category(letter)
        if letter.isspace() or letter in _DROPPED or letter in "_-" or letter.isdigit():
            continue
        if kind in ("Mn", "Lm") and found:
            found[-1] += letter
        elif kind.startswith("L"):
            found.append(letter)
    return " ".join(found)


def find_espeak(packages: Path, unpacked: Path) -> Espeak:
    """Return an espeak-ng that runs, fetched from Debian's archive where there is none.

    Raises:
        GdistError: it is not there, cannot be fetched, or does not run.
    """
    if installed := shutil.which("espeak-ng"):
        return _tried(installed, os.environ, ())
    needed = look_up(needed_to_run("espeak-ng"))
    folders = [unpack(fetch(package, packages), package, unpacked) for package in needed]
    programs = [folder / "usr/bin/espeak-ng" for folder in folders if (folder / "usr/bin/espeak-ng").is_file()]
    data = [path.parent for folder in folders for path in folder.glob("usr/lib/*/espeak-ng-data")]
    if not programs or not data:
        raise PackageError("the packages of espeak-ng have no espeak-ng, or no data", "leave phones out: --no-phones")
    libraries = sorted({str(path.parent) for folder in folders for path in folder.rglob("*.so*")})
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(libraries), "ESPEAK_DATA_PATH": str(data[0])}
    return _tried(str(programs[0]), environment, tuple(needed))


def _tried(command: str, environment: Mapping[str, str], packages: tuple[Package, ...]) -> Espeak:
    try:
        done = subprocess.run(
            [command, "--version"], env=dict(environment), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise GdistError(f"cannot run {command}: {error}", "leave phones out: --no-phones") from error
    if done.returncode:
        raise GdistError(f"cannot run {command}: {done.stderr.strip()}", "install it: apt-get install espeak-ng")
    version = done.stdout.split("Data at")[0].split(":")[-1].strip()
    espeak = Espeak(command, environment, version, packages)
    if not espeak.phones("en", "seven"):
        raise GdistError(f"{command} gives no phones for the word “seven”", "install it: apt-get install espeak-ng")
    return espeak
