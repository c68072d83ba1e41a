"""A probe of one's own: which accent is spoken, by voices that were not heard in training.

gdist eval runs/first --probes ks,own_probe.py:Accent

The manifest's column ``accent`` holds the answers. `--probes label:accent` tells the classes of a column apart
without any file; a class decides more: here which utterances take part, and which accents.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gdist.pipeline.cache.layout import Entry
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.evaluate.probes.base import Examples, check, labelled
from gdist.stages.evaluate.probes.linear import LinearProbe

MIN_EXAMPLES = 2  # of training; an accent with fewer is left out


@dataclass(frozen=True)
class Accent(LinearProbe):
    """Its ``run``, a linear layer on the mean over time and the accuracy, is the LinearProbe's.

    A probe that is none needs the members of :class:`gdist.stages.evaluate.probes.base.Probe`, and no base class.
    """

    name: str = "accent"
    title: str = "accent"
    label: str = "accent"
    new_voices: bool = True
    min_samples: int = SAMPLE_RATE // 2  # half a second: less tells no accent

    def choose(self, splits: Mapping[str, Sequence[Entry]]) -> Examples:
        """The utterances that take part, with their answers, by split."""
        found = labelled(splits, self.label, self.min_samples)
        heard = Counter(example.answer for example in found["train"])
        kept = {split: [e for e in examples if heard[e.answer] >= MIN_EXAMPLES] for split, examples in found.items()}
        return check(self.name, kept) if any(kept.values()) else kept
