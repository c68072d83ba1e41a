"""What ``--json`` prints: the type of every command's result.

docs/reference/json.md and the JSON Schemas in docs/schemas are made from these, and every result in the tests is
checked against them. A field is added where the command makes it, and here; none is renamed or taken away.
"""

from typing import Any

from gdist.pipeline.run.evaluated import Evaluated
from gdist.stages.printed import caches, copies, manifests, students, sweeps, tables

# Command → the types of what it may print, the usual one first.
PRINTED: dict[str, tuple[Any, ...]] = {
    "doctor": (tables.Examined,),
    "demo": (students.Demo,),
    "manifest build": (manifests.Built,),
    "manifest check": (manifests.Checked,),
    "manifest export": (manifests.Exported,),
    "plan": (manifests.Planned,),
    "extract": (caches.Extracted, caches.WouldExtract),
    "caches": (caches.Found,),
    "inspect": (caches.Inspected,),
    "verify": (caches.Verified,),
    "copy": (copies.Copied, copies.WouldCopy),
    "local": (copies.Kept,),
    "train": (students.Trained,),
    "sweep": (sweeps.Swept,),
    "best": (sweeps.Best,),
    "eval": (Evaluated, list[Evaluated]),
    "export": (students.Exported,),
    "export-features": (copies.ExportedFeatures,),
    "recipes": (list[tables.Recipe], tables.RecipeText),
    "students": (list[tables.StudentSize],),
    "teachers": (list[tables.TeacherFamily],),
    "encodings": (list[tables.EncodingKind],),
}
