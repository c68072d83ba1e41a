"""s3prl: an upstream with a hub entry, and a `run_downstream.py` that registers it.

    DIR/
      hubconf.py               torch.hub.load(DIR, "gdist", source="local")
      run_downstream.py        s3prl's own, with `-u gdist`
      gdist_student_0123…/     the code, under a unique name, so that one process can load several students
      config.json, model.safetensors

The folder needs torch, safetensors and, to run the downstream tasks, s3prl. It needs neither gdist nor transformers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdist.stages.export.formats.base import Export
from gdist.stages.export.formats.card import card
from gdist.stages.export.formats.source import flat_sources
from gdist.stages.train.student_store import save_student_to

OPTIONS: Mapping[str, Any] = {}

INSTEAD = dict.fromkeys(("transformers", "transformers.modeling_outputs"), "gdist.stages.export.formats.standalone")

HUBCONF = '''"""The student's entry, for torch.hub and for s3prl."""

from pathlib import Path as _Path

from {package}.{module} import {model} as _Student
from {package}.upstream import Upstream as _Upstream

dependencies = ["torch", "safetensors"]


def gdist(ckpt=None, model_config=None, refresh=False, **kwargs):
    """The upstream: a list of 16 kHz waveforms → {{"hidden_states": [...]}}.

    Args:
        ckpt: another folder of the same student to load the weights from; None means this folder.
        model_config, refresh, **kwargs: what s3prl passes to every upstream; ignored.
    """
    return _Upstream(_Student.from_pretrained(ckpt or _Path(__file__).parent))


def register():
    """Register `gdist` with s3prl, which only finds upstreams in s3prl.hub: `S3PRLUpstream("gdist")`."""
    import s3prl.hub

    s3prl.hub.gdist = gdist
'''

RUN_DOWNSTREAM = '''"""s3prl's run_downstream.py, with this student registered as `-u gdist`."""

from argparse import Namespace

import hubconf
import torch

hubconf.register()
# s3prl's checkpoints contain the arguments they were made with, which torch.load refuses since torch 2.6.
torch.serialization.add_safe_globals([Namespace])

from s3prl.run_downstream import main  # noqa: E402

if __name__ == "__main__":
    main()
'''


def write(export: Export, folder: Path) -> dict[str, Any]:
    save_student_to(folder, export.student)
    (folder / "preprocessor_config.json").unlink()  # the upstream is its own feature extractor
    model = type(export.student)
    wanted = [model.__module__, "gdist.stages.export.formats.upstream"]
    sources, names = flat_sources(wanted, INSTEAD, taken=("__init__",))
    # Python caches a module by its name, so two different students need different names.
    package = "gdist_student_" + hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:12]
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text('"""The student\'s code."""\n', encoding="utf-8")
    for name, source in sources.items():
        (folder / package / name).write_text(source, encoding="utf-8")
    hubconf = HUBCONF.format(package=package, module=names[model.__module__], model=model.__name__)
    (folder / "hubconf.py").write_text(hubconf, encoding="utf-8")
    (folder / "run_downstream.py").write_text(RUN_DOWNSTREAM, encoding="utf-8")
    (folder / "README.md").write_text(card(export, "s3prl"), encoding="utf-8")
    return {"entry": "gdist", "code": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))}


def hidden_states(folder: Path, waveforms: Sequence[Tensor]) -> list[Tensor]:
    upstream = torch.hub.load(str(folder), "gdist", source="local", verbose=False)  # type: ignore[no-untyped-call]
    upstream.eval()
    with torch.no_grad():
        states_BLTD = torch.stack(upstream(waveforms)["hidden_states"], dim=1)
    frames = upstream.student.frontend.num_frames(torch.tensor([len(waveform) for waveform in waveforms])).tolist()
    return [states_LTD[:, :count] for states_LTD, count in zip(states_BLTD, frames, strict=True)]


def tolerance(options: Mapping[str, Any]) -> float:
    return 1e-5


def usage(folder: Path) -> str:
    return f"python {folder}/run_downstream.py -u gdist …, in s3prl's folder; docs/export.md covers all of SUPERB"
