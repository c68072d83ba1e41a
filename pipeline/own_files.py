"""A file of the user's own, and an object in it: ``FILE.py:NAME``.

A file is run only because the user typed its path: never because a cache, a run, a recipe or an export names it. Its
bytes are kept as they were when it was run, so what is recorded and copied is what ran. It is one file: what it
imports is installed, so that its digest tells all of it.
"""

import hashlib
import keyword
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from gdist.pipeline.config import did_you_mean
from gdist.pipeline.errors import ConfigError

_PREFIX = "gdist_extension_"
_run: dict[str, "Extension"] = {}  # module → the file behind it
_named: dict[str, "Extension"] = {}  # file name → the file of that name that this command named


@dataclass(frozen=True)
class Extension:
    """An object of a file.

    Attributes:
        name: ``FILE.py:NAME`` without the folders: what configs, runs and caches record.
        path: where the file was read.
        source: its bytes, which are UTF-8.
    """

    name: str
    path: Path
    source: bytes

    @classmethod
    def read(cls, reference: str) -> "Extension":
        """The object that ``reference``, ``path/to/FILE.py:NAME``, names; nothing is run yet.

        Raises:
            ConfigError: it names no object, or no file that can be read; or another file of that name was named.
        """
        file, _, name = reference.rpartition(":")
        if "://" in reference:
            hint = "download the file, read it, and name it by its path"
            raise ConfigError(f"{reference} is a URL, and gdist runs files of this machine only", hint)
        if not file.endswith(".py") or not name.isidentifier():
            whole = file if file.endswith(".py") else reference.rstrip(":")
            raise ConfigError(f"{reference} names a file and no object in it", f"FILE.py:NAME, as in {whole}:MyClass")
        try:
            path = Path(file).expanduser().absolute()
            source = path.read_bytes()
            source.decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"cannot run {path}: it is not UTF-8 text", "save it as UTF-8") from error
        except (OSError, RuntimeError) as error:  # the latter: ~nobody has no home
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot read {file}: {reason}", "check the path") from error
        if not path.stem.isidentifier() or keyword.iskeyword(path.stem):
            hint = "rename it: letters, digits and underscores, as in my_student.py"
            raise ConfigError(f"{path.name} is no name that Python can import, and exports have to", hint)
        extension = cls(f"{path.name}:{name}", path, source)
        other = _named.get(path.name, extension)
        if other.source != source and other.path != path:
            hint = "rename one of them: what a run keeps of its files goes by their names"
            raise ConfigError(f"{other.path} and {path} are two different files of one name", hint)
        _named[path.name] = extension
        return extension

    @property
    def file_name(self) -> str:
        return self.name.partition(":")[0]

    @property
    def sha256(self) -> str:
        """Of the file, in hex."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def record(self) -> dict[str, str]:
        """What a run or an evaluation notes of it."""
        return {"path": str(self.path), "sha256": self.sha256}

    @property
    def module_name(self) -> str:
        """The same for the same bytes, in every process."""
        return f"{_PREFIX}{self.sha256[:12]}_{self.path.stem}"

    def load(self) -> Any:
        """Run the file, once in a process, and give the object.

        Raises:
            ConfigError: the file cannot be run, or has no such object.
        """
        name = self.name.partition(":")[2]
        found = vars(self._module())
        if name not in found:
            own = [key for key, value in found.items() if key[0] != "_" and self._is_own(value)]
            raise ConfigError(f"{self.path} has no {name}", did_you_mean(name, own) if own else None)
        return found[name]

    def _is_own(self, value: Any) -> bool:
        if isinstance(value, type | FunctionType):
            return value.__module__ == self.module_name
        return not isinstance(value, ModuleType)

    def _module(self) -> ModuleType:
        known = sys.modules.get(self.module_name)
        if known is not None:
            return known
        module = ModuleType(self.module_name)
        module.__file__ = str(self.path)
        sys.modules[self.module_name] = module  # dataclasses and pickle look a class's module up there
        _run[self.module_name] = self
        try:
            exec(compile(self.source, str(self.path), "exec", dont_inherit=True), vars(module))
        except (Exception, SystemExit) as error:
            del sys.modules[self.module_name], _run[self.module_name]
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
            where = f", line {lines[-1]}" if lines else ""
            raise ConfigError(
                f"cannot run {self.path}{where}: {type(error).__name__}: {error}", self._advice(error)
            ) from error
        return module

    def _advice(self, error: BaseException) -> str | None:
        if not isinstance(error, ImportError):
            return None
        name = (error.name or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and name and not self.path.with_name(f"{name}.py").exists():
            return f"install {name}: what an extension imports is installed"
        return "an extension is one file: put what it needs into it, or make an installed package of both"


def is_reference(name: str) -> bool:
    """Whether ``name`` is an object of a file rather than a row of a table."""
    return ".py:" in name or name.endswith(".py")


def extension_behind(module: str) -> Extension | None:
    """The file that the module of this name was made from, if it was a file that a user named."""
    return _run.get(module)


def forget_names() -> None:
    """Begin a command: a name may stand for another file than in an earlier command of this process."""
    _named.clear()
