"""The user's own files, and the objects in them: ``FILE.py:NAME``.

A file is run only because the user typed its path, never because a cache, a run, a recipe or an export names it. Its
bytes are kept as they were when it was run, so that what is recorded and copied is what ran. An extension is a single
file that imports only installed packages, so that its digest identifies all of its code.
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
_named: dict[str, "Extension"] = {}  # file name → the file with that name that this command named


@dataclass(frozen=True)
class Extension:
    """An object in a file.

    Attributes:
        name: ``FILE.py:NAME`` without the folders, as configs, runs and caches record it.
        path: where the file was read.
        source: the file's bytes, which are UTF-8.
    """

    name: str
    path: Path
    source: bytes

    @classmethod
    def read(cls, reference: str) -> "Extension":
        """Read the file of ``reference``, which is ``path/to/FILE.py:NAME``; nothing is run yet.

        Raises:
            ConfigError: the reference names no object or no readable file, or this command already named a different
                file with the same name.
        """
        file, _, name = reference.rpartition(":")
        if "://" in reference:
            hint = "download the file, read it, and name it by its path"
            raise ConfigError(f"{reference} is a URL, and gdist only runs files on this machine", hint)
        if not file.endswith(".py") or not name.isidentifier():
            whole = file if file.endswith(".py") else reference.rstrip(":")
            raise ConfigError(f"{reference} names a file but no object in it", f"FILE.py:NAME, as in {whole}:MyClass")
        try:
            path = Path(file).expanduser().absolute()
            source = path.read_bytes()
            source.decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"cannot run {path}: it is not UTF-8 text", "save it as UTF-8") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: ~USER has no home folder
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot read {file}: {reason}", "check the path") from error
        if not path.stem.isidentifier() or keyword.iskeyword(path.stem):
            hint = "rename it, using letters, digits and underscores, as in my_student.py"
            raise ConfigError(f"Python cannot import a file called {path.name}, and exports must import it", hint)
        extension = cls(f"{path.name}:{name}", path, source)
        other = _named.get(path.name, extension)
        if other.source != source and other.path != path:
            hint = "rename one of them: a run keeps copies of its files under their names"
            raise ConfigError(f"{other.path} and {path} are two different files with the same name", hint)
        _named[path.name] = extension
        return extension

    @property
    def file_name(self) -> str:
        return self.name.partition(":")[0]

    @property
    def sha256(self) -> str:
        """The file's SHA-256, in hex."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def record(self) -> dict[str, str]:
        """What a run or an evaluation records about the file."""
        return {"path": str(self.path), "sha256": self.sha256}

    @property
    def module_name(self) -> str:
        """The module's name, which is the same for the same bytes in every process."""
        return f"{_PREFIX}{self.sha256[:12]}_{self.path.stem}"

    def load(self) -> Any:
        """Run the file, once per process, and return the object.

        Raises:
            ConfigError: the file cannot be run, or does not contain the object.
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
            return f"install {name}: an extension may only import installed packages"
        return "an extension is one file: put what it needs into that file, or make an installable package of both"


def is_reference(name: str) -> bool:
    """Return whether ``name`` is an object in a file rather than a row of a table."""
    return ".py:" in name or name.endswith(".py")


def extension_behind(module: str) -> Extension | None:
    """Return the file that the module of this name was made from, if it was a file that a user named."""
    return _run.get(module)


def forget_names() -> None:
    """Begin a command, in which a name may refer to a different file than in earlier commands of this process."""
    _named.clear()
