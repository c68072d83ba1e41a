"""Debian packages as data: fetched with apt, checked against apt's own index, and unpacked without installing them.

OUT/packages/NAME_VERSION_ARCH.deb    as downloaded; a file is here only once its digest has been checked
OUT/unpacked/NAME/                    what the package contains, with a file of the digest that it was made from
OUT/licences/NAME.txt                 its copyright file
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gdist.pipeline.errors import GdistError
from gdist.pipeline.staging import write_atomically

# apt would keep its own caches in /var, and warn that another user cannot write into a folder of ours.
_QUIET = ("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "-o", "APT::Sandbox::User=root")
_DIGEST = ".sha256"  # the file in an unpacked folder that says which download it is


class PackageError(GdistError):
    """A package that cannot be found, fetched or unpacked."""


@dataclass(frozen=True)
class Package:
    """One version of a package, as apt's index describes it: ``file`` is its name, ``size`` its bytes."""

    name: str
    version: str
    file: str
    size: int
    sha256: str

    def row(self) -> dict[str, str | int]:
        """What ``sources.json`` says about it."""
        return {"version": self.version, "file": self.file, "size": self.size, "sha256": self.sha256}


def require_tools() -> None:
    """PackageError where apt-get, apt-cache or dpkg-deb is missing."""
    missing = [tool for tool in ("apt-get", "apt-cache", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise PackageError(
            f"the speech comes from Debian's archive, and this machine has no {' and no '.join(missing)}",
            "run it on Debian or Ubuntu, for example: docker run -it -v $PWD:/gdist python:3.12-bookworm bash",
        )


def look_up(names: Sequence[str]) -> list[Package]:
    """Return the packages of these names, each in the version that apt would install.

    Raises:
        PackageError: apt's index has no such package.
    """
    shown = _run(["apt-cache", *_QUIET, "show", "--no-all-versions", *names])
    found: dict[str, Package] = {}
    for paragraph in shown.stdout.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", paragraph, re.MULTILINE))
        if {"Package", "Version", "Filename", "Size", "SHA256"} <= fields.keys():
            file = fields["Filename"].rsplit("/", 1)[-1]
            package = Package(fields["Package"], fields["Version"], file, int(fields["Size"]), fields["SHA256"])
            found.setdefault(package.name, package)
    if missing := [name for name in names if name not in found]:
        raise PackageError(
            f"asked apt for {len(names)} packages; its index has no {', '.join(missing)}",
            "fill the index with `apt-get update` (as root), then run the same command again; the packages are in "
            "Debian's `main`, and in Ubuntu's `universe`",
        )
    return [found[name] for name in names]


def needed_to_run(name: str) -> list[str]:
    """Return the packages that installing ``name`` would add to this machine, itself included; nothing is installed.

    Raises:
        PackageError: apt cannot say.
    """
    asked = _run(["apt-get", *_QUIET, "--simulate", "--no-install-recommends", "install", name])
    if asked.returncode:
        raise PackageError(f"asked apt what {name} needs: {_last_line(asked.stderr)}", "run `apt-get update` as root")
    return re.findall(r"^Inst (\S+)", asked.stdout, re.MULTILINE)


def fetch(package: Package, folder: Path) -> Path:
    """Download a package into ``folder`` unless it is there with the right digest, and return its path.

    It is downloaded under another name and renamed once its digest has been checked, so an interrupted download is
    never taken for a whole one.

    Raises:
        PackageError: apt cannot download it, or what came is not what the index promises.
    """
    path = folder / package.file
    if path.is_file() and sha256_of(path) == package.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as staging:
        asked = f"{package.name}={package.version}"
        done = _run(["apt-get", *_QUIET, "-q", "download", asked], Path(staging))
        came = sorted(Path(staging).glob("*.deb"))
        if done.returncode or not came:
            raise PackageError(
                f"`apt-get download {asked}` failed: {_last_line(done.stderr)}",
                "check the network, fill the index with `apt-get update` (as root), then run the same command again; "
                "what was downloaded is kept",
            )
        check(came[0], package)
        came[0].replace(path)
    return path


def check(path: Path, package: Package) -> None:
    """PackageError unless the file has the digest that apt's index promises."""
    found = sha256_of(path)
    if found != package.sha256:
        raise PackageError(
            f"{package.name} {package.version} was downloaded with the SHA-256 {found}; apt's index says "
            f"{package.sha256}, so it is damaged or not that package",
            "fill the index with `apt-get update` (as root), then run the same command again",
        )


def unpack(deb: Path, package: Package, folder: Path) -> Path:
    """Unpack a package into ``folder/NAME``, unless that is there already, and return that folder.

    Raises:
        PackageError: dpkg-deb cannot unpack it, or a folder of that name is not one that was unpacked here.
    """
    place = folder / package.name
    mark = place / _DIGEST
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() == package.sha256:
        return place
    if place.exists() and not mark.is_file():
        raise PackageError(
            f"cannot unpack into {place}: it is there, and was not made here", "remove it, or rename it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as staging:
        staged = Path(staging) / package.name
        done = _run(["dpkg-deb", "-x", str(deb), str(staged)])
        if done.returncode:
            raise PackageError(
                f"`dpkg-deb -x {deb}` failed: {_last_line(done.stderr)}", f"remove {deb} and try again"
            )
        (staged / _DIGEST).write_text(package.sha256 + "\n", encoding="utf-8")
        if place.exists():  # an earlier version of the same package
            shutil.rmtree(place)
        staged.replace(place)
    return place


def copy_licences(unpacked: Path, names: Iterable[str], folder: Path) -> list[str]:
    """Copy each package's copyright file to ``folder/NAME.txt``; return the packages that have none."""
    folder.mkdir(parents=True, exist_ok=True)
    without = []
    for name in names:
        text = unpacked / name / "usr/share/doc" / name / "copyright"
        if text.is_file() and not text.is_symlink():
            write_atomically(folder / f"{name}.txt", text.read_bytes())
        else:
            without.append(name)
    return without


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    # Messages are parsed, so they have to be in English.
    return subprocess.run(
        ["env", "LC_ALL=C.UTF-8", *command], cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("W:")]
    return lines[-1] if lines else "no reason given"
