"""Hugging Face: the student's folder, with the code that loads the weights next to them.

`AutoModel.from_pretrained(folder, trust_remote_code=True)` needs torch and transformers. If gdist is installed and
`gdist.stages.students` is imported, the classes are registered, and no code in the folder is run.

Axes: B batch, S samples, L teacher layers, T frames, D features.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gdist.pipeline.staging import write_atomically
from gdist.stages.export.formats.base import Export
from gdist.stages.export.formats.card import card
from gdist.stages.export.formats.source import flat_sources, imported
from gdist.stages.frontend.padding import normalize
from gdist.stages.students.heads import HEADS, StudentWithHead, head_name
from gdist.stages.train.student_store import save_student_to

OPTIONS: Mapping[str, Any] = {}
WITH_HEADS = "with_heads"  # the module of the student's classes with heads
HEADS_SOURCE = '''"""The student with heads for fine-tuning."""

from .heads import {heads}
from .{file} import {student}
'''
HEAD_SOURCE = """

class {name}({head}):
    config_class = {student}.config_class
    student_class = {student}
"""


def write(export: Export, folder: Path) -> dict[str, Any]:
    save_student_to(folder, export.student)
    model = type(export.student)
    sources, names = flat_sources([model.__module__, StudentWithHead.__module__], taken=(WITH_HEADS, "__init__"))
    file, student = names[model.__module__], model.__name__
    listed = ", ".join(sorted(head.__name__ for head in HEADS.values()))
    sources[f"{WITH_HEADS}.py"] = HEADS_SOURCE.format(heads=listed, file=file, student=student) + "".join(
        HEAD_SOURCE.format(name=head_name(model, head), head=head.__name__, student=student)
        for head in HEADS.values()
    )
    for name, source in sources.items():
        (folder / name).write_text(source, encoding="utf-8")
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    document["auto_map"] = {
        "AutoConfig": f"{names[model.config_class.__module__]}.{model.config_class.__name__}",
        "AutoModel": f"{file}.{student}",
        **{auto: f"{WITH_HEADS}.{head_name(model, head)}" for auto, head in HEADS.items()},
    }
    write_atomically(folder / "config.json", json.dumps(document, indent=2) + "\n")
    (folder / "README.md").write_text(card(export, "hf"), encoding="utf-8")
    return {"code": sorted(path.name for path in folder.glob("*.py"))}


def hidden_states(folder: Path, waveforms: Sequence[Tensor]) -> list[Tensor]:
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    file, _, name = document["auto_map"]["AutoModel"].partition(".")
    samples_B = torch.tensor([len(waveform) for waveform in waveforms])
    waveform_BS = pad_sequence(list(waveforms), batch_first=True)
    mask_BS = (torch.arange(waveform_BS.shape[1]) < samples_B[:, None]).long()
    if document["do_normalize"]:
        waveform_BS = normalize(waveform_BS, samples_B)
    with imported(folder, file) as module, torch.no_grad():  # a student may also import while it runs
        model = getattr(module, name).from_pretrained(folder).eval()
        states_BLTD = torch.stack(
            model(waveform_BS, attention_mask=mask_BS, output_hidden_states=True).hidden_states, dim=1
        )
    frames = model.frontend.num_frames(samples_B).tolist()
    return [states_LTD[:, :count] for states_LTD, count in zip(states_BLTD, frames, strict=True)]


def tolerance(options: Mapping[str, Any]) -> float:
    return 1e-5


def usage(folder: Path) -> str:
    return f'transformers.AutoModel.from_pretrained("{folder}", trust_remote_code=True)'
