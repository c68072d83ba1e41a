"""A probe of your own: which accent is spoken, tested on speakers who are not in the training split.

gdist eval runs/first --probes ks,own_probe.py:Accent

The manifest's column ``accent`` contains the answers. `--probes label:accent` classifies the values of a column
without any file. A class can decide more: here, which utterances take part, and which accents.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gdist.pipeline.cache import Entry
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.evaluate.probes.base import Examples, check, labelled
from gdist.stages.evaluate.probes.linear import LinearProbe

MIN_EXAMPLES = 2  # of training; an accent with fewer is left out


@dataclass(frozen=True)
class Accent(LinearProbe):
    """A linear layer on the mean over time, scored by accuracy: ``run`` is inherited from ``LinearProbe``.

    A probe of another form needs the members of :class:`gdist.stages.evaluate.probes.base.Probe`, and no base class.
    """

    name: str = "accent"
    title: str = "accent"
    label: str = "accent"
    new_voices: bool = True
    min_samples: int = SAMPLE_RATE // 2  # half a second: too little to recognize an accent from less

    def choose(self, splits: Mapping[str, Sequence[Entry]]) -> Examples:
        """The utterances that take part, with their answers, by split."""
        found = labelled(splits, self.label, self.min_samples)
        counts = Counter(example.answer for example in found["train"])
        kept = {split: [e for e in examples if counts[e.answer] >= MIN_EXAMPLES] for split, examples in found.items()}
        return check(self.name, kept) if any(kept.values()) else kept
