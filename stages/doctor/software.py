"""Python and the packages: which versions there are, and whether they are those that gdist asks for."""

import importlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

from gdist.pipeline.made_with import revision
from gdist.pipeline.printing import one_line
from gdist.stages.doctor.check import Check, note, ok, problem

# What is compiled, and may be there without working: another processor's build, or one for another torch.
COMPILED = ("torch", "torchaudio", "numpy", "numcodecs", "google-crc32c", "xxhash", "pyarrow", "obstore", "soundfile")
EXTRAS = {
    "onnx": "gdist export --format onnx",
    "media": "reading M4A, WebM, MP4, AMR and what else libsndfile does not read",
    "search": "[search] in a file of gdist sweep",
    "metrics": "gdist --metrics PORT",
}
REINSTALL = "pip install --upgrade gdist, in a virtual environment of its own"


@dataclass(frozen=True)
class Package:
    """A package that gdist asks for.

    Attributes:
        installed: its version; None where it is not installed.
        wanted: the versions that gdist asks for, such as ``>=2.11``.
        extra: the extra of gdist that brings it; empty where gdist needs it.
    """

    name: str
    installed: str | None
    wanted: SpecifierSet
    extra: str = ""

    @property
    def fits(self) -> bool:
        """Whether the version is one of those that gdist asks for; a release candidate is."""
        try:
            return bool(self.installed) and self.wanted.contains(self.installed or "", prereleases=True)
        except InvalidVersion:
            return False


def packages(distribution: str = "gdist") -> list[Package]:
    """Every package that a distribution asks for, for itself and for each of :data:`EXTRAS`."""
    found = []
    for requirement in map(Requirement, metadata.requires(distribution) or []):
        for extra in ("", *EXTRAS):
            # For itself, one that is asked for without a marker; for an extra, one that is asked for only by it.
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                found.append(Package(requirement.name, _version(requirement.name), requirement.specifier, extra))
                break
    return found


def check_gdist() -> Iterator[Check]:
    """Which gdist this is, and whether its Python is one that it supports."""
    at = revision()
    yield ok("gdist", "gdist", metadata.version("gdist") + (f", revision {at}" if at else ""))
    python, wanted = platform.python_version(), metadata.metadata("gdist").get("Requires-Python") or ""
    if SpecifierSet(wanted).contains(python, prereleases=True):
        yield ok("gdist", "Python", python)
    else:
        yield problem(
            "gdist", "Python", python, f"gdist needs Python {wanted}", "install that, and gdist with its own pip"
        )


def check_packages() -> Iterator[Check]:
    """Each package that gdist needs: its version, and of what is compiled whether it can be imported."""
    for package in packages():
        if not package.extra:
            yield _check(package)


def _check(package: Package) -> Check:
    name, wanted = package.name, f"gdist asks for {package.name}{package.wanted}"
    if package.installed is None:
        return problem("packages", name, "not installed", f"{wanted}, and it is not there", REINSTALL)
    if not package.fits:
        hint = f"pip install '{name}{package.wanted}'"
        return problem("packages", name, package.installed, f"{wanted}: with another one it may fail midway", hint)
    if name in COMPILED and (why := _cannot_import(name)):
        means = f"{name} {package.installed} is installed and cannot be imported: {why}"
        hint = "pip install --force-reinstall torch torchaudio, both of the same release and the same build"
        return problem("packages", name, package.installed, means, hint if "torch" in name else REINSTALL)
    return ok("packages", name, package.installed)


def check_extras() -> Iterator[Check]:
    """What is optional: what each extra is for, and the command that brings it."""
    every = packages()
    for extra, purpose in EXTRAS.items():
        wanted = [package for package in every if package.extra == extra]
        found = ", ".join(f"{each.name} {each.installed}" for each in wanted if each.installed)
        lacking = [each.name for each in wanted if not each.installed]
        unfit = [f"{each.name}{each.wanted}" for each in wanted if each.installed and not each.fits]
        install = f"pip install 'gdist[{extra}]'"
        if not wanted:
            continue  # this version of gdist has no such extra
        if lacking:
            yield note("extras", extra, found or "not installed", f"it is needed only for {purpose}", install)
        elif unfit:
            means = f"gdist asks for {', '.join(unfit)}; it is needed only for {purpose}"
            yield note("extras", extra, found, means, install)
        else:
            yield ok("extras", extra, found)


def check_onnx_runtime() -> Iterator[Check]:
    """ONNX Runtime, where it is installed, and what it can run on."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError:
        return  # the extra says so
    except (ImportError, OSError, RuntimeError) as error:
        means = f"ONNX Runtime is installed and cannot be imported: {_reason(error)}"
        yield note("extras", "ONNX Runtime", "no", means, "pip install --force-reinstall onnxruntime")
        return
    names = [name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers()]
    yield ok("extras", "ONNX Runtime", f"{runtime.__version__}, runs on {', '.join(names)}")


def _cannot_import(name: str) -> str:
    """Why a package cannot be imported; empty where it can."""
    try:
        importlib.import_module(name.replace("-", "_"))
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    return one_line(str(error).strip() or type(error).__name__)[:300]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
