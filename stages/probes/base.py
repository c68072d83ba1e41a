"""What a probe is: a small task solved on frozen features, SUPERB's way (arXiv 2105.01051).

Axes: N utterances, K hidden states, D features, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gdist.pipeline.errors import GdistError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class ProbeResult:
    """What a probe measured.

    Attributes:
        metric, value: for example "accuracy" and 0.87, on the test split.
        test_items, classes: how many test utterances and classes the value stands on.
        learning_rate: the one the validation split chose.
        layer_weights: the learned weight of each hidden state, summing to 1.
        shuffled: the same metric after training on shuffled labels, near chance unless something leaks; None
            when the control was not asked for.
    """

    metric: str
    value: float
    test_items: int
    classes: int
    learning_rate: float
    layer_weights: list[float]
    shuffled: float | None = None


class Probe(Protocol):
    """One task. ``label`` is the manifest column that holds the answers; ``metric`` names what ``value`` is."""

    name: str
    label: str
    metric: str

    def run(
        self,
        features: Mapping[str, Tensor],
        labels: Mapping[str, Sequence[str]],
        seed: int = 0,
        control: bool = False,
    ) -> ProbeResult:
        """Train on the split "train", choose on "valid", measure on "test".

        Args:
            features: for each split the frozen upstream's hidden states, averaged over time: ``[N, K, D]``.
            labels: for each split N labels.
            seed: of the control's shuffle and of whatever else the probe draws.
            control: also run with shuffled labels and fill in ``shuffled``.

        Raises:
            GdistError: the data cannot support the task: an empty split, one class, shapes that do not fit.
        """
        ...


def check_labels(name: str, labels: Mapping[str, Sequence[str]]) -> list[str]:
    """Check that a probe's labels support it, and return its classes, sorted: those the training split knows.

    Raises:
        GdistError: a split without examples, a single class, or a label training never saw.
    """
    for split in SPLITS:
        if not labels.get(split):
            raise GdistError(
                f"the probe `{name}` has no examples in the split `{split}`",
                "label them in the manifest's columns (a class and `split`), or leave the probe away with --probes",
            )
    classes = sorted(set(labels["train"]))
    if len(classes) < 2:
        raise GdistError(
            f"the probe `{name}` cannot tell one class apart: its training split has {classes[0]!r} only"
        )
    unknown = {label for split in ("valid", "test") for label in labels[split]} - set(classes)
    if unknown:
        raise GdistError(f"the probe `{name}` is tested on {sorted(unknown)}, which its training split never shows")
    return classes


def check(name: str, features: Mapping[str, Tensor], labels: Mapping[str, Sequence[str]]) -> list[str]:
    """:func:`check_labels`, and that the features fit: for each split one [K, D] an example."""
    classes = check_labels(name, labels)
    for split in SPLITS:
        shape, found = tuple(features[split].shape) if split in features else None, len(labels[split])
        if shape is None or len(shape) != 3 or shape[0] != found or shape[1:] != features["train"].shape[1:]:
            raise GdistError(f"the probe `{name}` has {found} {split} labels for features of shape {shape}")
    return classes
