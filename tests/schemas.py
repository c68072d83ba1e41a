"""JSON Schemas of the documents that gdist writes, for other programs: docs/schemas, made from the code's own types.

python tests/schemas.py
"""

import functools
import json
from pathlib import Path
from typing import Any

import msgspec

from gdist.pipeline.cache import schema as cache
from gdist.pipeline.owner import OwnerDocument
from gdist.pipeline.run import evaluated
from gdist.pipeline.run import schema as run
from gdist.stages.printed import PRINTED
from gdist.stages.standings import schema as sweep

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
DOCUMENTS: dict[str, tuple[Any, str]] = {
    "cache-root": (cache.Description, "attributes.gdist of a cache's zarr.json"),
    "cache-receipt": (cache.ReceiptDocument, "receipts/*.json of a cache"),
    "cache-summary": (cache.Head, "summaries/*.json of a cache"),
    "cache-lock": (cache.LockDocument, "extracting.json of a cache"),
    "run": (run.Provenance, "run.json of a run"),
    "evaluation": (evaluated.Evaluated, "eval.json and evaluations/*.json of a run"),
    "metrics-row": (run.Row, "a line of metrics.jsonl of a run"),
    "checkpoint": (run.Digests, "state.json of a checkpoint"),
    "owner": (OwnerDocument, "training.json of a run or a sweep that is being written"),
    "sweep": (sweep.SweepRecord, "sweep.json of a sweep"),
    "sweep-failure": (sweep.Failure, "failed/*.json of a sweep"),
    "sweep-equal": (sweep.Ratios, "equal.json of a sweep"),
    "export": (run.Mark, "gdist-export.json of an export"),
}
# What a command prints is one of several types.
DOCUMENTS |= {
    f"printed-{command.replace(' ', '-')}": (kinds, f"gdist {command} --json") for command, kinds in PRINTED.items()
}


@functools.cache
def schema_of(name: str) -> dict[str, Any]:
    """One schema. What a command prints has no fields but those that its type has."""
    kind, what = DOCUMENTS[name]
    found = _strict(kind) if isinstance(kind, tuple) else msgspec.json.schema(kind)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": what} | found


def _strict(kinds: tuple[Any, ...]) -> dict[str, Any]:
    schemas, definitions = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for found in definitions.values():
        if "properties" in found:
            found["additionalProperties"] = False
    return {"anyOf": list(schemas), "$defs": definitions}


def text_of(name: str) -> str:
    """One schema, as it is in docs/schemas."""
    return json.dumps(schema_of(name), indent=1) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in DOCUMENTS:
        (FOLDER / f"{each}.json").write_text(text_of(each))
