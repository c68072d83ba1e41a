"""A cache as used in a notebook: one utterance, by its id.

Axes: T frames, D features, S samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.ledger import Ledger
from gdist.pipeline.errors import CacheError

Span = tuple[Entry, int, int]
"""(utterance, first frame within it, number of frames)"""


class ByName(Ledger, ABC):
    """The methods of :class:`gdist.pipeline.cache.Cache` for people, in addition to those for loaders."""

    @abstractmethod
    def hidden(
        self, layer: int, spans: Sequence[Span], device: str = "cpu", out: Sequence[Tensor] | None = None
    ) -> list[Tensor]: ...

    @abstractmethod
    def waveform(self, spans: Sequence[Span]) -> list[np.ndarray[Any, Any]]: ...

    @property
    def utterances(self) -> Mapping[str, Entry]:
        """Id → the utterance's lengths and labels, in the order of the manifest."""
        return self.entries.by_id

    def layer(self, utterance: str, layer: int) -> Tensor:
        """Read one layer of one utterance, float32 [T, D]; layer 0 is the first Transformer layer's input.

        Raises:
            CacheError: the cache does not contain the utterance or the layer, or the utterance could not be used.
            CacheDamagedError: its bytes are missing or torn.
        """
        return self.hidden(layer, [self._whole(utterance)])[0]

    def audio(self, utterance: str) -> np.ndarray[Any, np.dtype[np.int16]]:
        """Read the teacher's input samples of one utterance, int16 [S] at 16 kHz. Raises as :meth:`layer` does."""
        return self.waveform([self._whole(utterance)])[0]

    def _whole(self, utterance: str) -> Span:
        entry = self.utterances.get(utterance)
        if entry is None:
            raise CacheError(f"{self.uri} contains no utterance {utterance!r}", "cache.utterances lists all ids")
        if entry.pack not in self._quarantines:
            self._quarantines[entry.pack] = self.quarantine(entry.pack)
        reason = entry.problem or self._quarantines[entry.pack].get(utterance)
        if reason is not None:
            raise CacheError(f"utterance {utterance} of {self.uri} could not be used: {reason}")
        return entry, 0, entry.num_frames

    @cached_property
    def _quarantines(self) -> dict[int, dict[str, str]]:
        """Pack → its quarantine, for the packs read so far."""
        return {}
