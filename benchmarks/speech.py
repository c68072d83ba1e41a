"""Benchmark speech that anyone can fetch: real, labelled and redistributable, from Debian's archive.

    python benchmarks/speech.py OUT
    gdist manifest check OUT/speech.parquet
    gdist extract --teacher … --manifest OUT/speech.parquet --cache CACHE

Downloads packages with `apt-get download` (nothing is installed), checks them against apt's index, unpacks them into
OUT, adds the speech that ships with gdist, and writes OUT/speech.parquet. Nothing outside OUT is written. Run it
again to go on after an interruption; from the same packages it writes the same bytes, in any folder, and OUT can be
moved.
docs/speech.md says what it holds, and which probe is trained and tested on what.
"""

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from speech_steps import packages
from speech_steps.phones import Espeak, find_espeak
from speech_steps.recordings import Rows
from speech_steps.sources import GAMES, PROMPTS, from_bundle, from_game, from_prompts, manifest_of, package_names
from speech_steps.summary import show, summary

from gdist.data_manifests import demo_folder
from gdist.pipeline import console
from gdist.pipeline.errors import GdistError
from gdist.pipeline.manifest.schema import from_rows
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.staging import write_atomically

MORE = Path(__file__).parents[2] / "shared" / "assets" / "speech"  # where further takes of the digits may be


def write_speech(out: Path, more: Path | None, phones: bool | None) -> dict[str, Any]:
    """Make ``out/speech.parquet``, and return its summary.

    Args:
        more: a folder with ``more.csv`` and its audio, further takes of the digits; None to do without.
        phones: whether there must be a column ``phones``; None for where espeak-ng runs.

    Raises:
        GdistError: no apt, no network, no such package, or ``phones`` without espeak-ng.
    """
    packages.require_tools()
    out = out.resolve()
    fetched = packages.look_up(package_names())
    espeak = None if phones is False else _espeak(out, demanded=phones is True)
    for n, package in enumerate(fetched, start=1):
        console.say(f"{n} of {len(fetched)}: {package.name} {package.version}, {console.size(package.size)}")
        packages.unpack(packages.fetch(package, out / "packages"), package, out / "unpacked")
    found = Rows()
    for row in PROMPTS:
        found.add(row.source, from_prompts(row, out / "unpacked"), out)
    for game in GAMES:
        found.add(game, from_game(game, out / "unpacked"), out)
    bundles = {"bundled": demo_folder() / "demo.parquet"} | ({"more": more / "more.csv"} if more else {})
    for source, listed in bundles.items():
        manifest, audio = manifest_of(listed), out / "audio" / source
        _copy_audio(manifest, audio)
        found.add(source, from_bundle(manifest, audio), out)
    rows = found.rows
    if espeak:
        console.say(f"phones by espeak-ng {espeak.version}")
        spoken = espeak.all_phones((str(row["language"]), _text(row["text"])) for row in rows)
        rows = [row | {"phones": phones} for row, phones in zip(rows, spoken, strict=True)]
    used = [*fetched, *(espeak.packages if espeak else ())]
    _write_licences(out, used)
    sources = {
        "packages": {package.name: package.row() for package in sorted(used, key=lambda package: package.name)},
        "files": {
            f"{s}/{p.name}": packages.sha256_of(p) for s in bundles for p in sorted((out / "audio" / s).iterdir())
        },
        "espeak-ng": espeak.version if espeak else None,
    }
    write_atomically(out / "sources.json", json.dumps(sources, indent=2, ensure_ascii=False) + "\n")
    Manifest(from_rows(rows, "the speech"), str(out)).write(out / "speech.parquet")  # last: it says that all is there
    return {"manifest": str(out / "speech.parquet")} | summary(rows, found.left_out)


def _espeak(out: Path, demanded: bool) -> Espeak | None:
    """An espeak-ng that runs; where there is none, an error if phones were demanded, else a message."""
    try:
        return find_espeak(out / "packages", out / "unpacked")
    except GdistError as error:
        if demanded:
            raise
        console.say(f"no column `phones`, because espeak-ng cannot be run: {error.message}", style="yellow")
        console.say(f"{error.hint or ''}; --phones makes this an error", style="yellow")
        return None


def _copy_audio(manifest: Manifest, folder: Path) -> None:
    """Copy the manifest's audio files, so that OUT can be moved; those that are there are not copied again."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted({Path(utterance.path) for utterance in manifest.utterances()}):
        copy = folder / path.name
        if not copy.is_file() or packages.sha256_of(copy) != packages.sha256_of(path):
            write_atomically(copy, path.read_bytes())


def _write_licences(out: Path, used: list[packages.Package]) -> None:
    without = packages.copy_licences(out / "unpacked", [package.name for package in used], out / "licences")
    shutil.copyfile(demo_folder() / "LICENSES.md", out / "licences" / "bundled.md")
    for name in without:
        console.say(f"{name} has no copyright file", style="yellow")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the speech and its manifest; takes 1 GB")
    parser.add_argument(
        "--more", type=Path, help=f"folder with more.csv, further takes of the digits [default: {MORE}]"
    )
    parser.add_argument("--phones", action=argparse.BooleanOptionalAction, help="[default: where espeak-ng runs]")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON value")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or what is half downloaded would stay
    more = options.more or (MORE if (MORE / "more.csv").is_file() else None)
    if more is None:
        console.say(f"left out: further takes of the digits, because there is no {MORE / 'more.csv'}", style="yellow")
    try:
        if options.more and not (options.more / "more.csv").is_file():
            raise GdistError(f"--more {options.more}: there is no more.csv", "leave the option out to do without")
        found = write_speech(options.out, more, options.phones)
    except GdistError as error:
        console.say(f"error: {error.message}", style="red")
        console.say(error.hint or "", style="yellow")
        sys.exit(error.exit_code)
    if more is None:
        found["left_out"]["more"] = {"not on this machine": 1}
    if options.json:
        console.emit(found)
    else:
        show(found)


if __name__ == "__main__":
    main()
