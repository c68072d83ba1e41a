"""A manifest's utterances by id, made one by one as they are asked for: a large manifest stays a table."""

import pyarrow as pa

from gdist.pipeline.ids import ById
from gdist.pipeline.manifest.table import Manifest, Utterance


def by_id(manifest: Manifest) -> ById[Utterance]:
    """Return id → utterance, in the manifest's order."""
    column = manifest.table["id"]
    if column.nbytes >= 2**31:  # more than 32-bit offsets reach
        column = column.cast(pa.large_string())
    return ById(column.combine_chunks(), manifest.utterance)
