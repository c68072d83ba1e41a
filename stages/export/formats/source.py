"""The code that an export ships: a student's modules as a flat folder that does not need gdist.

Only imports change: ``from gdist.stages.students.base import Student`` becomes ``from .base import Student``, and
that module is included. So is the user's own file of a student, or the modules of the package that announced it.
"""

import ast
import importlib
import importlib.util
import inspect
import io
import sys
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from gdist.pipeline.errors import ExportError
from gdist.pipeline.extensions import extension_behind

OURS = "gdist"
HEAD = "# SPDX-License-Identifier: Apache-2.0\n# Written by gdist {version}: make changes there, not here.\n"


def flat_sources(
    modules: list[str], instead: Mapping[str, str] | None = None, taken: Collection[str] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the sources of ``modules``, and of all that they import from gdist and from their own packages.

    Args:
        modules: names of modules.
        instead: a third-party module → the module of gdist that takes its place.
        taken: names that no module may have in the folder.

    Returns:
        file name → text, and module → its name in the folder.

    Raises:
        ExportError: a module imports in a way that cannot be made relative.
    """
    instead = instead or {}
    roots = {OURS, *(module.partition(".")[0] for module in modules)}
    found: dict[str, list[_Import]] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = list(_imports(module, roots, instead))
            waiting += [origin for each in found[module] for origin in each.origins]
    names: dict[str, str] = {}
    # gdist's own modules keep their names; other modules may have to be renamed.
    for module in sorted(found, key=lambda module: (module.partition(".")[0] != OURS, module)):
        name = _short_name(module)
        free = name not in taken and name not in names.values()
        names[module] = name if free else _long_name(module)
    return {f"{names[module]}.py": _rewritten(module, found[module], names) for module in sorted(found)}, names


class _Import:
    """One import statement to be rewritten.

    Attributes:
        node: the statement.
        origins: module → what is imported from it, as written: ``Student as Base``.
    """

    def __init__(self, node: ast.ImportFrom, origins: Mapping[str, list[str]]) -> None:
        self.node, self.origins = node, origins


def _imports(module: str, roots: Collection[str], instead: Mapping[str, str]) -> Iterator[_Import]:
    """Yield the statements of ``module`` that import what must be included.

    Raises:
        ExportError: a statement imports a module instead of importing from it, or a name that ``instead`` lacks.
    """
    for node in ast.walk(ast.parse(_source_of(module))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in roots or alias.name in instead:
                    _refuse(module, f"import {alias.name}", f"from {alias.name} import …")
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(module, node)
            provided = instead.get(source)
            if (provided or source).partition(".")[0] not in roots:
                continue
            origins: dict[str, list[str]] = {}
            for alias in node.names:
                if provided and not hasattr(importlib.import_module(provided), alias.name):
                    raise ExportError(
                        f"{_title(module)} needs {alias.name} from {source}, which this format does not include",
                        "put the code that it needs into the student's own file, or export in another format",
                    )
                origin = provided or _origin(source, alias.name)
                if origin == f"{source}.{alias.name}":
                    _refuse(module, f"from {source} import {alias.name}", f"from {origin} import …")
                origins.setdefault(origin, []).append(
                    f"{alias.name} as {alias.asname}" if alias.asname else alias.name
                )
            yield _Import(node, origins)


def _refuse(module: str, written: str, better: str) -> None:
    raise ExportError(f"{_title(module)} says `{written}`, which cannot be made relative", f"write `{better}`")


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """Return the module that a statement of ``module`` imports from."""
    package = module if _is_package(module) else module.rpartition(".")[0]
    written = "." * node.level + (node.module or "")
    return importlib.util.resolve_name(written, package) if node.level else written


def _origin(module: str, name: str) -> str:
    """Return the module that defines ``name``, which ``module`` may only re-export."""
    if not _is_package(module):
        return module
    for node in ast.parse(_source_of(module)).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name and alias.asname in (None, alias.name):
                    return _origin(_absolute(module, node), name)
    if importlib.util.find_spec(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    return module


def _is_package(module: str) -> bool:
    return extension_behind(module) is None and hasattr(importlib.import_module(module), "__path__")


@cache
def _source_of(module: str) -> str:
    extension = extension_behind(module)  # its source is as it was run: the file may have changed since
    if extension:
        return extension.source.decode("utf-8-sig")
    try:
        return inspect.getsource(importlib.import_module(module))
    except (OSError, TypeError) as error:  # a notebook, a prompt
        raise ExportError(f"{module} has no source file to export", "move the class to a file") from error


def _title(module: str) -> str:
    extension = extension_behind(module)
    return extension.file_name if extension else module


def _short_name(module: str) -> str:
    extension = extension_behind(module)
    return extension.path.stem if extension else module.split(".")[-1]


def _long_name(module: str) -> str:
    """Return the name for a module whose short name is already taken."""
    extension = extension_behind(module)
    return f"own_{extension.path.stem}" if extension else module.replace(".", "_")


def _rewritten(module: str, imports: list[_Import], names: Mapping[str, str]) -> str:
    """Return a module's source with relative imports."""
    source = _source_of(module)
    lines = list(io.StringIO(source, newline=None))  # as Python counts lines: a form feed does not end one
    for each in sorted(imports, key=lambda each: -each.node.lineno):
        node, first = each.node, lines[each.node.lineno - 1]
        if list(each.origins) == [_absolute(module, node)] and f"from {node.module} import" in first:
            (origin,) = each.origins
            lines[node.lineno - 1] = first.replace(f"from {node.module} ", f"from .{names[origin]} ", 1)
            continue
        indent = first[: len(first) - len(first.lstrip())]
        lines[node.lineno - 1 : node.end_lineno] = [
            f"{indent}from .{names[origin]} import {', '.join(taken)}\n" for origin, taken in each.origins.items()
        ]
    head = HEAD.format(version=version(OURS)) if module.partition(".")[0] == OURS else ""
    return head + "".join(lines)


@contextmanager
def imported(folder: Path, module: str) -> Iterator[ModuleType]:
    """Import a module from a flat folder for the duration of a ``with`` block.

    Raises:
        OSError: a file that was written to the folder cannot be found there any more, as it has lost its permissions.
    """
    package = ModuleType(f"export_{uuid.uuid4().hex}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    try:
        yield importlib.import_module(f"{package.__name__}.{module}")
    except ModuleNotFoundError as error:
        if (lost := error.name or "").startswith(f"{package.__name__}."):
            raise OSError(f"{lost.rpartition('.')[2]}.py cannot be read back") from error
        raise
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == package.__name__]:
            del sys.modules[name]
