"""Tables of what goes by a name: gdist's own rows, and those that files of the user's own and installed packages add.

A file is named by its path, ``FILE.py:NAME`` (own_files.py); a package announces what it has by entry points.
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
    """``found`` itself, or what it makes without arguments where it is a class derived from ``of``.

    Raises:
        TypeError: it cannot be made so.
    """
    if not (isinstance(found, type) and issubclass(found, of)):
        return found
    try:
        return found()
    except Exception as error:
        raise TypeError(f"{found.__name__}() cannot be made without arguments: {error}") from error


class Registry[T](Mapping[str, T]):
    """A table of things that go by a name: gdist's rows, those of files that were named, those of installed packages.

    Args:
        noun: what a row is, for messages: ``student``.
        group: the entry points by which installed packages announce theirs: ``gdist.students``.
        rows: gdist's own, which no package can replace.
        accept: makes a row of what a file or a package offers, or raises TypeError, which says what is wanted.
        key: the name that a row has to have, where that is not anyone's to choose.
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
        self._of_files: dict[str, tuple[Extension, T]] = {}
        self._of_packages: dict[str, T] = {}
        _tables.append(self)

    def __getitem__(self, name: str) -> T:
        if name in self._of_files:
            return self._of_files[name][1]
        if name in self.own:
            return self.own[name]
        if name not in self._of_packages:
            self._of_packages[name] = self._announced_row(self._announced[name])
        return self._of_packages[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.own, **self._of_files, **self._announced})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def find(self, name: str, said: str, copy: str = "path/to") -> T:
        """The row called ``name``.

        Args:
            said: how the name was given, for the message: ``--student lstm``.
            copy: the folder in which the file lies that is wanted, where that is known.

        Raises:
            ConfigError: there is none; or it is an object of a file that nobody named in this command.
        """
        if name in self:
            return self[name]
        if is_reference(name):
            raise ConfigError(
                f"{said}: gdist runs a file only when you name it, and this command did not", f"--use {copy}/{name}"
            )
        hint = "one in a file of yours is FILE.py:NAME" if {":", "/"} & {*name} else did_you_mean(name, self)
        raise ConfigError(f"{said}: there is no such {self.noun}", hint)

    def use(self, typed: str) -> str:
        """The name by which what the user typed is known from now on: a row's as it is, a file's without folders.

        Raises:
            ConfigError: the file cannot be run, or what it holds is no such thing.
        """
        if not is_reference(typed):
            return typed
        extension = Extension.read(typed)
        return self._keep(extension, self._row(extension.load(), extension.name))

    def enter(self, extension: Extension) -> None:
        """Make a row of what a file holds.

        Raises:
            TypeError: it is no thing of this table.
            ConfigError: the file cannot be run.
        """
        self._keep(extension, self._accept(extension.load()))

    def forget(self) -> None:
        """Leave out what files held."""
        self._of_files.clear()

    def extension(self, name: str) -> Extension | None:
        """The file behind a row, where there is one."""
        return self._of_files[name][0] if name in self._of_files else None

    def package(self, name: str) -> dict[str, str]:
        """The installed package that a row comes from, and its version; empty for gdist's own and for files."""
        if name in self._of_files or name in self.own or name not in self._announced:
            return {}
        package = self._announced[name][0].dist
        return {} if package is None else {"package": package.name, "version": package.version}

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
        self._of_files[name] = extension, row
        return name

    def _row(self, found: Any, origin: str) -> T:
        try:
            return self._accept(found)
        except TypeError as error:
            raise ConfigError(f"{origin} is no {self.noun}: {error}") from error

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
                f"several installed packages announce a {self.noun} {point.name!r}: {names}", "uninstall all but one"
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
    """Begin a command: what an earlier one of this process named is not known to it."""
    forget_names()
    for table in _tables:
        table.forget()


def use(references: Iterable[str], *registries: Registry[Any]) -> None:
    """Run the files that ``--use`` names, and enter each object in the first table that it fits.

    Raises:
        ConfigError: a file cannot be run, or its object fits no table.
    """
    enter([Extension.read(reference) for reference in references], *registries)


def enter(extensions: Iterable[Extension], *registries: Registry[Any]) -> None:
    """:func:`use` of files that were read before, perhaps by another process."""
    for extension in extensions:
        refusals = []
        for registry in registries:
            try:
                registry.enter(extension)
                break
            except TypeError as error:
                refusals.append(f"  it is no {registry.noun}: {error}")
        else:
            raise ConfigError("\n".join([f"this command cannot use {extension.name}", *refusals]))
