"""The documentation site: `make docs`.

Pages are read from the whole tree, so that a link from one to another is the same on the site as in a checkout.
"""

import re
from importlib.metadata import version as installed
from pathlib import Path
from pydoc import locate
from typing import Any

from sphinx.util import logging

project = "gdist"
version = release = installed("gdist")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
include_patterns = [
    "docs/*.md",
    "docs/**/*.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "benchmarks/gpu/README.md",
    "data_manifests/README.md",
    "data_manifests/demo/*.md",
]
exclude_patterns = [".*", "site", "build", "gdist-demo", "pipeline", "stages", "tests"]
root_doc = "docs/index"

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = f"gdist {release}"
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a dataclass's attributes are described once, by its docstring
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"

logger = logging.getLogger(__name__)


def require_docstring(app: Any, what: str, name: str, member: object, options: object, lines: list[str]) -> None:
    """Warn, and so fail, where a name on the page of the API has no description.

    An attribute may be described by its class.
    """
    parent, _, own = name.rpartition(".")
    if what in ("attribute", "property") and re.search(rf"\b{own}\b.*: ", locate(parent).__doc__ or ""):
        return
    if not any(lines) and what != "module":
        logger.warning("the public name %s has no docstring", name)


def redirect(app: Any, failed: Exception | None) -> None:
    """Lead from the site's address to its first page, which is in docs/ as all others."""
    if failed is None and app.builder.name == "html":
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html"><title>gdist</title>'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Any) -> None:
    """Connect the two checks above."""
    app.connect("autodoc-process-docstring", require_docstring)
    app.connect("build-finished", redirect)
