"""`gdist export`: a finished student in another tool's format, written next to DIR, loaded back, then renamed.

DIR/
  gdist-export.json   the format, the provenance and the list of files, which another export may replace
  …                   the format's own files
"""

import copy
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from gdist.pipeline import console
from gdist.pipeline.errors import ExportError, RunError, UsageError
from gdist.pipeline.files import foreign, open_to_all
from gdist.pipeline.folder import OwnFolder
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.pipeline.made_with import made_with
from gdist.pipeline.run.documents import read_document, text_of
from gdist.pipeline.run.schema import Mark
from gdist.pipeline.run.snapshot import snapshot
from gdist.pipeline.staging import NEW, put, workshop, write_atomically
from gdist.stages.export.formats import FORMATS, format_named
from gdist.stages.export.formats.base import Export, Format
from gdist.stages.frontend.padding import normalize
from gdist.stages.students import Student, load_student

MARK = "gdist-export.json"
# Odd lengths, so that errors in padding and rounding show; besides, the shortest of all, of a single frame.
TRIAL_SAMPLES = (SAMPLE_RATE, SAMPLE_RATE // 2 + 479)
ROUNDING = 4  # an export may be this much further from the student than PyTorch's rounding is


def export(location: Path, name: str, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Export the student of a run, ``RUN`` or ``RUN@STEP``, in the format ``name`` to ``out``.

    Of an unfinished run, that is the student of its newest checkpoint, and the export says that it is unfinished.

    Raises:
        RunError: there is no run, it has no student yet, or ``out`` contains something other than an export.
        UsageError: an option was given that the format does not take.
        ExportError: the export, loaded back, differs from the student; nothing is left behind.
    """
    form = format_named(name)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in form.OPTIONS:
            takers = [other for other in FORMATS if key in format_named(other).OPTIONS]
            raise UsageError(
                f"--format {name} has no option --{key}", f"it belongs to --format {' or '.join(takers)}"
            )
    chosen = {**form.OPTIONS, **given}
    at = snapshot(location)
    at.say_unfinished()
    run, what = at.run, Export(load_student(at).float().eval(), at, chosen)
    what.student.config.gdist = {"run": run.name, **at.progress}  # in config.json, wherever it is copied to
    place = out.resolve()  # if ``out`` is a link, it stays and points to the export
    _require_ours(place, out, name)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with workshop(place) as made:
            result = _written(name, what, out, made / NEW)
            _require_ours(place, out, name)
            put(made, place)
    except (OSError, safetensors.SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunError(f"cannot write the export {out}: {why}", "choose another --out") from error
    return result


def _written(name: str, what: Export, out: Path, staged: Path) -> dict[str, Any]:
    """Write an export to ``staged``, an empty folder, and return what --json prints; ``out`` is where it will be."""
    run, at = what.run, what.at
    own, difference = write_and_compare(name, what, staged)
    result = {
        "format": name,
        "out": str(out),
        "run": run.name,
        **at.progress,
        "student": run.tables()["student"]["name"],
        "params": what.student.num_parameters(),
        "params_with_heads": what.student.num_parameters_with_heads(),
        "max_difference": difference,
        **own,
    }
    provenance = run.provenance()
    for cache in list(staged.rglob("__pycache__")):  # left over from loading it back
        shutil.rmtree(cache)
    files = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
    result["files"] = sorted([*files, MARK])
    told = ("format", "run", *at.progress, "student", "files")
    mark = {key: result[key] for key in told} | {"provenance": provenance, **made_with()}
    write_atomically(staged / MARK, text_of(MARK, mark, Mark) + "\n")
    result["bytes"] = sum((staged / name).stat().st_size for name in result["files"])
    open_to_all(staged)
    return result


def write_and_compare(name: str, what: Export, folder: Path) -> tuple[dict[str, Any], float]:
    """Write the format ``name`` into ``folder``, load it back, and compare.

    Returns:
        the format's own fields for ``--json``, and the largest difference of any hidden state.

    Raises:
        ExportError: the student does not support this format, or the export, loaded back, differs from the student.
    """
    form = format_named(name)
    own = form.write(what, folder)
    difference, largest = compared(form, folder, what.student)
    limit = form.tolerance(what.options) * max(1.0, largest)
    if difference > limit:
        limit = max(limit, ROUNDING * rounding(what.student, what.options.get("precision") == "fp16"))
    if not difference <= limit:
        raise ExportError(
            f"the export does not match the student: loaded back, its hidden states differ by "
            f"{difference:.2g}, and the limit for {name} is {limit:.0e}",
            "nothing was written. If the student is your own, run gdist.stages.testing.StudentSuite on it; if it is "
            "gdist's, this is a bug in gdist or in a library it uses: report gdist --version and pip freeze",
        )
    return own, difference


def rounding(student: Student, half: bool = False) -> float:
    """Return by how much the student's hidden states in float32 differ from those in float64, at most.

    A student that feeds on its own states amplifies rounding, some more than others: one of Whisper's was off by 1e-4
    at its fourth layer, whether its utterances were in a batch or alone.

    Args:
        half: compare float16 with float32 instead, in PyTorch, for exports in float16.
    """
    other = copy.deepcopy(student).half() if half else copy.deepcopy(student).double()
    difference = 0.0
    for waveform_S in _trial(student):
        states_LTD = own_hidden_states(student, waveform_S)
        other_LTD = own_hidden_states(other, waveform_S if half else waveform_S.double())
        difference = max(difference, float((other_LTD - states_LTD).abs().max()))
    return difference


def compared(form: Format, folder: Path, student: Student) -> tuple[float, float]:
    """Compare the export on a padded batch with the student on one utterance at a time.

    Returns:
        the largest absolute difference between hidden states, and the largest absolute value of any hidden state.
    """
    waveforms = _trial(student)
    exported = form.hidden_states(folder, waveforms)
    difference = largest = 0.0
    for waveform_S, found_LTD in zip(waveforms, exported, strict=True):
        expected_LTD = own_hidden_states(student, waveform_S)
        if found_LTD.shape != expected_LTD.shape:
            shapes = f"of shape {list(found_LTD.shape)} instead of {list(expected_LTD.shape)}"
            raise ExportError(f"the export returns hidden states {shapes} for {len(waveform_S)} samples")
        difference = max(difference, float((found_LTD - expected_LTD).abs().max()))
        largest = max(largest, float(expected_LTD.abs().max()))
    return difference, largest


def _trial(student: Student) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = (*TRIAL_SAMPLES, student.frontend.framing.fewest)
    return [torch.randn(samples, generator=generator) / 10 for samples in lengths]


@torch.no_grad()
def own_hidden_states(student: Student, waveform_S: Tensor) -> Tensor:
    """Return the student's own hidden states of one utterance as recorded, ``[L + 1, T, D]``."""
    waveform_1S = waveform_S[None]
    if student.config.do_normalize:
        waveform_1S = normalize(waveform_1S, torch.tensor([len(waveform_S)]))
    return torch.cat(student(waveform_1S, output_hidden_states=True).hidden_states)


def _require_ours(place: Path, out: Path, name: str) -> None:
    """Refuse to replace anything except an earlier export, in a folder that contains only files that gdist wrote."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    hint = f"--out {out}-{name}"
    try:
        files = read_document(OwnFolder(place).own(place / MARK), Mark)["files"]
    except RunError as error:
        raise RunError(f"{out} exists and is not an export of gdist; it is left alone", hint) from error
    ours = "|".join(map(re.escape, files))
    # Python writes __pycache__ when the code is used.
    if others := foreign(place, rf"{ours}|(.+/)?__pycache__/[^/]+"):
        raise RunError(
            f"{out} also contains {', '.join(others[:3])}, which gdist did not write; it is left alone",
            f"move it away, or {hint}",
        )


def export_command(location: Path, name: str, out: Path, options: Mapping[str, Any], as_json: bool) -> int:
    """Export, and print what was written and what to type next."""
    result = export(location, name, out, options)
    if as_json:
        console.emit(result)
        return 0
    sizes = (
        f"{len(result['files'])} files, {console.size(result['bytes'])}, {result['params'] / 1e6:.2f} M parameters"
    )
    console.say(f"{out}: {result['student']} for {name}, {sizes}")
    console.say(f"loaded back, its hidden states differ from the student's by at most {result['max_difference']:.1g}")
    console.say(f"  try: {format_named(name).usage(out)}")
    return 0
