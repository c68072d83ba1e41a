"""What the suites share: cases without pytest's decorators, and the check that something is refused."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import nn


class Suite:
    """Test methods, for a class of one's own that names what is tested. pytest finds that class by its ``Test…``."""

    def cases(self) -> Mapping[str, Iterable[Any]]:
        """The values that a test's argument of some name takes one after another."""
        return {}

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """pytest's hook: each test runs once for every case of each of its arguments."""
        for name, values in self.cases().items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, list(values))


def skip(reason: str) -> NoReturn:
    """This test does not apply. pytest is imported here: it is what runs the tests, and no dependency."""
    import pytest

    pytest.skip(reason)


@contextmanager
def refused(kind: type[Exception], says: str) -> Iterator[None]:
    """What is inside must raise ``kind``, with a message that ``says`` matches."""
    try:
        yield
    except kind as error:
        assert re.search(says, str(error)), f"{kind.__name__} says {str(error)!r}, and not {says!r}"
    else:
        raise AssertionError(f"nothing was refused: expected {kind.__name__}, {says!r}")


@torch.no_grad()
def disturb(module: nn.Module) -> None:
    """As after some training: nothing is zero or one by chance."""
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
