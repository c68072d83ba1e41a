"""A manifest's utterances by id, made one by one as they are asked for: a large manifest stays a table."""

from collections.abc import Iterator, Mapping
from functools import cached_property

import pyarrow as pa

from gdist.pipeline.ids import Ids
from gdist.pipeline.manifest.table import Manifest, Utterance


class ById(Mapping[str, Utterance]):
    """Id → utterance, in the manifest's order."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.ids = ids_of(manifest)

    @cached_property
    def _rows(self) -> Ids:
        return Ids(self.ids)

    def __getitem__(self, name: str) -> Utterance:
        return self.manifest.utterance(self._rows.row(name))

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return (name.as_py() for name in self.ids)

    def __len__(self) -> int:
        return len(self.ids)


def ids_of(manifest: Manifest) -> pa.Array:
    """Return all ids as one array; of more than 2 GB, with 64-bit offsets."""
    column = manifest.table["id"]
    large = column.nbytes >= 2**31
    return (column.cast(pa.large_string()) if large else column).combine_chunks()
