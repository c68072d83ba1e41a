"""The model card: what a student is, where it comes from, what it can do, and how to use it."""

import json
from typing import Any

from gdist.stages.exports.base import Source


def card(source: Source, usage: str) -> str:
    """README.md of an export, with Hugging Face's YAML head. ``{folder}`` is left for the folder's final place."""
    run, student = source.run, source.student
    about = run.provenance()
    teacher = about.get("teacher") or {}
    judged = _read_eval(source)
    figures = _figures(judged) if judged else f"Not evaluated: `gdist eval {run.folder}`, then export again.\n"
    usage = usage.replace("{states}", str(student.config.num_teacher_layers + 1))
    usage = usage.replace("{dim}", str(student.config.hidden_size))
    thrown = student.num_parameters_with_heads() - student.num_parameters()
    heads = f" and {thrown / 1e6:.2f} M of heads, which answer for the teacher's layers" if thrown else ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted((about.get("versions") or {}).items()))
    return f"""---
license: other
library_name: transformers
tags: [audio, speech, feature-extraction, distillation, gdist, {source.student_name}]
---

# {run.name}: a {source.student_name} student of {teacher.get("name", "a speech model")}

A small speech model that answers for all {student.config.num_teacher_layers + 1} hidden states of its teacher, in
their shapes. It has {student.num_parameters() / 1e6:.2f} M parameters{heads}.

## Use
{usage}
## Figures

{figures}
## Provenance

| | |
|---|---|
| teacher | {teacher.get("name", "unknown")} |
| teacher's fingerprint | `{teacher.get("fingerprint", "unknown")}` |
| cache | `{about.get("cache", "unknown")}`, {about.get("encoding", "unknown")} |
| steps | {(run.steps() or [run.tables()["train"]["steps"]])[-1]:,} |
| config's signature | `{about.get("signature", "unknown")}` |
| made with | {versions or "unknown"} |

## Licence

The code in this folder is gdist's, under the Apache License 2.0. The weights were learned from the teacher and from
speech: the licences of both are for whoever publishes them to state, instead of `other` above.
"""


def _read_eval(source: Source) -> dict[str, Any]:
    path = source.run.folder / "eval.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _figures(judged: dict[str, Any]) -> str:
    layers = judged["layers"]
    lines = [
        f"Cosine to the teacher on {judged['utterances']} utterances of the `{judged['split']}` split: "
        f"{judged['mean_cosine']:.3f} in the mean of layers.\n",
        "| layer | " + " | ".join(str(row["layer"]) for row in layers) + " |",
        "|---|" + "---|" * len(layers),
        "| cosine | " + " | ".join(f"{row['cosine']:.3f}" for row in layers) + " |\n",
    ]
    if judged.get("probes"):
        lines += ["| probe | metric | student | 95 % | teacher | log-mel |", "|---|---|---|---|---|---|"]
    for name, told in (judged.get("probes") or {}).items():
        others = [judged.get(who, {}).get("probes", {}).get(name, {}).get("value") for who in ("teacher", "log_mel")]
        span = f"{told['low']:.3f}–{told['high']:.3f}" if "low" in told else "–"
        cells = [f"{value:.3f}" if value is not None else "–" for value in others]
        lines.append(
            f"| {told.get('title', name)} | {told['metric']} | {told['value']:.3f} | {span} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"
