"""A cache as a notebook asks for it: one utterance, by its name.

Axes: T frames, D features, S samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from gdist.pipeline.cache.layout import Entry
from gdist.pipeline.errors import CacheError

Span = tuple[Entry, int, int]
"""(utterance, first frame within it, number of frames)"""


class ByName(ABC):
    """What :class:`gdist.pipeline.cache.Cache` has for people, on top of what it has for loaders."""

    entries: list[Entry]

    @property
    @abstractmethod
    def uri(self) -> str: ...

    @abstractmethod
    def quarantine(self, pack: int | None = None) -> dict[str, str]: ...

    @abstractmethod
    def hidden(
        self, layer: int, spans: Sequence[Span], device: str = "cpu", out: Sequence[Tensor] | None = None
    ) -> list[Tensor]: ...

    @abstractmethod
    def waveform(self, spans: Sequence[Span]) -> list[np.ndarray[Any, Any]]: ...

    @cached_property
    def utterances(self) -> dict[str, Entry]:
        """Id → its lengths and labels, in the order of the manifest."""
        return {entry.id: entry for entry in self.entries}

    def layer(self, utterance: str, layer: int) -> Tensor:
        """One hidden state of one utterance, float32 [T, D]; layer 0 is what the first Transformer layer was given.

        Raises:
            CacheError: the cache does not hold the utterance, or the layer, or the utterance could not be used.
            CacheDamagedError: its bytes are missing or torn.
        """
        return self.hidden(layer, [self._whole(utterance)])[0]

    def audio(self, utterance: str) -> np.ndarray[Any, np.dtype[np.int16]]:
        """The samples the teacher heard of one utterance, int16 [S] at 16 kHz. Raises as :meth:`layer` does."""
        return self.waveform([self._whole(utterance)])[0]

    def _whole(self, utterance: str) -> Span:
        entry = self.utterances.get(utterance)
        if entry is None:
            raise CacheError(f"{self.uri} holds no utterance {utterance!r}", "cache.utterances has all their ids")
        if entry.pack not in self._left_out:
            self._left_out[entry.pack] = self.quarantine(entry.pack)
        reason = entry.problem or self._left_out[entry.pack].get(utterance)
        if reason is not None:
            raise CacheError(f"utterance {utterance} of {self.uri} could not be used: {reason}")
        return entry, 0, entry.num_frames

    @cached_property
    def _left_out(self) -> dict[int, dict[str, str]]:
        """Pack → its quarantine, of the packs that were asked for."""
        return {}
