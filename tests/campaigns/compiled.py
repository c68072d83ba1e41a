"""`make compiled`: with `train.compile` a student learns as it does without.

This needs a C++ compiler and takes a minute.
"""

from pathlib import Path

import pytest
from test_train import short

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading.loader import Loader
from gdist.stages.train.learner import Learner
from gdist.stages.train.student_store import build_student


def test_compiled_learns_as_uncompiled(tiny_cache: Path) -> None:
    """The losses agree. One utterance is enough: each shape of mask is compiled separately, which takes a while."""
    cache = Cache.open(str(tiny_cache))
    losses = []
    for compiled in (False, True):
        config = short("distilhubert", student__dropout=0.0, train__compile=compiled, student__num_layers=1)
        learner = Learner(build_student(cache, config), config)
        selection = learner.objective.validation_selection()
        batch = Loader(cache, [], selection, 8.0).read([(cache.entries[0], 0, 30)], selection)
        losses.append([learner.step(number, [batch])[0] for number in (1, 2, 3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
