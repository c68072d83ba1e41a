"""`gdist export`: a finished student in the forms people use, checked by loading it the way they will."""

import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from gdist.pipeline import console
from gdist.pipeline.errors import EXIT_OK, UsageError
from gdist.pipeline.run import Run, write_atomically
from gdist.stages.exports import FORMATS
from gdist.stages.exports.base import Format, Source
from gdist.stages.student_store import load_student

MARK = "exported-by-gdist.txt"  # whose folder may be replaced


def export(folder: Path, form: str, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Write a run's student into ``out``, whole or not at all.

    Raises:
        RunError: the run has no finished student.
        UsageError: ``out`` holds something that no export wrote.
    """
    run = Run.open(folder)
    source = Source(run, load_student(run).eval())
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARK).exists())):
        raise UsageError(f"{out} is there and no export of ours: it stays as it is", "choose another --out")
    staged = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        told = cast(Format, import_module(FORMATS[form])).write(source, staged, options)
        write_atomically(staged / MARK, f"{form} of {run.name}\n")
        for page in staged.glob("*.md"):  # written while the folder had another name
            page.write_text(page.read_text(encoding="utf-8").replace("{folder}", str(out)), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        staged.rename(out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {
        "format": form,
        "out": str(out),
        "params": source.student.num_parameters(),
        "bytes": sum(path.stat().st_size for path in files),
        "files": [str(path.relative_to(out)) for path in files],
        **told,
        "try": told["try"].replace("{folder}", str(out)),
    }


def export_command(folder: Path, form: str, out: Path, options: Mapping[str, Any], as_json: bool) -> int:
    """Export, and say what came of it."""
    done = export(folder, form, out, options)
    if as_json:
        console.emit(done)
        return EXIT_OK
    console.say(f"{out}: {len(done['files'])} files, {done['bytes'] / 1e6:.1f} MB", style="green")
    console.say(f"it answers as the student does, within {done['max_difference']:.0e}")
    console.say(f"try: {done['try']}")
    return EXIT_OK
