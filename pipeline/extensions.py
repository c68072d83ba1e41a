"""Tables of named objects: gdist's own rows, and the rows that the user's files and installed packages add.

A file is named by its path, ``FILE.py:NAME`` (own_files.py). A package announces its objects through entry points.
"""

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from gdist.pipeline.config import did_you_mean
from gdist.pipeline.errors import ConfigError
from gdist.pipeline.own_files import Extension, extension_behind, forget_names, is_reference

__all__ = ["Extension", "Registry", "enter", "extension_behind", "forget", "instance", "is_reference", "use"]

_tables: list["Registry[Any]"] = []


def instance(found: Any, of: type = object) -> Any:
    """Return ``found`` itself or, if it is a subclass of ``of``, an instance made without arguments.

    Raises:
        TypeError: the class cannot be instantiated without arguments.
    """
    if not (isinstance(found, type) and issubclass(found, of)):
        return found
    try:
        return found()
    except Exception as error:
        raise TypeError(f"{found.__name__}() cannot be called without arguments: {error}") from error


class Registry[T](Mapping[str, T]):
    """A table of named rows: gdist's own, those from files that the user named, and those from installed packages.

    Args:
        noun: what a row is, for messages, such as ``student``.
        group: the entry points through which installed packages announce rows, such as ``gdist.students``.
        rows: gdist's own rows, which no package can replace.
        accept: makes a row from an object of a file or a package, or raises TypeError with what is expected.
        key: returns the name that a row must have, for tables in which names cannot be chosen freely.
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
        self._from_files: dict[str, tuple[Extension, T]] = {}
        self._from_packages: dict[str, T] = {}
        _tables.append(self)

    def __getitem__(self, name: str) -> T:
        if name in self._from_files:
            return self._from_files[name][1]
        if name in self.own:
            return self.own[name]
        if name not in self._from_packages:
            self._from_packages[name] = self._announced_row(self._announced[name])
        return self._from_packages[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.own, **self._from_files, **self._announced})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def find(self, name: str, said: str, copy: str = "path/to") -> T:
        """Return the row called ``name``.

        Args:
            said: how the name was given, for the message: ``--student lstm``.
            copy: the folder that contains the required file, if known; it is used in the hint.

        Raises:
            ConfigError: there is no such row, or it is an object of a file that was not named in this command.
        """
        if name in self:
            return self[name]
        if is_reference(name):
            raise ConfigError(
                f"{said}: gdist runs a file only when you name it, and this command did not", f"--use {copy}/{name}"
            )
        hint = "name an object in your own file as FILE.py:NAME" if {":", "/"} & {*name} else did_you_mean(name, self)
        raise ConfigError(f"{said}: there is no such {self.noun}", hint)

    def use(self, typed: str) -> str:
        """Enter the object that the user typed, and return its name from now on: for a file, without the folders.

        Raises:
            ConfigError: the file cannot be run, or its object does not fit this table.
        """
        if not is_reference(typed):
            return typed
        extension = Extension.read(typed)
        return self._keep(extension, self._row(extension.load(), extension.name))

    def enter(self, extension: Extension) -> None:
        """Run a file and enter its object as a row.

        Raises:
            TypeError: the object does not fit this table.
            ConfigError: the file cannot be run.
        """
        self._keep(extension, self._accept(extension.load()))

    def forget(self) -> None:
        """Remove all rows that came from files."""
        self._from_files.clear()

    def extension(self, name: str) -> Extension | None:
        """Return the file behind a row, if there is one."""
        return self._from_files[name][0] if name in self._from_files else None

    def package(self, name: str) -> dict[str, str]:
        """Return the package behind a row, and its version; empty for gdist's own rows and those of files."""
        if name in self._from_files or name in self.own or name not in self._announced:
            return {}
        package = self._announced[name][0].dist
        return {} if package is None else {"package": package.name, "version": package.version}

    @contextmanager
    def lent(self, name: str, found: Any) -> Iterator[T]:
        """For the duration of a ``with`` block, make ``found`` the row called ``name``, whatever its origin.

        Raises:
            TypeError: ``found`` does not fit this table; the message says what is expected.
        """
        row, before = self._accept(found), dict(self.own)
        self.own[name] = row
        try:
            yield row
        finally:
            self.own = before

    def _keep(self, extension: Extension, row: T) -> str:
        name = self._key(row) if self._key else extension.name
        self._from_files[name] = extension, row
        return name

    def _row(self, found: Any, origin: str) -> T:
        try:
            return self._accept(found)
        except TypeError as error:
            raise ConfigError(f"{origin} is not a valid {self.noun}: {error}") from error

    @cached_property
    def _announced(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        points: dict[str, list[importlib.metadata.EntryPoint]] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            points.setdefault(point.name, []).append(point)
        return points

    def _announced_row(self, points: list[importlib.metadata.EntryPoint]) -> T:
        point, *others = points
        package = point.dist.name if point.dist else point.value
        if others:
            names = " and ".join(sorted(p.dist.name if p.dist else p.value for p in points))
            raise ConfigError(
                f"several installed packages announce the {self.noun} {point.name!r}: {names}",
                "uninstall all but one",
            )
        try:
            found = point.load()
        except Exception as error:
            raise ConfigError(
                f"the {self.noun} {point.name!r} of the package {package} cannot be loaded: "
                f"{type(error).__name__}: {error}",
                f"reinstall or uninstall {package}",
            ) from error
        row = self._row(found, f"{point.name!r} of the package {package}")
        if self._key is not None and self._key(row) != point.name:
            raise ConfigError(
                f"the package {package} announces the {self.noun} {self._key(row)!r} as {point.name!r}",
                f"in its entry points, call it {self._key(row)}",
            )
        return row


def forget() -> None:
    """Begin a command: forget the files that earlier commands of this process named."""
    forget_names()
    for table in _tables:
        table.forget()


def use(references: Iterable[str], *registries: Registry[Any]) -> None:
    """Run the files that ``--use`` names, and enter each object into the first table that it fits.

    Raises:
        ConfigError: a file cannot be run, or its object fits no table.
    """
    enter([Extension.read(reference) for reference in references], *registries)


def enter(extensions: Iterable[Extension], *registries: Registry[Any]) -> None:
    """Do the same as :func:`use` for files that were already read, possibly by another process."""
    for extension in extensions:
        refusals = []
        for registry in registries:
            try:
                registry.enter(extension)
                break
            except TypeError as error:
                refusals.append(f"  not a valid {registry.noun}: {error}")
        else:
            raise ConfigError("\n".join([f"this command cannot use {extension.name}", *refusals]))
