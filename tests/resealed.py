"""What a stranger can do to a cache: change a document, and make every checksum right again."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gdist.pipeline.storage.objects import canonical, seal

Change = Callable[[dict[str, Any]], object]


def root(cache: Path, change: Change) -> None:
    """Change the root document; ``attributes.gdist`` is what is changed, unless the change asks for ``_root``."""
    document = json.loads((cache / "zarr.json").read_bytes())
    gdist = document["attributes"]["gdist"]
    change(gdist)
    _write(cache, document, gdist)


def metadata(cache: Path, change: Change) -> None:
    """Change what the root document says of the arrays, and the arrays' own documents with it."""
    document = json.loads((cache / "zarr.json").read_bytes())
    described, gdist = document["consolidated_metadata"]["metadata"], document["attributes"]["gdist"]
    change(described)
    for name, each in described.items():
        if isinstance(each, dict) and each.get("node_type") == "array" and (cache / name).is_dir():
            data = canonical(each)
            (cache / name / "zarr.json").write_bytes(data)
            gdist["objects"][f"{name}/zarr.json"] = hashlib.sha256(data).hexdigest()
    _write(cache, document, gdist)


def planned(cache: Path, key: str, data: bytes) -> None:
    """Give a planned document other bytes, and the index's copy with it."""
    keys = [key, "plans/00000.parquet"] if key == "index.parquet" else [key]
    for each in keys:
        (cache / each).write_bytes(data)
    root(cache, lambda gdist: gdist["objects"].update(dict.fromkeys(keys, hashlib.sha256(data).hexdigest())))


def document(cache: Path, key: str, change: Change) -> None:
    """Change a sealed document, such as a receipt."""
    found = json.loads((cache / key).read_bytes())
    change(found)
    (cache / key).write_bytes(seal(found, found))


def _write(cache: Path, document: dict[str, Any], gdist: dict[str, Any]) -> None:
    data = seal(document, gdist)
    for name in ("zarr.json", "plans/00000.json"):
        (cache / name).write_bytes(data)
