"""What is not gdist's own: objects of a file that the user names, ``FILE.py:NAME``, or of an installed package.

A file is run only because the user typed its path: never because a cache, a run or an export names it. Its bytes are
kept as they were when it was run, so what is recorded and copied is what ran. It is one file: what it imports is
installed, so that its digest tells all of it.
"""

import hashlib
import importlib.metadata
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from gdist.pipeline.config import did_you_mean
from gdist.pipeline.errors import ConfigError

_PREFIX = "gdist_extension_"
_run: dict[str, "Extension"] = {}  # module → the file behind it


@dataclass(frozen=True)
class Extension:
    """An object of a file.

    Attributes:
        name: ``FILE.py:NAME`` without the folders: what configs, runs and caches record.
        path: where the file was read.
        source: its bytes.
    """

    name: str
    path: Path
    source: bytes

    @classmethod
    def read(cls, reference: str) -> "Extension":
        """The object that ``reference``, ``path/to/FILE.py:NAME``, names; nothing is run yet.

        Raises:
            ConfigError: it names no object, or no file that can be read.
        """
        file, _, name = reference.rpartition(":")
        if not file.endswith(".py") or not name.isidentifier():
            raise ConfigError(
                f"{reference} names a file and no object in it", f"FILE.py:NAME, as in {reference}:MyClass"
            )
        path = Path(file).expanduser().absolute()
        try:
            return cls(f"{path.name}:{name}", path, path.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror or error}", "check the path") from error

    @property
    def file_name(self) -> str:
        return self.name.partition(":")[0]

    @property
    def sha256(self) -> str:
        """Of the file, in hex."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def record(self) -> dict[str, str]:
        """What a run or a cache notes of it."""
        return {"path": str(self.path), "sha256": self.sha256}

    def load(self) -> Any:
        """Run the file, once in a process, and give the object.

        Raises:
            ConfigError: the file cannot be run, or has no such object.
        """
        name = self.name.partition(":")[2]
        found = vars(self._module())
        if name not in found:
            own = [key for key, value in found.items() if getattr(value, "__module__", "") == self.module_name]
            raise ConfigError(f"{self.path} has no {name}", did_you_mean(name, own) if own else None)
        return found[name]

    @property
    def module_name(self) -> str:
        """The same for the same bytes, in every process."""
        return f"{_PREFIX}{self.sha256[:12]}_{self.path.stem}"

    def _module(self) -> ModuleType:
        known = sys.modules.get(self.module_name)
        if known is not None:
            return known
        module = ModuleType(self.module_name)
        module.__file__ = str(self.path)
        sys.modules[self.module_name] = module  # dataclasses and pickle look a class's module up there
        _run[self.module_name] = self
        try:
            exec(compile(self.source, str(self.path), "exec"), vars(module))
        except Exception as error:
            del sys.modules[self.module_name], _run[self.module_name]
            lines = [
                frame.lineno
                for frame in traceback.extract_tb(error.__traceback__)
                if frame.filename == str(self.path)
            ]
            where = f", line {lines[-1]}" if lines else ""
            hint = (
                "an extension is one file, and what it imports is installed"
                if isinstance(error, ImportError)
                else None
            )
            raise ConfigError(f"cannot run {self.path}{where}: {type(error).__name__}: {error}", hint) from error
        return module


def is_reference(name: str) -> bool:
    """Whether ``name`` is an object of a file rather than a row of a table."""
    return ".py:" in name or name.endswith(".py")


def extension_behind(module: str) -> Extension | None:
    """The file that the module of this name was made from, if it was a file that a user named."""
    return _run.get(module)


class Registry[T](Mapping[str, T]):
    """A table of things that go by a name: gdist's rows, those of installed packages, those of files that were named.

    Args:
        noun: what a row is, for messages: ``student``.
        group: the entry points by which installed packages announce theirs: ``gdist.students``.
        rows: gdist's own.
        accept: makes a row of what a file or a package offers, or raises TypeError, which says what is wanted.
        key: the name of a row that a file holds, where that is not ``FILE.py:NAME``.
    """

    def __init__(
        self,
        noun: str,
        group: str,
        rows: Mapping[str, T],
        accept: Callable[[Any], T],
        key: Callable[[T], str] | None = None,
    ) -> None:
        self.noun, self.group, self.own, self._accept, self._key = noun, group, dict(rows), accept, key
        self._extensions: dict[str, Extension] = {}
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name in self.own and name not in self._extensions:
            return self.own[name]
        if name not in self._loaded:
            self._loaded[name] = self._announced_row(self._announced[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.own, **dict.fromkeys(self._extensions), **dict.fromkeys(self._announced)})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def find(self, name: str, said: str) -> T:
        """The row called ``name``.

        Args:
            said: how the name was given, for the message: ``--student lstm``.

        Raises:
            ConfigError: there is none; or it is an object of a file that nobody named in this command.
        """
        if name in self:
            return self[name]
        if is_reference(name):
            raise ConfigError(
                f"{said}: gdist runs a file only when you name it, and this command did not",
                f"--use path/to/{name}",
            )
        raise ConfigError(f"{said}: there is no {self.noun} {name!r}", did_you_mean(name, self))

    def use(self, typed: str) -> str:
        """The name by which what the user typed is known from now on: a row's as it is, a file's without folders.

        Raises:
            ConfigError: the file cannot be run, or what it holds is no such thing.
        """
        if not is_reference(typed) or typed in self._extensions:
            return typed
        extension = Extension.read(typed)
        return self._keep(extension, self._row(extension.load(), typed))

    def extension(self, name: str) -> Extension | None:
        """The file behind a row, where there is one."""
        return self._extensions.get(name)

    def record(self, name: str) -> dict[str, str] | None:
        """Where a row comes from that is not gdist's own: a file and its digest, or a package and its version."""
        if name in self._extensions:
            return self._extensions[name].record
        if name in self.own or name not in self._announced:
            return None
        package = self._announced[name].dist
        return None if package is None else {"package": package.name, "version": package.version}

    def takes(self, extension: Extension) -> bool:
        """Make a row of what a file holds, if it is a thing of this table."""
        try:
            row = self._accept(extension.load())
        except TypeError:
            return False
        self._keep(extension, row)
        return True

    @contextmanager
    def lent(self, name: str, found: Any) -> Iterator[T]:
        """For the length of a ``with``, the row called ``name`` is the one that ``found`` makes, wherever it is from.

        Raises:
            TypeError: it is no such thing; the message says what is wanted.
        """
        row, before = self._accept(found), dict(self.own)
        self.own[name] = row
        try:
            yield row
        finally:
            self.own = before

    def _keep(self, extension: Extension, row: T) -> str:
        name = self._key(row) if self._key else extension.name
        self._extensions[name], self._loaded[name] = extension, row
        return name

    def _row(self, found: Any, origin: str) -> T:
        try:
            return self._accept(found)
        except TypeError as error:
            raise ConfigError(f"{origin} is no {self.noun}: {error}") from error

    @cached_property
    def _announced(self) -> dict[str, importlib.metadata.EntryPoint]:
        points: dict[str, importlib.metadata.EntryPoint] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            other = points.get(point.name)
            if other is not None and other.value != point.value:
                raise ConfigError(
                    f"two installed packages announce a {self.noun} {point.name!r}: {other.value} and {point.value}",
                    "uninstall one of them",
                )
            points[point.name] = point
        return points

    def _announced_row(self, point: importlib.metadata.EntryPoint) -> T:
        package = point.dist.name if point.dist else point.value
        try:
            found = point.load()
        except Exception as error:
            raise ConfigError(
                f"the {self.noun} {point.name!r} of the package {package} cannot be loaded: {error}",
                f"reinstall or uninstall {package}",
            ) from error
        return self._row(found, f"{point.name!r} of the package {package}")


def use(references: Iterable[str], *registries: Registry[Any]) -> None:
    """Run the files that ``--use`` names, and enter each object in the first table that it fits.

    Raises:
        ConfigError: a file cannot be run, or its object fits no table.
    """
    enter([Extension.read(reference) for reference in references], *registries)


def enter(extensions: Iterable[Extension], *registries: Registry[Any]) -> None:
    """:func:`use` of files that were read before, perhaps by another process."""
    for extension in extensions:
        if not any(registry.takes(extension) for registry in registries):
            nouns = [f"a {registry.noun}" for registry in registries]
            raise ConfigError(f"{extension.name} is not {' or '.join(nouns)}, which is what this command takes")
