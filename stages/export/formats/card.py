"""The model card that an export ships: what the student is, where it comes from, its figures, and how to use it."""

from collections.abc import Mapping
from typing import Any

from gdist.pipeline.errors import RunError
from gdist.pipeline.framing import Framing
from gdist.pipeline.run.schema import Carded
from gdist.stages.export.formats.base import Export
from gdist.stages.export.formats.card_figures import figures

SAMPLE = """speech = [torch.randn(16000).numpy(), torch.randn(11111).numpy()]  # yours: 16 kHz, mono, any lengths
"""

HF = """```python
import torch
from transformers import AutoFeatureExtractor, AutoModel

folder = "."  # this file's folder, or the model's name on the Hub
extractor = AutoFeatureExtractor.from_pretrained(folder)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()

{sample}inputs = extractor(speech, sampling_rate=16000, padding=True, return_tensors="pt")
with torch.no_grad():
    hidden_states = model(**inputs, output_hidden_states=True).hidden_states
assert len(hidden_states) == {states} and hidden_states[-1].shape == (2, 49, {dim})
```

`trust_remote_code=True` runs the Python files in this folder; they need torch and transformers 5. If gdist is
installed, `import gdist.stages.students` first and leave the option out. `model(…, last_layer=n)` stops after n
layers.

Fine-tuning, with a trainable head over all hidden states; there are heads for `AutoModelForCTC`,
`AutoModelForAudioFrameClassification` and `AutoModelForAudioXVector`, too:

```python
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

labels = ["no", "yes"]
model = AutoModelForAudioClassification.from_pretrained(
    ".",
    num_labels=len(labels),
    id2label=dict(enumerate(labels)),
    label2id={{label: i for i, label in enumerate(labels)}},
    use_weighted_layer_sum=True,  # of all hidden states; without it, the last one
    trust_remote_code=True,
)
model.freeze_base_model()  # or freeze_feature_encoder(), or neither
extractor = AutoFeatureExtractor.from_pretrained(".")
{sample}inputs = extractor(speech, sampling_rate=16000, padding=True, return_tensors="pt")
model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
```
"""

S3PRL = """```python
import torch

upstream = torch.hub.load(".", "gdist", source="local").eval()  # "." is this file's folder
with torch.no_grad():
    hidden_states = upstream([torch.randn(16000), torch.randn(11111)])["hidden_states"]
assert len(hidden_states) == {states} and hidden_states[-1].shape == (2, 49, {dim})
```

It takes 16 kHz waveforms as recorded, and needs torch and safetensors. For SUPERB, in s3prl's folder:

```console
$ python FOLDER/run_downstream.py -n NAME -m train -u gdist -d fluent_commands
$ python FOLDER/run_downstream.py -m evaluate -e result/downstream/NAME/dev-best.ckpt
```
"""

USAGE = {"hf": HF, "s3prl": S3PRL}


def card(export: Export, name: str) -> str:
    """Return ``README.md`` for an export in the format ``name``; it starts with the metadata that the Hub reads."""
    config, provenance = export.student.config, export.run.provenance(Carded)
    student, teacher = export.run.tables()["student"]["name"], provenance["teacher"]
    usage = USAGE[name].format(sample=SAMPLE, states=config.num_teacher_layers + 1, dim=config.hidden_size)
    title = f"{student} of {teacher['name']}"
    of_teacher = f"; the teacher has {teacher['params'] / 1e6:.2f} M" if teacher.get("params") else ""
    lines = [
        *_metadata(teacher["name"], name),
        f"# {title}",
        "",
        *([export.unfinished, ""] if export.unfinished else []),
        f"A small student of the speech model {teacher['name']}, distilled from its hidden states by gdist. It "
        f"returns {config.num_teacher_layers + 1} hidden states in the teacher's shapes, {config.hidden_size} wide, "
        + frames_sentence(export.student.frontend.framing),
        "",
        f"{export.student.num_parameters() / 1e6:.2f} M parameters{of_teacher}." + _heads(export),
        "",
        "## Use",
        "",
        usage,
        *_teachers(export, name, provenance),
        "## Figures",
        "",
        *figures(export.at, provenance),
        "",
        "## Where it comes from",
        "",
        *_provenance(export, provenance),
        "",
        "## License",
        "",
        "The code here is gdist's, under the Apache License 2.0. The weights were learned from the teacher's hidden "
        + "states, and start from the teacher's weights if `student.initialize` says so. The licenses of the teacher "
        + "and of the corpus apply to them; gdist does not know either of these licenses.",
        "",
    ]
    return "\n".join(lines)


def frames_sentence(framing: Framing) -> str:
    """Say how many frames there are."""
    missing = framing.window - framing.left - framing.right
    return (
        f"at {framing.frames_per_second:g} frames per second: `(n - {missing}) // {framing.hop} + 1` frames for n "
        f"samples, of which it needs {framing.fewest}."
    )


def _metadata(teacher: str, name: str) -> list[str]:
    lines = ["---", "license: other", "license_name: code-apache-2.0-weights-as-the-teacher"]
    if teacher.count("/") == 1 and not teacher.startswith("/"):  # a name on the Hub
        lines += ["base_model:", f"- {teacher}"]
    if name == "hf":
        lines += ["library_name: transformers"]
    return [*lines, "pipeline_tag: feature-extraction", "tags:", "- speech", "- distillation", "- gdist", "---", ""]


def _teachers(export: Export, name: str, provenance: Mapping[str, Any]) -> list[str]:
    """Say which outputs belong to which of several teachers."""
    others = export.student.teachers[1:]
    if not others:
        return []
    about = list(provenance.get("teachers", {}).values())
    if len(about) != (count := len(export.student.teachers)):
        path = export.run.folder / "run.json"
        raise RunError(f"{path} is damaged: it names {len(about)} teachers of a student of {count}", export.run.anew)
    lines = [
        "## Teachers",
        "",
        f"It has learned from {len(about)} teachers. `hidden_states` are in the shapes of the first one, "
        f"{about[0]['name']}, whose front-end the student has."
        + (" Those of the others are computed on request, on the same frames:" if name == "hf" else ""),
        "",
    ]
    if name != "hf":
        return [*lines, "The outputs for the others are in the weights, and this format does not return them.", ""]
    for other, each in zip(others, about[1:], strict=True):
        config = other.config
        lines.append(
            f'- `model(…, teacher="{other.name}").hidden_states`: those of {each["name"]}, '
            f"{config.num_teacher_layers + 1} of them, {config.hidden_size} wide. Its layers {config.predict_layers} "
            "are predicted; each other one is the nearest of these."
        )
    return [*lines, ""]


def _heads(export: Export) -> str:
    extra = export.student.num_parameters_with_heads() - export.student.num_parameters()
    if not extra:
        return ""
    return (
        f" The heads have another {extra / 1e6:.2f} M and are included: they were needed for distillation, and the "
        "hidden states above layer 0 are their outputs."
    )


def _start(start: Mapping[str, Any]) -> str:
    told = start.get("exported", start)
    step = f", step {told['step']} of {told['steps']}" if {"step", "steps"} <= told.keys() else ""
    return f"the weights of {told.get('run', 'another student')}{step}, SHA-256 `{start['sha256'][:12]}`"


def _steps(export: Export) -> str:
    return f"{export.at.total}" if export.at.is_finished else f"{export.at.step} of {export.at.total}"


def _provenance(export: Export, provenance: dict[str, Any]) -> list[str]:
    teacher, tables = provenance["teacher"], export.run.tables()
    rows = {
        "teacher": f"{teacher['name']} ({teacher['family']}), fingerprint `{teacher['fingerprint']}`",
        "cache": f"`{provenance['cache_checksum']}`, {provenance['encoding']}",
        "utterances": ", ".join(f"{split} {count}" for split, count in provenance["utterances"].items()),
        "run": f"{export.run.name}, config `{provenance['signature']}`, {_steps(export)} steps",
        **({"begun with": _start(provenance["start"])} if provenance.get("start") else {}),
        **({"loss": tables["loss"]["name"]} if "loss" in tables else {}),
        "versions": ", ".join(f"{name} {version}" for name, version in provenance["versions"].items()),
    }
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
