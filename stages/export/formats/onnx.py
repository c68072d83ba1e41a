"""ONNX: one file that ONNX Runtime runs without torch, for batches of any size and utterances of any length.

model.onnx                 input_values [batch, samples] float32, as recorded: if the student needs normalized
                           input, the graph normalizes it; attention_mask [batch, samples] int64, 1 for samples and
                           0 for padding at the end → hidden_states.0 … hidden_states.L [batch, frames, D], zero in
                           padding, and num_frames [batch]
config.json, preprocessor_config.json, README.md

Axes: B batch, S samples, L teacher layers, T frames, D features.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gdist.pipeline.errors import ExportError, UsageError
from gdist.stages.export.formats.base import Export
from gdist.stages.export.formats.onnx_fidelity import fidelity
from gdist.stages.export.formats.onnx_graph import INPUTS, TRACEABLE, first_line, graph_of
from gdist.stages.export.formats.onnx_library import open_session, require
from gdist.stages.export.formats.onnx_readme import readme
from gdist.stages.train.student_store import save_student_to

OPTIONS: Mapping[str, Any] = {"quantize": "none", "precision": "fp32", "opset": None}
QUANTIZERS = ("none", "int8")
PRECISIONS = ("fp32", "fp16")


def write(export: Export, folder: Path) -> dict[str, Any]:
    form = _form(export.options)
    model = graph_of(export.student, for_integers=form == "int8", half=form == "fp16", opset=export.options["opset"])
    if form == "int8":
        from gdist.stages.export.formats.onnx_quantize import quantize

        model = quantize(model)
    require("onnx").save(model, folder / "model.onnx")
    save_student_to(folder, export.student)
    (folder / "model.safetensors").unlink()
    opset = next(each.version for each in model.opset_import if not each.domain)
    (folder / "README.md").write_text(readme(export, form, opset), encoding="utf-8")
    own: dict[str, Any] = {name: export.options[name] for name in ("quantize", "precision")} | {"opset": opset}
    if form != "fp32":
        own["fidelity"] = fidelity(open_session(folder / "model.onnx"), export, form)
    return own


def hidden_states(folder: Path, waveforms: Sequence[Tensor]) -> list[Tensor]:
    samples_B = torch.tensor([len(waveform) for waveform in waveforms])
    waveform_BS = pad_sequence(list(waveforms), batch_first=True)
    mask_BS = torch.arange(waveform_BS.shape[1]) < samples_B[:, None]
    inputs = dict(zip(INPUTS, (waveform_BS.numpy(), mask_BS.long().numpy()), strict=True))
    try:
        *states, frames_B = open_session(folder / "model.onnx").run(None, inputs)
    except ExportError:
        raise
    except Exception as error:  # ONNX Runtime's own exception classes are not documented
        lengths = ", ".join(map(str, samples_B.tolist()))
        raise ExportError(
            f"the student was exported to ONNX, but ONNX Runtime cannot run it on utterances of {lengths} samples: "
            f"{first_line(error)}",
            TRACEABLE,
        ) from error
    states_BLTD = torch.stack([torch.from_numpy(state_BTD) for state_BTD in states], dim=1)
    return [states_LTD[:, :count] for states_LTD, count in zip(states_BLTD, frames_B.tolist(), strict=True)]


def tolerance(options: Mapping[str, Any]) -> float:
    return {"fp32": 1e-4, "fp16": 1e-2, "int8": math.inf}[_form(options)]


def usage(folder: Path) -> str:
    return f'onnxruntime.InferenceSession("{folder / "model.onnx"}"), as {folder / "README.md"} shows'


def _form(options: Mapping[str, Any]) -> str:
    """Return what weights and products are in: "fp32", "fp16" or "int8"."""
    for name, values in ("quantize", QUANTIZERS), ("precision", PRECISIONS):
        if options[name] not in values:
            raise UsageError(f"--{name} {options[name]} is not one of {', '.join(values)}")
    if options["quantize"] == "none":
        return str(options["precision"])
    if options["precision"] != "fp32":
        raise UsageError(
            f"--precision {options['precision']} and --quantize {options['quantize']} exclude each other: both say "
            "what the weights are stored in",
            "give one of them: int8 is smaller, and fp16 is closer to the student",
        )
    return str(options["quantize"])
