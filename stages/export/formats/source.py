"""The code an export ships: our own modules as a flat folder that needs no gdist.

Only import lines change: ``from gdist.stages.students.base import Student`` becomes ``from .base import Student``,
and the module comes along.
"""

import ast
import importlib
import inspect
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

OURS = "gdist"
HEAD = "# SPDX-License-Identifier: Apache-2.0\n# Written by gdist {version}: changes belong there.\n"


def flat_sources(modules: list[str], instead: Mapping[str, str] | None = None) -> dict[str, str]:
    """File name → text of ``modules`` and of all of ours that they import.

    Args:
        modules: dotted names.
        instead: a module that someone else provides → the module of ours that takes its place.
    """
    instead = instead or {}
    sources: dict[str, str] = {}
    origins: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        name = _file_name(module)
        if name in sources:
            if origins[name] != module:
                raise ValueError(f"{module} and {origins[name]} cannot lie in one flat folder")
            continue
        origins[name] = module
        source = inspect.getsource(importlib.import_module(module))
        text, needed = _rewritten(source, instead)
        sources[name] = HEAD.format(version=version(OURS)) + text
        waiting += needed
    return dict(sorted(sources.items()))


def _rewritten(source: str, instead: Mapping[str, str]) -> tuple[str, list[str]]:
    """The source with relative imports, and the modules these want."""
    lines = source.splitlines(keepends=True)
    needed = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == OURS or alias.name in instead for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            module = instead.get(node.module, node.module)
            if module.split(".")[0] == OURS:
                needed.append(module)
                line = lines[node.lineno - 1]
                lines[node.lineno - 1] = line.replace(f"from {node.module} ", f"from .{module.split('.')[-1]} ", 1)
    return "".join(lines), needed


def _file_name(module: str) -> str:
    return module.split(".")[-1] + ".py"


@contextmanager
def imported(folder: Path, module: str) -> Iterator[ModuleType]:
    """A module of a flat folder, imported from there for the length of a ``with``."""
    package = ModuleType(f"export_{uuid.uuid4().hex}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    try:
        yield importlib.import_module(f"{package.__name__}.{module}")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == package.__name__]:
            del sys.modules[name]
