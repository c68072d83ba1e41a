"""What makes a run the run that it is: its config, but for fields that change nothing, and what it was begun with."""

from collections.abc import Collection, Mapping
from typing import Any

from gdist.pipeline.config import TomlTables

# Fields that may change when a run is resumed, without changing what is computed (the device: except the last bits).
FREE_FIELDS = {
    "train": {
        "checkpoint_every",
        "deterministic",
        "device",
        "keep_checkpoints",
        "keep_every",
        "log_every",
        "peer_timeout",
    }
}


def began_with(provenance: Mapping[str, Any]) -> str:
    """Whose weights a run began with, as it is typed; empty where it began with its teacher's."""
    start = provenance.get("start")
    return f"{start['folder']}@{start['step']}" if start and "step" in start else start["folder"] if start else ""


def given_caches(provenance: Mapping[str, Any]) -> list[str]:
    """What is typed after each ``--cache``: the location of the cache, or those of several with their names."""
    several = [f"{each['name']}={each['uri']}" for each in provenance.get("caches", ())]
    return several or [str(provenance["cache"])]


def identifying(tables: TomlTables, may_change: Collection[str] = ()) -> TomlTables:
    """The fields of a resolved config that change what is computed: all but :data:`FREE_FIELDS`, and but those of
    [train] that ``may_change``."""
    free = FREE_FIELDS | {"train": FREE_FIELDS["train"] | set(may_change)}
    return {
        table: {key: value for key, value in fields.items() if key not in free.get(table, set())}
        for table, fields in tables.items()
    }
