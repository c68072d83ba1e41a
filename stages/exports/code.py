"""The student's own source files as one flat folder of modules, which run without gdist."""

import ast
import inspect
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

_OURS = re.compile(r"^from gdist\.stages(?:\.students)?\.(\w+) import ", re.MULTILINE)
NEEDED = ("gdist.stages.frontend", "gdist.stages.students.layer", "gdist.stages.students.base")
HEAD = "gdist.stages.students.classification"


def write_code(student: str, folder: Path, replaced: dict[str, str] | None = None, head: bool = True) -> list[str]:
    """Write the modules of ``STUDENTS[student]`` with imports of one another made relative.

    Args:
        replaced: text → text in every module, such as another library's name.
        head: with what audio classification needs.

    Returns:
        the files' names.
    """
    modules = [*NEEDED, *([HEAD] if head else []), f"gdist.stages.students.{student}"]
    names = []
    for module in modules:
        source = _OURS.sub(r"from .\1 import ", inspect.getsource(import_module(module)))
        if not head:
            source = _without_head(source)
        for old, new in (replaced or {}).items():
            source = source.replace(old, new)
        names.append(f"{module.rpartition('.')[2]}.py")
        (folder / names[-1]).write_text(source, encoding="utf-8")
    return names


def _without_head(source: str) -> str:
    """Without the class for audio classification, and its import."""
    drop = [
        node
        for node in ast.parse(source).body
        if (isinstance(node, ast.ClassDef) and node.name.endswith("ForAudioClassification"))
        or (isinstance(node, ast.ImportFrom) and node.module == "classification")
    ]
    lines = source.splitlines(keepends=True)
    for node in reversed(drop):
        del lines[node.lineno - 1 : node.end_lineno]
    return "".join(lines).rstrip() + "\n"


def imports(paths: Iterable[Path]) -> set[str]:
    """The packages that source files import: everything but one another."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    return found
