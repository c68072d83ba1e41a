"""A small archive of Debian packages, built with dpkg-deb, and an apt that reads it in its folder: no network."""

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
# For the imports alone: tests hand sys.path on to processes, and benchmarks/encodings.py would be Python's own there.
sys.path.insert(0, str(ROOT / "benchmarks"))
from speech_steps import packages  # noqa: E402
from speech_steps.sources import GAMES, PROMPTS, SCRIPTS  # noqa: E402

sys.path.remove(str(ROOT / "benchmarks"))

LUA = """
dialogId("let-m-divna", "font_small", "What is it?")
dialogStr("Co je to?")


dialogId("let-v-vrak0", "font_big", "A \\"wreck\\".")
dialogStr(
"To je \\"vrak\\".")
dialogId("let-hs-pes", "", "")
dialogStr("Haf (ještě jednou).")
"""


def tone(path: Path, seconds: float = 0.5, rate: int = 8000, loud: float = 0.3, hertz: float = 0) -> None:
    """A file that is not silent, another for every path."""
    # Of a thousand whole numbers, two paths have the same one now and then; they are others in each run of the tests.
    hertz = hertz or 200 + int.from_bytes(hashlib.sha256(path.as_posix().encode()).digest()[:6]) * 1000 / 2**48
    wave = loud * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"format": "RAW", "subtype": "GSM610"} if path.suffix == ".gsm" else {}
    soundfile.write(path, wave, rate, **kind)


def contents(name: str, root: Path) -> None:
    """What a package of that name has in the real archive, in small."""
    doc = root / "usr/share/doc" / name
    doc.mkdir(parents=True)
    (doc / "copyright").write_text(f"licence of {name}\n")
    for row in PROMPTS:
        if name == row.transcript:
            listed = (
                "\ufeff; Core Sounds\n\nbeep: [a tone]\nactivated: Activated.\ndigits/3: three\nletters/at: at [@]\n"
            )
            (doc / f"core-sounds-{row.language}.txt.gz").write_bytes(gzip.compress(listed.encode(), mtime=0))
        if name == row.package:
            folder, kind = root / "usr/share/asterisk/sounds" / row.folder, "gsm" if "gsm" in row.condition else "wav"
            for said in ("activated", "digits/3", "letters/at", "beep", "silence/1", "untold"):
                tone(folder / f"{said}.{kind}")
            tone(folder / f"short.{kind}", seconds=0.05)
            tone(folder / f"still.{kind}", loud=1e-4)
            (folder / "link.wav").symlink_to("activated.wav")
    if name in GAMES:
        sound = root / "usr/share/games/fillets-ng/sound/airplane" / GAMES[name]
        for said in ("let-m-divna", "let-v-vrak0", "let-hs-pes", "let-x-engine", "m-added"):
            tone(sound / f"{said}.ogg", rate=22_050)
    if name == SCRIPTS:
        for language in GAMES.values():
            script = root / "usr/share/games/fillets-ng/script/airplane" / f"dialogs_{language}.lua"
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text(LUA)


class Archive:
    """A folder of packages with an index, and an apt that knows no other archive."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.debs = folder, folder / "debs"
        for name in ("debs", "lists/partial", "cache/archives/partial", "etc"):
            (folder / name).mkdir(parents=True)
        (folder / "status").write_text("")
        (folder / "etc/sources.list").write_text(f"deb [trusted=yes] file:{self.debs} ./\n")
        (folder / "apt.conf").write_text(
            f'Dir::Etc "{folder}/etc";\nDir::State::status "{folder}/status";\nDir::State::lists "{folder}/lists";\n'
            f'Dir::Cache "{folder}/cache";\nAPT::Sandbox::User "root";\nAcquire::Languages "none";\n'
        )
        self.environment = os.environ | {"APT_CONFIG": f"{folder}/apt.conf", "OMP_NUM_THREADS": "1"}

    def build(self, name: str) -> None:
        root = self.folder / "roots" / name
        contents(name, root)
        (root / "DEBIAN").mkdir()
        fields = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: m <m@m>\nDescription: d\n"
        (root / "DEBIAN/control").write_text(fields)
        deb = self.debs / f"{name}_1.0_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, deb], check=True, capture_output=True)

    def index(self) -> None:
        """Write the index of what is in the folder now, and let apt read it."""
        rows = []
        for deb in sorted(self.debs.glob("*.deb")):
            fields = subprocess.run(["dpkg-deb", "-f", deb], check=True, capture_output=True, text=True).stdout
            size, digest = deb.stat().st_size, packages.sha256_of(deb)
            rows.append(f"{fields}Filename: ./{deb.name}\nSize: {size}\nSHA256: {digest}\n")
        (self.debs / "Packages").write_text("\n".join(rows))
        subprocess.run(["apt-get", "update"], env=self.environment, check=True, capture_output=True)

    def speech(self, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "benchmarks/speech.py"), str(out), "--json", *options]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
