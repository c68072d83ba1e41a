"""`gdist doctor`: every check, one after another, and what they found."""

import os
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from gdist.pipeline import console
from gdist.pipeline.errors import EXIT_OK, GdistError, UsageError
from gdist.pipeline.made_with import revision
from gdist.pipeline.storage.locations import folder_of, scheme_of
from gdist.stages.doctor.audio import check_audio
from gdist.stages.doctor.check import Check
from gdist.stages.doctor.disk import check_folder
from gdist.stages.doctor.gpu import check_gpus
from gdist.stages.doctor.processor import check_processor
from gdist.stages.doctor.software import check_extras, check_gdist, check_onnx_runtime, check_packages
from gdist.stages.doctor.store import check_store, require_location

MACHINE = (check_gdist, check_packages, check_extras, check_onnx_runtime, check_gpus, check_processor, check_audio)
OF_MACHINE = ("gdist", "packages", "extras", "gpu", "cpu", "audio")  # areas; the others are places
COLUMNS = ["check", "status", "found"]


def doctor_command(uris: tuple[str, ...], local: str | None, read_only: bool, in_parts: bool, as_json: bool) -> int:
    """Check the machine, its folders and each URI.

    Raises:
        UsageError: a URI is no location.
        GdistError: there are problems; raised when everything is shown.
    """
    stores, folders = _sorted(uris, local)
    checks: list[Check] = []
    try:
        with closing(_all(stores, folders, read_only, in_parts)) as found:  # what is interrupted cleans up behind it
            checks.extend(found)
    finally:
        console.settle()
    problems = [check for check in checks if check.status == "problem"]
    if as_json:
        about = {"version": metadata.version("gdist"), "revision": revision()}
        console.emit({"ok": not problems, "gdist": about, "checks": [asdict(check) for check in checks]})
    else:
        _print(checks)
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise GdistError(f"work would stop at {count}")
    return EXIT_OK


def _sorted(uris: tuple[str, ...], local: str | None) -> tuple[list[str], dict[Path, bool]]:
    """The stores; and the folders, with whether somebody named them. Each of them once."""
    stores: list[str] = []
    folders: dict[Path, bool] = {}
    for uri in uris:
        if scheme_of(uri) == "file":
            folders[folder_of(uri)] = True
        elif uri not in stores:
            require_location(uri)
            stores.append(uri)
    if local:
        if scheme_of(local) != "file":
            raise UsageError(f"--local {local}: it must be a folder on this machine", "give the path of a fast disk")
        folders[folder_of(local)] = True
    if not uris:
        with suppress(FileNotFoundError):  # it was deleted
            folders.setdefault(Path.cwd(), False)
    folders.setdefault(_temporary(), False)
    return stores, folders


def _temporary() -> Path:
    """The folder for temporary files, found without writing to it, which tempfile would do."""
    named = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return next((Path(path).absolute() for path in named if path and Path(path).is_dir()), Path("/tmp"))


def _all(
    stores: list[str], folders: dict[Path, bool], read_only: bool, in_parts: bool
) -> Generator[Check, None, None]:
    console.wait_for("checking this machine …")
    for of_machine in MACHINE:
        yield from of_machine()
    for folder, named in folders.items():
        console.wait_for(f"checking {folder} …")
        yield from check_folder(folder, named, read_only)
    for uri in stores:
        console.wait_for(f"checking {uri} …")
        yield from check_store(uri, read_only, in_parts)


def _print(checks: list[Check]) -> None:
    """Print a table for the machine, one for each place, and what is not fine in sentences."""
    areas = list(dict.fromkeys(check.area for check in checks))
    places = [area for area in areas if area not in OF_MACHINE]
    console.print_table("this machine", COLUMNS, _rows([c for c in checks if c.area in OF_MACHINE]), words=True)
    for place in places:
        console.print_table(place, COLUMNS, _rows([c for c in checks if c.area == place]), words=True)
    lines = []
    for check in sorted((c for c in checks if c.status != "ok"), key=lambda c: c.status == "note", reverse=True):
        where = check.name if check.area in OF_MACHINE else f"{check.area}, {check.name}"
        lines.append(f"{check.status}: {where}: {check.means}")
        if check.hint:
            lines.append(f"  try: {check.hint}")
    console.print_lines(lines or ["everything is fine"])


def _rows(checks: list[Check]) -> list[list[str]]:
    """A row for each check; those of packages that are fine share one."""
    fine = [check for check in checks if check.area == "packages" and check.status == "ok"]
    rows: list[list[str]] = []
    for check in checks:
        if check not in fine:
            rows.append([check.name, check.status, check.value])
        elif check is fine[0]:
            rows.append(["packages", "ok", ", ".join(f"{each.name} {each.value}" for each in fine)])
    return rows
