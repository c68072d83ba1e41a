"""`make licences`: docs/licences.md, the packages that users get with gdist, with their licences.

Names and versions are those of requirements.lock, and `tests/test_release.py` compares them without a network.
Licences and home pages are what the installed packages say of themselves, so the page is written where the lock is
installed.
"""

import re
import sys
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata, version
from pathlib import Path

from release.lock import ROOT, Pinned, brought_by, extras, read_lock, wanted

PAGE = ROOT / "docs" / "licences.md"
# Packages that only another system than Linux gets, looked up by hand.
ELSEWHERE = {"colorama": ("BSD-3-Clause", "https://github.com/tartley/colorama")}
WHERE = {"win32": "on Windows", "linux": "on Linux", "PyPy": "not on PyPy", "AMD64": "on x86-64 and ARM64"}
CLASSIFIER = "License :: OSI Approved :: "
HEAD = """# Licences of what gdist brings

`pip install gdist` brings the packages of the first table, and an extra those of its own. gdist itself is under the
Apache License 2.0, and the speech that ships with it has
[its own licences](../data_manifests/demo/LICENSES.md). Versions are those of `requirements.lock`, which pins what is
tested; pip may choose newer ones. The licence is what each package says of itself, as an SPDX expression where it
gives one. `make licences` writes this page, and `make sbom` writes the same list for programs, in CycloneDX.

Wheels also have libraries inside that are not Python: soundfile's has libsndfile (LGPL), and av's has FFmpeg (LGPL or
GPL, as it was built). The package's licence is not theirs; whoever passes an image on, passes them on too.

Packages of developers (tests, types, builds) are not listed: they are in no installation of gdist. Packages named
`nvidia-…` and `cuda-…` come with torch on Linux. Most are under NVIDIA's own terms, which are no open-source licence;
torch from PyTorch's CPU index (`https://download.pytorch.org/whl/cpu`) comes without them.
"""


def licence(about: PackageMetadata) -> str:
    """What a package says of itself: an SPDX expression, else its classifiers, else the first line of its text."""
    if expression := about.get("License-Expression"):
        return str(expression)
    classifiers = [line.removeprefix(CLASSIFIER) for line in about.get_all("Classifier") or [] if CLASSIFIER in line]
    if classifiers:
        return ", ".join(sorted(classifiers))
    text = str(about.get("License") or "").strip()
    return text.splitlines()[0][:60] if text else "not stated"


def home(about: PackageMetadata) -> str:
    """The address that a package gives for itself, the most telling one first."""
    urls = {label.strip().lower(): url.strip() for label, _, url in
            (line.partition(",") for line in about.get_all("Project-URL") or [])}  # fmt: skip
    urls["home-page"] = str(about.get("Home-page") or "")
    for label in ("homepage", "home", "home-page", "repository", "source", "source code", "github", "documentation"):
        if urls.get(label, "").startswith("http"):
            return str(urls[label])
    return next((url for url in urls.values() if url.startswith("http")), "")


def row(one: Pinned, direct: bool) -> str:
    try:
        about = metadata(one.name)
        if version(one.name).partition("+")[0] != one.version:
            raise SystemExit(f"{one.name} {version(one.name)} is installed, but the lock has {one.version}")
        said, address = licence(about), home(about)
    except PackageNotFoundError:
        if one.name not in ELSEWHERE:
            raise SystemExit(f"{one.name} is not installed: run `make licences` with the lock installed") from None
        said, address = ELSEWHERE[one.name]
    name = f"**{one.name}**" if direct else one.name
    where = next((words for word, words in WHERE.items() if f"'{word}'" in one.marker), "")
    return f"| {name} | {one.version} | {said} | {f'<{address}>' if address else ''} | {where} |"


def page() -> str:
    lock = read_lock()
    brought = brought_by(lock)
    parts = [HEAD]
    for extra in (None, *extras()):
        names = [name for name, by in brought.items() if (extra in by if extra else not by)]
        title = f"`pip install 'gdist[{extra}]'` adds" if extra else "`pip install gdist`"
        rows = [row(lock[name], name in wanted(extra)) for name in names]
        table = ["| package | version | licence | home page | only where |", "|---|---|---|---|---|", *rows]
        parts.append(
            f"## {title}\n\nIn bold, what gdist itself asks for ({len(names)} in all).\n\n" + "\n".join(table)
        )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def listed(path: Path = PAGE) -> dict[str, str]:
    """Name → version, as the page has them."""
    found = re.findall(r"^\| \**([a-z0-9-]+)\** \| ([0-9][^ ]*) \|", path.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stderr.write(f"wrote {PAGE.relative_to(ROOT)}: {len(listed())} packages\n")
