"""Whether the files of a run are those that it wrote, as far as its run.json knows: a digit that changed on a disk
would otherwise be another setting, or another curve in a report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdist.pipeline.config import TomlTables, signature
from gdist.pipeline.errors import RunError
from gdist.pipeline.files import reason, sha256_of

WEIGHTS = "model.safetensors"
STUDENT = (WEIGHTS, "config.json", "preprocessor_config.json")  # what gdist writes; people's notes may lie beside it


def marked(tables: TomlTables, provenance: Mapping[str, Any]) -> TomlTables:
    """The config of a run with whatever else makes it this run and no other: the user's files, and the weights that
    it began with. Its signature is the run's."""
    if extensions := provenance.get("extensions"):
        tables = tables | {"extensions": {name: record["sha256"] for name, record in extensions.items()}}
    if start := provenance.get("start"):
        tables = tables | {"start": {"sha256": start["sha256"]}}
    return tables


def require_config(tables: TomlTables, provenance: Mapping[str, Any], path: Path, hint: str) -> None:
    """Raise RunError where config.toml, at ``path``, is not the one that run.json has the signature of."""
    own = signature(marked(tables, provenance))
    if own != provenance.get("signature", own):
        raise RunError(f"{path} is not the config that the run was begun with: run.json knows another one", hint)


def digests(student: Path, metrics: Path) -> dict[str, Any]:
    """What run.json says of the files of a run that is finished."""
    found = {name: sha256_of(student / name) for name in STUDENT if (student / name).exists()}
    known: dict[str, Any] = {"weights": found.pop(WEIGHTS), "student_files": found}
    return known | ({"metrics": sha256_of(metrics)} if metrics.exists() else {})


def require_student(student: Path, provenance: Mapping[str, Any], hint: str) -> None:
    """Raise RunError where the finished student is not the one that was saved, as far as is known."""
    known = dict(provenance.get("student_files", {}))
    if "weights" in provenance:
        known[WEIGHTS] = provenance["weights"]
    for name in [name for name in STUDENT if name in known]:
        path, digest = student / name, known[name]
        try:
            found = sha256_of(path)
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing", hint) from error
        except OSError as error:
            raise RunError(f"cannot read {path}: {reason(error)}", hint) from error
        if found != digest:
            raise RunError(f"{path} is damaged: its bytes are not those that were saved", hint)
