"""The documentation site is built without a warning, and its generated pages are up to date."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from generate import PAGES, attributes

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_are_up_to_date(page: str) -> None:
    assert (DOCS / "reference" / page).read_text(encoding="utf-8") == PAGES[page](), "make pages"


def test_attributes_of_a_docstring() -> None:
    class Example:
        """A sentence: with a colon.

        Attributes:
            one, two: of ``both``, see :mod:`gdist.pipeline`;
                more of it.
            three: last.

        Raises:
            ValueError: never.
        """

    both = "of `both`, see `gdist.pipeline`; more of it."
    assert attributes(Example) == {"one": both, "two": both, "three": "last."}


class Links(HTMLParser):
    """Where a page leads, and which places it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.targets += [target for name in ("href", "src") if (target := found.get(name))]
        self.places |= {place for place in [found.get("id")] if place}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it: a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    options = ["-c", "docs", "-b", "html", "-W", "--keep-going", "-q", "-E"]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    pages = {page: Links(page.read_text(encoding="utf-8")) for page in sorted(site.rglob("*.html"))}
    assert len(pages) > 40
    broken = []
    for page, links in pages.items():
        for target in links.targets:
            if re.match(r"[a-z]+:", target):
                continue
            name, _, place = target.partition("#")
            path = (page.parent / name.partition("?")[0]).resolve() if name else page
            if not path.exists() or (place and path in pages and place not in pages[path].places):
                broken.append(f"{page.relative_to(site)}: {target}")
    assert not broken


def test_the_site_needs_no_network(site: Path) -> None:
    """Pages may lead to other sites, but what they are made of is here."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|iframe)[^>]+src=.https?:", text), page
        assert not re.search(r"<link[^>]+rel=.stylesheet.[^>]+href=.https?:", text), page


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_every_page_is_in_the_table_of_contents(page: Path, site: Path) -> None:
    made = site / page.relative_to(ROOT).with_suffix(".html")
    assert made.exists()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_pages_fit_the_screen(site: Path, browser: object, width: int, height: int) -> None:
    """No page is wider than a desktop's window or a phone's; wide tables and blocks scroll by themselves."""
    page = browser.new_page(viewport={"width": width, "height": height})  # type: ignore[attr-defined]
    for path in sorted(site.glob("docs/**/*.html")):
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
    page.close()
