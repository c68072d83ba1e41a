"""wav.scp: files, parts of arks, and commands, which are only run where that was allowed."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import ManifestRow, Options, filled, readable
from gdist.pipeline.manifest.sources.written import AudioFolder
from gdist.pipeline.storage.paths import Place, place
from gdist.pipeline.storage.ranged import opened

_NO_LENGTH = 0x7FFF0000  # what a WAV says at least that does not know how long it is
_ARK = re.compile(r"(.+):(\d+)(\[[\d:,]*\])?")
_FOR_A_SHELL = re.compile(r"[|&;<>()$`*?~#\n\[\]{}]")  # outside of quotes


class Recordings:
    """The recordings of a wav.scp.

    Args:
        located: resolves a path in it.
    """

    def __init__(self, scp: Place, options: Options, located: Callable[[str], str]) -> None:
        self._scp, self._options, self._located = scp, options, located

    def places(self, wanted: Mapping[str, str] | None) -> dict[str, ManifestRow]:
        """Return for each recording the columns that say where its audio is, in the file's order.

        Args:
            wanted: the recordings that segments need, and the line that names each; None for all.

        Raises:
            ManifestError: a line is no recording, or names a command that may not be run; a recording is missing.
        """
        found = self._listed()
        for name, where in (wanted or {}).items():
            if name not in found:
                raise ManifestError(f"{where}: {self._scp} has no recording {name}", "both files belong together")
        needed = {name: entry for name, entry in found.items() if wanted is None or name in wanted}
        commands = {name: entry for name, entry in needed.items() if entry[0].endswith("|")}
        for text, where in list(commands.values())[:1]:
            if not self._options.allow_commands:
                others = f" (and {len(commands) - 1} more)" if len(commands) > 1 else ""
                raise ManifestError(
                    f"{where}: the audio is what a command prints, and gdist does not run what a file tells it to; "
                    f"it would run: {text.removesuffix('|').strip()}{others}",
                    "if you trust every command in this file, add --allow-commands; what they print is then written "
                    "to files next to the manifest",
                )
        printed = self._printed(commands)
        return {
            name: printed[name] if name in printed else self._place(text, where)
            for name, (text, where) in needed.items()
        }

    def _listed(self) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        for number, line in filled(self._scp):
            where = f"{self._scp}, line {number}"
            name, *rest = line.split(maxsplit=1)
            if not rest:
                raise ManifestError(f"{where}: expected an id and a path, found {line!r}")
            if name in found:
                raise ManifestError(f"{where}: the recording {name} is there twice", "remove one of the lines")
            found[name] = rest[0].strip(), where
        return found

    def _place(self, text: str, where: str) -> ManifestRow:
        if text == "-" or text.startswith("|"):
            raise ManifestError(f"{where}: {text!r} is no file", "write the audio to a file and name that")
        ark = _ARK.fullmatch(text)
        if ark is None or not ark[1].lower().endswith(".ark"):
            return {"path": self._located(text)}
        if ark[3]:
            raise ManifestError(f"{where}: {text} is a part of a matrix", "gdist reads whole audio: see wav-copy")
        path = self._located(ark[1])
        offset, size = _in_ark(path, int(ark[2]), where)
        return {"path": path, "byte_offset": offset, "byte_size": size}

    def _printed(self, commands: Mapping[str, tuple[str, str]]) -> dict[str, ManifestRow]:
        """Run each command once, several at a time, and return where its output is."""
        if not commands:
            return {}
        folder = AudioFolder(self._options.audio, self._scp)

        def run(item: tuple[str, tuple[str, str]]) -> ManifestRow:
            name, (text, where) = item
            command = text.removesuffix("|").strip()
            return {"path": folder.make(name, command, lambda file: _run(command, file, where))}

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = dict(zip(commands, pool.map(run, commands.items()), strict=True))
        folder.report()
        return found


def _run(command: str, file: BinaryIO, where: str) -> None:
    """Write what ``command`` prints to ``file``. A shell interprets it only where it has something for one."""
    unquoted = re.sub(r"""'[^']*'|\\.""", "", re.sub(r'"[^"$`\\]*"', "", command))
    try:
        typed = ["bash", "-o", "pipefail", "-c", command] if _FOR_A_SHELL.search(unquoted) else shlex.split(command)
        done = subprocess.run(typed, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE, check=False)
    except (OSError, ValueError) as error:  # ValueError: quotes that do not end
        raise ManifestError(
            f"{where}: cannot run {command}: {error}", "install what it needs, and try again"
        ) from error
    if done.returncode or not file.tell():
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = f"ended with {done.returncode}" if done.returncode else "printed nothing"
        raise ManifestError(
            f"{where}: {command} {why}{f': {said[-1]}' if said else ''}", "run it yourself, to see why"
        )
    with Path(file.name).open("r+b") as written:
        _say_length(written)


def _say_length(file: BinaryIO) -> None:
    """Write the lengths into a WAV whose writer could not go back: sox and ffmpeg leave a huge number there."""
    start, size = file.read(1 << 12), file.seek(0, os.SEEK_END)
    data = start.find(b"data", 12)
    if start[:4] == b"RIFF" and data > 0 and int.from_bytes(start[data + 4 : data + 8], "little") >= _NO_LENGTH:
        for at in (4, data + 4):
            file.seek(at)
            file.write((size - at - 4).to_bytes(4, "little"))


def _in_ark(path: str, offset: int, where: str) -> tuple[int, int]:
    """Return the bytes of the audio that an entry of an ark is: a WAV, or what kaldiio calls AUDIO."""
    ark = place(path)
    try:
        with readable(ark), opened(ark) as file:
            file.seek(offset)
            start = file.read(15)
    except ManifestError as error:
        raise ManifestError(f"{where}: {error.message}", error.hint) from error
    if start[:4] == b"RIFF" and start[8:12] == b"WAVE":
        size = int.from_bytes(start[4:8], "little")
        if 0 < size < 0xFFFFFFFF - 8:
            return offset, 8 + size
        raise ManifestError(f"{where}: the WAV at byte {offset} of {path} does not say how long it is")
    if start[:5] == b"AUDIO":
        digits = start[5]
        return offset + 6 + digits, int.from_bytes(start[6 : 6 + digits], "little")
    kind = (
        "a matrix of features"
        if start[:2] == b"\0B"
        else "FLAC without a length"
        if start[:4] == b"fLaC"
        else "no WAV"
    )
    raise ManifestError(
        f"{where}: there is {kind} at byte {offset} of {path}",
        "gdist reads WAV in arks; write files: wav-copy scp:wav.scp ark,scp:wav.ark,wav_ark.scp",
    )
