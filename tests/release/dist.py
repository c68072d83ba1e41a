"""`make dist`: the wheel and the source distribution, built twice, compared and checked.

They are made of what git tracks and nothing else: whatever lies about in the working tree cannot get into them. Every
file gets the time of the last commit, the same mode and no owner, so that two builds have the same bytes wherever and
whenever they are made, given the same setuptools (`requirements-release.lock` pins it) and the same zlib, which packs
them. The wheel is built from the source distribution, which shows that this one is complete.

    python tests/release/dist.py OUT [--links URL] [--tag v1.2.3]      # or $LINKS and $TAG

README.md is also the page that the package index shows, where a relative link leads nowhere. ``--links URL`` puts the
address of the repository's files before them; without it, the index shows them as plain text. Either way this is done
to the copy that is built, and not to the file.
"""

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
INDEX_TAKES = 100 * 2**20  # bytes of a file, unless the index was asked for more
WRITTEN_BY_SETUPTOOLS = re.compile(r"PKG-INFO|setup\.cfg|gdist\.egg-info/[A-Za-z_.-]+")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def tracked() -> list[str]:
    """The files that git knows, as they are in the working tree; one that was deleted there is none."""
    return [name for name in git("ls-files", "-z").split("\0") if name and (ROOT / name).is_file()]


def in_the_wheel(names: list[str]) -> set[str]:
    """Where the wheel has the tracked files: all those of the packages' folders, below `gdist/`."""
    folders = project()["tool"]["setuptools"]["package-dir"].values()
    return {f"gdist/{name}" for name in names if name.partition("/")[0] in folders}


def project() -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def version() -> str:
    """The one place where it is written."""
    return str(project()["project"]["version"])


def for_the_index(text: str, links: str | None) -> str:
    """A page without relative links.

    >>> for_the_index("[buckets](docs/buckets.md#what-to-do), [zarr](https://zarr.dev)", "https://h/blob/v1/")
    '[buckets](https://h/blob/v1/docs/buckets.md#what-to-do), [zarr](https://zarr.dev)'
    >>> for_the_index("[docs/buckets.md](docs/buckets.md#names), [the licence](LICENSE)", None)
    '`docs/buckets.md`, the licence (`LICENSE`)'

    A picture is shown where there is an address for it: that of the file itself, not of the page about it.

    >>> for_the_index("![a report](docs/report.png)", "https://h/blob/v1"), for_the_index("![a](b.png)", None)
    ('![a report](https://h/raw/v1/docs/report.png)', '')
    """

    def absolute(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        if picture:
            return f"![{label}]({links.rstrip('/').replace('/blob/', '/raw/')}/{target})" if links else ""
        if links:
            return f"[{label}]({links.rstrip('/')}/{target})"
        page = target.partition("#")[0]
        return f"`{page}`" if label == page else f"{label} (`{page}`)"

    return re.sub(r"(!?)\[([^][]+)\]\((?![a-z]+:|#)([^)\s]+)\)", absolute, text)


def copy_sources(names: list[str], folder: Path, links: str | None, epoch: int) -> None:
    """The tracked files, in a folder where there is nothing else."""
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == "README.md":
            target.write_text(for_the_index((ROOT / name).read_text(encoding="utf-8"), links), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / name, target)
        target.chmod(0o755 if os.access(ROOT / name, os.X_OK) else 0o644)
        os.utime(target, (epoch, epoch))


def normalized(archive: Path, epoch: int) -> None:
    """The same .tar.gz without what only this build knows: times, owners, order, and what umask made of modes."""
    with tarfile.open(archive) as old:
        members = sorted(old.getmembers(), key=lambda member: member.name)
        bodies = [old.extractfile(member) if member.isfile() else None for member in members]
        with (
            archive.with_suffix(".new").open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=9, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
        ):
            for member, body in zip(members, bodies, strict=True):
                member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                member.pax_headers = {}
                new.addfile(member, body)
    archive.with_suffix(".new").replace(archive)


def made_by_build(what: str, sources: Path, out: Path, epoch: int) -> None:
    """Without isolation: setuptools is the one that the lock pins, since another one may write other bytes. And with
    the usual umask: the modes of what setuptools writes are in the wheel.
    """
    env = os.environ | {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "build", "--no-isolation", what, "--outdir", str(out), str(sources)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, umask=0o022)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nerror: {' '.join(command)} has failed")


def build(out: Path, links: str | None, epoch: int) -> list[Path]:
    """The source distribution, and from it the wheel."""
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as place:
        sources, unpacked = Path(place) / "sources", Path(place) / "unpacked"
        copy_sources(tracked(), sources, links, epoch)
        made_by_build("--sdist", sources, out, epoch)
        (sdist,) = out.glob("*.tar.gz")
        normalized(sdist, epoch)
        with tarfile.open(sdist) as archive:
            archive.extractall(unpacked, filter="data")
        (folder,) = unpacked.iterdir()
        made_by_build("--wheel", folder, out, epoch)
    return sorted(out.iterdir())


def wrong_with_sdist(archive: Path, names: list[str]) -> list[str]:
    with tarfile.open(archive) as opened:
        found = {member.name.partition("/")[2] for member in opened.getmembers() if member.isfile()}
    extra = {name for name in found - set(names) if not WRITTEN_BY_SETUPTOOLS.fullmatch(name)}
    return [f"{archive.name} lacks {name}" for name in sorted(set(names) - found)] + [
        f"{archive.name} has {name}, which git does not know" for name in sorted(extra)
    ]


def wrong_with_wheel(archive: Path, names: list[str]) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        found = {name for name in opened.namelist() if not name.endswith("/")}
    about = {name for name in found if name.startswith(f"gdist-{version()}.dist-info/")}
    licences = {f"gdist-{version()}.dist-info/licenses/{name}" for name in project()["project"]["license-files"]}
    return [f"{archive.name} lacks {name}" for name in sorted((in_the_wheel(names) | licences) - found)] + [
        f"{archive.name} has {name}, which is no file of the packages"
        for name in sorted(found - about - in_the_wheel(names))
    ]


def wrong_with_tag(tag: str) -> list[str]:
    """What a release still needs: the tag's version everywhere, and a dated heading in the changelog."""
    wrong = []
    if tag != f"v{version()}":
        wrong.append(f"the tag is {tag}, but pyproject.toml says version {version()}")
    heading = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if heading is None or not re.fullmatch(rf"\[{re.escape(version())}\] - \d{{4}}-\d\d-\d\d", heading[1]):
        wrong.append(f"the newest heading of CHANGELOG.md is not '## [{version()}] - YYYY-MM-DD'")
    if "date-released:" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8"):
        wrong.append("CITATION.cff has no date-released")
    return wrong


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the folder of what is built; *.whl and *.tar.gz there are replaced")
    links, tag = (os.environ.get(name) or None for name in ("LINKS", "TAG"))
    parser.add_argument("--links", default=links, help="the address of the repository's files, for the index's page")
    parser.add_argument("--tag", default=tag, help="refuse unless this, the changelog and CITATION.cff agree")
    options = parser.parse_args()
    names, wrong = tracked(), wrong_with_tag(options.tag) if options.tag else []
    if changed := git("status", "--porcelain").strip():
        (wrong if options.tag else []).append("the working tree differs from the last commit")
        print(f"note: this is not what is committed:\n{changed}", file=sys.stderr)
    epoch = int(git("log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory() as place:
        first = build(Path(place) / "first", options.links, epoch)
        second = build(Path(place) / "second", options.links, epoch)
        wrong += [f"{a.name} has other bytes when it is built again" for a, b in zip(first, second, strict=True)
                  if digest(a) != digest(b)]  # fmt: skip
        options.out.mkdir(parents=True, exist_ok=True)
        for old in [*options.out.glob("*.whl"), *options.out.glob("*.tar.gz")]:
            old.unlink()
        built = [Path(shutil.copy2(path, options.out)) for path in first]
    for path in built:
        wrong += (wrong_with_wheel if path.suffix == ".whl" else wrong_with_sdist)(path, names)
        size = path.stat().st_size
        if size > INDEX_TAKES:
            wrong.append(f"{path.name} has {size:,} bytes, and the index takes {INDEX_TAKES:,}")
        print(
            f"{path.name}  {size:,} bytes ({size / INDEX_TAKES:.0%} of what the index takes)  sha256 {digest(path)}"
        )
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    if not wrong:
        print("built twice with the same bytes; both have every file that they should, and no other")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
