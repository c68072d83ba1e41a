"""s3prl's form: an upstream with its hub entry, for SUPERB. It needs torch, safetensors and s3prl, and no gdist."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import safetensors.torch

from gdist.pipeline.run import write_atomically
from gdist.stages.exports.base import Source
from gdist.stages.exports.card import card
from gdist.stages.exports.check import largest_difference
from gdist.stages.exports.code import write_code
from gdist.stages.students import STUDENTS

PACKAGE = "gdist_upstream"  # relative imports need a package that is not the folder's own name, which may have dashes


def write(source: Source, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """See :class:`gdist.stages.exports.base.Format`."""
    student, package = source.student, folder / PACKAGE
    package.mkdir()
    write_code(source.student_name, package, PLAIN, head=False)
    here = files(__package__)
    for name, written in (("plain.py", "plain.py"), ("upstream.py", "expert.py")):
        text = here.joinpath(name).read_text(encoding="utf-8")
        write_atomically(package / written, text.replace("  # type: ignore[attr-defined]", ""))
    config_class, model_class = (one.__name__ for one in STUDENTS[source.student_name])
    write_atomically(
        package / "__init__.py",
        f'"""A student trained by gdist."""\n\nfrom .{source.student_name} import {config_class}, {model_class}\n\n'
        f"STUDENT = ({config_class}, {model_class})\n",
    )
    described = {key: value for key, value in student.config.to_dict().items() if key in _fields(student.config)}
    write_atomically(package / "config.json", json.dumps(described, indent=2))
    weights = {name: tensor.contiguous() for name, tensor in student.state_dict().items()}
    safetensors.torch.save_file(weights, package / "model.safetensors")
    write_atomically(folder / "hubconf.py", HUBCONF)
    write_atomically(folder / "run_downstream.py", RUN)
    write_atomically(folder / "README.md", card(source, USAGE))
    return {
        "max_difference": largest_difference(student, CHECK, folder),
        "try": "python {folder}/run_downstream.py -m train -u gdist_student -d speech_commands -n first",
    }


def _fields(config: Any) -> set[str]:
    """The student's own fields; transformers adds many that mean nothing here."""
    return {
        name
        for owner in type(config).__mro__
        if owner.__module__.startswith("gdist.")
        for name in vars(owner).get("__annotations__", {})
    }


# The source asks transformers for these; the export has them in plain.py.
PLAIN = {
    "from transformers import PreTrainedConfig, PreTrainedModel\n": "from .plain import PreTrainedConfig, PreTrainedModel\n",
    "from transformers import initialization as init\n": "from .plain import init\n",
    "from transformers.modeling_outputs import BaseModelOutput\n": "from .plain import BaseModelOutput\n",
}

HUBCONF = f'''"""The hub entry: `torch.hub.load(FOLDER, "gdist_student", source="local")`, or an attribute of s3prl.hub."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from {PACKAGE}.expert import UpstreamExpert as _UpstreamExpert  # noqa: E402


def gdist_student(ckpt=None, model_config=None, refresh=False, **kwargs):
    """The upstream; `ckpt` may name another folder like {PACKAGE}."""
    return _UpstreamExpert(ckpt, model_config)
'''

RUN = '''"""s3prl's run_downstream with this student among its upstreams: `-u gdist_student`; all else is s3prl's own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import s3prl.hub  # noqa: E402
from hubconf import gdist_student  # noqa: E402

s3prl.hub.gdist_student = gdist_student

if __name__ == "__main__":
    from s3prl.run_downstream import main

    main()
'''

CHECK = """
sys.path.insert(0, sys.argv[1])
sys.modules["transformers"] = None
from hubconf import gdist_student
upstream = gdist_student()
upstream.model.config.do_normalize = False  # what is compared has been normalised
answer = lambda waveform_BS, mask_BS: upstream([w[:n] for w, n in zip(waveform_BS, mask_BS.sum(1).tolist())])["hidden_states"]
"""

USAGE = """
```python
import torch

upstream = torch.hub.load("{folder}", "gdist_student", source="local")  # torch and safetensors, no s3prl
with torch.no_grad():
    hidden_states = upstream([torch.randn(16000), torch.randn(24321)])["hidden_states"]  # {states} of [2, frames, {dim}]
```

In s3prl, for SUPERB:

```bash
python {folder}/run_downstream.py -m train -u gdist_student -d speech_commands -n student-ks
```
"""
