"""The code an export ships: a student's modules as a flat folder that needs no gdist.

Only import lines change: ``from gdist.stages.students.base import Student`` becomes ``from .base import Student``,
and the module comes along. So does a student's own file, or the modules of the package that announced it.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from gdist.pipeline.errors import ExportError
from gdist.pipeline.extensions import extension_behind

OURS = "gdist"
HEAD = "# SPDX-License-Identifier: Apache-2.0\n# Written by gdist {version}: changes belong there.\n"


def flat_sources(modules: list[str], instead: Mapping[str, str] | None = None) -> dict[str, str]:
    """File name → text of ``modules``, and of all that they import of gdist and of their own packages.

    Args:
        modules: names of modules.
        instead: a module that someone else provides → the module of ours that takes its place.

    Raises:
        ExportError: two modules would have the same name in one flat folder.
    """
    instead = instead or {}
    roots = {OURS, *(module.partition(".")[0] for module in modules)}
    sources: dict[str, str] = {}
    origins: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        name = f"{flat_name(module)}.py"
        if name in sources:
            if origins[name] != module:
                raise ExportError(
                    f"{module} and {origins[name]} would both be {name} in the export, which is one flat folder",
                    f"rename yours: gdist has a {name} of its own",
                )
            continue
        origins[name] = module
        text, needed = _rewritten(module, roots, instead)
        sources[name] = HEAD.format(version=version(OURS)) + text if module.partition(".")[0] == OURS else text
        waiting += needed
    return dict(sorted(sources.items()))


def flat_name(module: str) -> str:
    """What a module is called in the flat folder."""
    extension = extension_behind(module)
    return extension.path.stem if extension else module.split(".")[-1]


def _source_of(module: str) -> str:
    extension = extension_behind(module)  # as it was when it was run: the file may have changed since
    if extension:
        return extension.source.decode()
    try:
        return inspect.getsource(importlib.import_module(module))
    except (OSError, TypeError) as error:  # a notebook, a prompt
        raise ExportError(
            f"{module} has no source file that could be exported", "move the class to a file"
        ) from error


def _rewritten(module: str, roots: set[str], instead: Mapping[str, str]) -> tuple[str, list[str]]:
    """A module's source with relative imports, and the modules these want."""
    source = _source_of(module)
    lines = source.splitlines(keepends=True)
    needed = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            wrong = [a.name for a in node.names if a.name.partition(".")[0] in roots or a.name in instead]
            if wrong:
                name = wrong[0]
                raise ExportError(
                    f"{module} says `import {name}`", f"write `from {name} import …`, which can be moved"
                )
        elif isinstance(node, ast.ImportFrom):
            written = "." * node.level + (node.module or "")
            name = importlib.util.resolve_name(written, module.rpartition(".")[0]) if node.level else written
            name = instead.get(name, name)
            if name.partition(".")[0] in roots:
                needed.append(name)
                line = lines[node.lineno - 1]
                lines[node.lineno - 1] = line.replace(f"from {written} ", f"from .{flat_name(name)} ", 1)
    return "".join(lines), needed


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
