"""Early stopping: every point trains to a rung, and only the best of them go on (`[stopping]` of a sweep's file).

[stopping]
method = "halving"
first = 100
"""

import math
from dataclasses import dataclass
from typing import Literal

from gdist.pipeline.config import require


@dataclass(frozen=True)
class Stopping:
    """The table ``[stopping]``.

    Attributes:
        first: the step of the first rung; each further one is at ``factor`` times the steps of the one before.
        rungs: how many there are at most; 0 is as many as come before the last step.
        factor: the best 1/factor of a rung's points go on, at least one.
    """

    method: Literal["halving", "hyperband"] = "halving"
    first: int = 0
    rungs: int = 0
    factor: int = 3

    def __post_init__(self) -> None:
        require(self.first >= 1, f"stopping.first = {self.first}: must be 1 or more", "first = 100, a step")
        require(self.rungs >= 0, f"stopping.rungs = {self.rungs}: must be 0 (as many as fit) or more")
        require(self.factor >= 2, f"stopping.factor = {self.factor}: must be 2 or more")

    def steps(self, last: int) -> list[int]:
        """The steps of the rungs that come before the step ``last``."""
        fitting = max(math.ceil(math.log(max(last / self.first, 1), self.factor) - 1e-9), 0)
        return [self.first * self.factor**rung for rung in range(min(fitting, self.rungs or fitting))]
