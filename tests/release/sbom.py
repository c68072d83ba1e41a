"""`make sbom`: what users of gdist and of its extras get, as a CycloneDX document.

cyclonedx-bom reads the user's part of requirements.lock, with its hashes. It knows no licences and not who asked for
whom, since a lock says the one nowhere and the other in comments: these are added here, the licences from
docs/licences.md, and the result is checked against CycloneDX's schema.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion  # type: ignore[import-not-found]
from cyclonedx.spdx import is_expression, is_supported_id  # type: ignore[import-not-found]
from cyclonedx.validation.json import JsonStrictValidator  # type: ignore[import-not-found]

from release.lock import ROOT, brought_by, extras, part, read_lock, wanted


def licence(text: str) -> dict[str, Any]:
    """As CycloneDX has it: an SPDX identifier, an expression, or a name."""
    if is_supported_id(text):
        return {"license": {"id": text}}
    return {"expression": text} if is_expression(text) else {"license": {"name": text}}


def licences() -> dict[str, str]:
    """Name → licence, from the page."""
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \**([a-z0-9-]+)\** \| [0-9][^|]* \| ([^|]+) \|", page, re.MULTILINE)
    return dict(rows)


def bom() -> dict[str, Any]:
    lock, said = read_lock(), licences()
    with tempfile.TemporaryDirectory() as place:
        written = Path(place) / "requirements.txt"
        written.write_text(part(lock, extras()), encoding="utf-8")
        options = ["--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "--sv", "1.6", str(written)]
        command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", *options]
        document: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    users = brought_by(lock)
    document["components"] = [one for one in document["components"] if one["name"] in users]
    for component in document["components"]:
        del component["description"]  # the line of the lock, whose hashes the document has too
        component["licenses"] = [licence(said[component["name"]])]
        by = users[component["name"]]
        component.setdefault("properties", []).append(
            {"name": "gdist:brought-by", "value": "gdist" if not by else ", ".join(f"gdist[{extra}]" for extra in by)}
        )
        component["scope"] = "optional" if by else "required"
    reference = {component["name"]: component["bom-ref"] for component in document["components"]}
    own = document["metadata"]["component"]["bom-ref"]
    asked = wanted().union(*(wanted(extra) for extra in extras()))
    document["dependencies"] = [{"ref": own, "dependsOn": sorted(reference[name] for name in asked)}] + [
        {"ref": ref, "dependsOn": sorted(reference[n] for n in reference if name in lock[n].asked_by)}
        for name, ref in sorted(reference.items())
    ]
    return document


def main(out: Path) -> None:
    text = json.dumps(bom(), indent=2, sort_keys=True) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"error: not what CycloneDX 1.6 allows: {error}")
    out.write_text(text, encoding="utf-8")
    print(f"wrote {out}: {text.count('bom-ref') - 1} packages, valid CycloneDX 1.6", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
