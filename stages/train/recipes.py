"""What ships in ``stages/recipes``: configs of runs, for ``gdist train --recipe``, and files for ``gdist sweep``."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from gdist.pipeline.config import did_you_mean
from gdist.pipeline.errors import ConfigError

Kind = Literal["recipe", "sweep"]


@dataclass(frozen=True)
class Shipped:
    """A file that ships. Its name is the only one, among recipes and sweeps."""

    name: str
    kind: Kind
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def about(self) -> str:
        """The first sentence of the comment that it begins with."""
        comment = re.match(r"(#.*\n)*", self.text)
        words = re.sub(r"\s*\n?#\s*", " ", comment[0] if comment else "").strip()
        return re.split(r"(?<=\.)\s", words)[0]


def shipped() -> dict[str, Shipped]:
    """Name → file, recipes first."""
    folder = Path(str(files("gdist.stages"))) / "recipes"
    found: dict[str, Shipped] = {}
    kinds: tuple[tuple[Kind, Path], ...] = (("recipe", folder), ("sweep", folder / "sweeps"))
    for kind, place in kinds:
        for path in sorted(place.glob("*.toml")):
            found[path.stem] = Shipped(path.stem, kind, path)
    return found


def recipe_path(name: str) -> Path:
    """A shipped recipe by name, or a TOML file by path. Raises ConfigError where there is no such recipe."""
    return Path(name) if is_path(name) else _named(name, "recipe")


def sweep_path(name: Path) -> Path:
    """A shipped sweep by name, or a TOML file by path. Raises ConfigError where there is no such sweep."""
    return name if is_path(str(name)) or name.exists() else _named(str(name), "sweep")


def is_path(name: str) -> bool:
    return name.endswith(".toml") or "/" in name


def _named(name: str, kind: Kind) -> Path:
    of_kind = {one.name: one.path for one in shipped().values() if one.kind == kind}
    if name in of_kind:
        return of_kind[name]
    other = shipped().get(name)
    if other is not None:
        command = {"recipe": f"gdist train --recipe {name}", "sweep": f"gdist sweep {name}"}[other.kind]
        raise ConfigError(f"no {kind} {name!r}: it is a {other.kind}", command)
    raise ConfigError(f"no {kind} {name!r}", did_you_mean(name, of_kind))
