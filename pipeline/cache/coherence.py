"""What documents of a cache must say together: what their types (schema.py) cannot express.

Each function returns what it was given, and raises SchemaError, whose words follow the document's name: "its packs is
3, and its additions have 2".
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from gdist.pipeline.cache.chunks import layout_of
from gdist.pipeline.cache.schema import MAX_SHARD_BYTES, MAX_WIDTH, Description, Head, ReceiptDocument
from gdist.pipeline.schema import SchemaError, conform

PLANNED = re.compile(
    r"index\.parquet|plans/\d{5}\.parquet"
    r"|teacher/(config\.json|(frontend|layers|tables(-\d{1,5})?)\.safetensors|[^/]+\.py)"
    r"|((layers|scales)(/\d{2,4})?|waveform)/zarr\.json"
)
"""The documents that a root document may list: those that are written before it."""


def require_description(found: Any) -> dict[str, Any]:
    """Check ``attributes.gdist`` of a root document, except what depends on its encoding: see :func:`require_arrays`.
    What it says of sizes may be relied on then."""
    conform(found, Description)
    gdist: dict[str, Any] = found
    identity, layers = gdist["identity"], gdist["identity"]["layers"]
    _require_ascending("identity.layers", layers)
    if layers[-1] > (last := identity["teacher"]["num_layers"]):
        raise SchemaError(f"its identity.layers has {layers[-1]}, and its teacher has layers 0 to {last}")
    _require_additions(gdist)
    if gdist["packs"] > max(gdist["utterances"], 1):
        raise SchemaError(
            f"its packs is {gdist['packs']}, and its utterances is {gdist['utterances']}: none is empty"
        )
    if gdist["frames"] > (rows := gdist["packs"] * identity["pack_frames"]):
        raise SchemaError(f"its frames is {gdist['frames']}, and its packs have {rows} rows")
    for key in gdist["objects"]:
        if not PLANNED.fullmatch(key):
            raise SchemaError(f"it lists {key!r:.80}, which is no document of a cache")
    for key in ("index.parquet", f"plans/{gdist['generation']:05d}.parquet"):
        if key not in gdist["objects"]:
            raise SchemaError(f"it does not list {key}")
    return gdist


def _require_additions(gdist: Mapping[str, Any]) -> None:
    """Additions cover all packs and layers, once each: new packs follow the old ones and have all layers that there
    are by then; new layers are added to all packs that there are by then."""
    packs, layers = 0, set[int]()
    if len(gdist["additions"]) > 2 * gdist["generation"] + 1:
        raise SchemaError(f"its additions are {len(gdist['additions'])}, in {gdist['generation'] + 1} plans")
    for number, addition in enumerate(gdist["additions"]):
        what, (first, stop), own = f"additions[{number}]", addition["packs"], addition["layers"]
        _require_ascending(f"{what}.layers", own)
        if addition["waveform"]:
            if first != packs or stop <= first:
                raise SchemaError(f"its {what}.packs is {[first, stop]}; it must be some packs from {packs} on")
            if number and own != sorted(layers):
                raise SchemaError(f"its {what}.layers is {own}; new packs have the layers {sorted(layers)}")
            packs = stop
        elif number == 0 or [first, stop] != [0, packs] or layers & {*own}:
            raise SchemaError(f"its {what} is not layers that were added to the {packs} packs before it")
        layers |= {*own}
    if packs != gdist["packs"]:
        raise SchemaError(f"its packs is {gdist['packs']}, and its additions have {packs}")
    if sorted(layers) != gdist["identity"]["layers"]:
        raise SchemaError(f"its identity.layers is {gdist['identity']['layers']}, and its additions have others")


def _require_ascending(what: str, layers: Sequence[int]) -> None:
    if any(first >= second for first, second in pairwise(layers)):
        raise SchemaError(f"its {what} is {layers}; it must be in ascending order, each layer once")


def require_arrays(specs: Mapping[str, Any], packs: int, described: Any) -> None:
    """Check what the root document says of the arrays: exactly what follows from the identity, in gdist's own codecs.

    Args:
        specs: what follows: name → ArraySpec.
        described: ``consolidated_metadata`` of the root document.
    """
    documents = described.get("metadata") if isinstance(described, dict) else None
    if not isinstance(documents, dict):
        raise SchemaError("its consolidated_metadata lacks metadata")
    for name, spec in specs.items():
        if spec.width > MAX_WIDTH:
            raise SchemaError(f"a row of {name} has {spec.width} numbers; {MAX_WIDTH} are possible")
        if spec.pack_bytes > MAX_SHARD_BYTES:
            raise SchemaError(f"a pack of {name} has {spec.pack_bytes} bytes; {MAX_SHARD_BYTES} are possible")
        require_array(name, spec, packs, documents.get(name))
    others = {each for each, document in documents.items() if _node_type(document) != "group"} - specs.keys()
    if others:
        raise SchemaError(f"it describes {min(others)!r:.80}, which is no array of this cache")


def require_array(name: str, spec: Any, packs: int, document: Any) -> None:
    """Check one array's metadata."""
    if not isinstance(document, dict):
        raise SchemaError(f"it does not describe the array {name}")
    shape = [packs * spec.pack_rows, spec.width]
    if document.get("shape") != shape:
        raise SchemaError(f"it gives {name} the shape {document.get('shape')!r:.60}; it must be {shape}")
    fill = document.get("fill_value")
    kind = document.get("node_type"), document.get("data_type")
    if kind != ("array", spec.dtype) or layout_of(document) != spec.layout:
        raise SchemaError(f"it does not describe {name} as gdist stores it (type, chunks, codecs)")
    if type(fill) is bool or (fill != "NaN" if spec.fill_value != spec.fill_value else fill != spec.fill_value):
        raise SchemaError(f"it gives {name} the fill value {fill!r:.40}; it must be {spec.fill_value}")


def _node_type(document: Any) -> Any:
    return document.get("node_type") if isinstance(document, dict) else None


def require_receipt(
    found: Any, pack: int, utterances: int, layers: Iterable[int], limits: Mapping[str, int]
) -> dict[str, Any]:
    """Check a receipt.

    Args:
        pack, utterances, layers: of its task.
        limits: key of each shard of the task → the most bytes that it can have.
    """
    conform(found, ReceiptDocument)
    receipt: dict[str, Any] = found
    if receipt["pack"] != pack:
        raise SchemaError(f"it is the receipt of pack {receipt['pack']}")
    if receipt["utterances"] != utterances:
        raise SchemaError(f"its utterances is {receipt['utterances']}; the pack has {utterances}")
    objects = receipt["objects"]
    if objects.keys() != limits.keys():
        lacking, more = sorted(limits.keys() - objects.keys()), sorted(objects.keys() - limits.keys())
        raise SchemaError(f"it says nothing about {lacking[0]}" if lacking else f"it lists {more[0]!r:.80}")
    for key, limit in limits.items():
        if objects[key]["bytes"] > limit:
            raise SchemaError(f"it says that {key} has {objects[key]['bytes']} bytes; {limit} are possible")
    if (own := {f"{layer:02d}" for layer in layers}) != receipt["statistics"]["layers"].keys():
        raise SchemaError(f"its statistics.layers is not of {', '.join(sorted(own))}")
    return receipt


def require_head(found: Any, addition: Mapping[str, Any], names: Iterable[str] | None) -> dict[str, Any]:
    """Check the sealed document of an addition's summary; ``names`` are the arrays of the addition, if known."""
    if isinstance(found, dict) and found.get("addition") != addition:
        raise SchemaError("it is the summary of another addition")
    conform(found, Head)
    head: dict[str, Any] = found
    if head["packs"] != (packs := len(range(*addition["packs"]))):
        raise SchemaError(f"its packs is {head['packs']}; its addition has {packs}")
    if names is not None and head["bytes"].keys() != set(names):
        raise SchemaError("its bytes is not of the arrays of its addition")
    return head
