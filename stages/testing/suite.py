"""What the suites share: cases without pytest's decorators, and the check that something is refused."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import nn


class Suite:
    """Test methods; a subclass called ``Test…``, which pytest finds by this name, says what is tested."""

    def cases(self) -> Mapping[str, Iterable[Any]]:
        """Return the name of a test's argument → the values that it takes one after another."""
        return {}

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run each test once for every case of each of its arguments; this is pytest's hook."""
        for name, values in self.cases().items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, list(values))


def skip(reason: str) -> NoReturn:
    """Skip this test. pytest is imported only here: it runs the tests, but is not a dependency."""
    import pytest

    pytest.skip(reason)


@contextmanager
def refused(kind: type[Exception], says: str) -> Iterator[None]:
    """Require that the ``with`` block raises ``kind``, with a message that ``says`` matches."""
    try:
        yield
    except kind as error:
        assert re.search(says, str(error)), f"{kind.__name__} says {str(error)!r} instead of {says!r}"
    else:
        raise AssertionError(f"nothing was raised; expected {kind.__name__} with {says!r}")


@torch.no_grad()
def disturb(module: nn.Module) -> None:
    """Change all parameters as training would, so that none stays at an initial zero or one."""
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
