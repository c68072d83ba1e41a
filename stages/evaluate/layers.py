"""From which layer a probe answered, and which systems answered from one and the same.

Some probes choose one layer. If a student's front-end is the teacher's, its layer 0 is the teacher's too. Where a
probe chooses that layer, the student's result is the teacher's own, shown once more: it says nothing about what the
student has learned, and it is no comparison with the teacher or with other such students.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

Evaluation = Mapping[str, Any]
"""What eval.json contains. Older ones have neither ``layer_0`` nor the probes' ``layer``."""

NOT_COMPARED = "not a comparison"
MAX_NAMED = 3  # systems that a note names before it counts the rest


def ranges(layers: Sequence[float]) -> str:
    """Format ascending layer numbers, with ranges for consecutive ones.

    >>> ranges([1, 2, 3, 7, 9, 10])
    '1–3, 7, 9–10'
    """
    runs = [[layer for _, layer in group] for _, group in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]:g}–{run[-1]:g}" if len(run) > 1 else f"{run[0]:g}" for run in runs)


def layer_read(result: Mapping[str, Any]) -> int | None:
    """The layer that a probe chose; None if it weighs several layers, or if there is only one state (log-mel).

    >>> layer_read({"layer": 7, "layer_weights": [0.0] * 7 + [1.0]}), layer_read({"layer_weights": [0.4, 0.6]})
    (7, None)
    >>> layer_read({"layer_weights": [0.0, 1.0]})  # of an older eval.json
    1
    """
    weights = result.get("layer_weights") or []
    if len(weights) == 1:
        return None
    if "layer" in result:
        layer: int | None = result["layer"]
        return layer
    return weights.index(1.0) if 1.0 in weights else None


def by_layer(found: dict[str, Any], layers: Sequence[int], num_layers: int) -> dict[str, Any]:
    """What a probe found on some hidden states, by the numbers of the layers that they are; others have no weight.

    >>> by_layer({"layer": 1, "layer_weights": [0.0, 1.0]}, [2, 3], 4)
    {'layer': 3, 'layer_weights': [0.0, 0.0, 0.0, 1.0, 0.0]}
    """
    if len(layers) == num_layers + 1:
        return found
    weights = dict(zip(layers, found["layer_weights"], strict=False))
    every = [weights.get(layer, 0.0) for layer in range(num_layers + 1)] if weights else []
    return found | {"layer": None if found["layer"] is None else layers[found["layer"]], "layer_weights": every}


def whose_layer_0(evaluation: Evaluation, config: Mapping[str, Mapping[str, Any]]) -> Literal["teacher", "own"]:
    """Whose layer 0 a student has: as eval.json says, or as the run's config implies where an older one does not."""
    if "layer_0" in evaluation:
        return "teacher" if evaluation["layer_0"] == "teacher" else "own"
    training = config.get("train", {})
    thaws = 0 < training.get("thaw_step", 0) <= training.get("steps", 0)
    return "teacher" if config.get("student", {}).get("frontend") == "frozen" and not thaws else "own"


@dataclass(frozen=True)
class Alike:
    """The systems that answered a probe from the teacher's layer 0, if there are at least two of them.

    Attributes:
        teacher: whether the teacher is one of them.
        students: the students among them.
        others: the students that answered from elsewhere, which can be compared.
    """

    teacher: bool = False
    students: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.students)

    def __contains__(self, student: str) -> bool:
        return student in self.students

    def renamed(self, names: Mapping[str, str]) -> "Alike":
        """The same with other names for the students."""
        return Alike(self.teacher, *(tuple(names[one] for one in each) for each in (self.students, self.others)))

    @property
    def who(self) -> str:
        """All of them in words, or "" if some students answered from elsewhere, or there are none."""
        return "" if self.others or not self else "all" if self.teacher else "all students"

    @property
    def note(self) -> str:
        """What must be said instead of a ranking; "" where nothing has to be.

        >>> Alike(True, ("a", "b")).note
        "all answered from the teacher's layer 0: not a comparison"
        >>> Alike(True, ("a",), ("b",)).note
        "teacher and a answered from the teacher's layer 0: not a comparison of these"
        """
        if not self:
            return ""
        named = [*["teacher"] * self.teacher, *self.students]
        rest = len(named) - MAX_NAMED
        last = named[-1] if rest <= 0 else f"{rest} more"
        listed = ", ".join(named[:-1] if rest <= 0 else named[:MAX_NAMED]) + f" and {last}"
        text = f"{self.who or listed} answered from the teacher's layer 0: {NOT_COMPARED}"
        return text if self.who else f"{text} of these"


def answered_alike(probe: str, systems: Mapping[str, Sequence[Evaluation]]) -> Alike:
    """Which of several students, each with one evaluation or several (seeds), answered ``probe`` from one layer 0.

    Args:
        systems: name → evaluations; a student counts if this is true of all of its evaluations with that probe.
    """
    with_probe = {
        name: [evaluation for evaluation in each if probe in (evaluation.get("probes") or {})]
        for name, each in systems.items()
    }
    probed = {name: found for name, found in with_probe.items() if found}
    alike = tuple(name for name, found in probed.items() if all(from_teachers_layer_0(one, probe) for one in found))
    of_teacher = [
        (evaluation.get("teacher") or {}).get("probes") or {} for found in probed.values() for evaluation in found
    ]
    teacher = any(layer_read(results[probe]) == 0 for results in of_teacher if probe in results)
    if len(alike) + teacher < 2 or not alike:
        return Alike()
    return Alike(teacher, alike, tuple(name for name in probed if name not in alike))


def from_teachers_layer_0(evaluation: Evaluation, probe: str) -> bool:
    """Whether a student, whose ``layer_0`` is known, answered a probe with what its teacher's front-end gives."""
    return evaluation.get("layer_0") == "teacher" and layer_read(evaluation["probes"][probe]) == 0
