"""The rules of the house, read from the source: who may import whom, and that all of it is installed."""

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gdist.data_manifests
import gdist.pipeline
import gdist.stages

ROOT = Path(__file__).parent.parent
PACKAGES = (gdist.pipeline, gdist.stages, gdist.data_manifests)


def modules() -> dict[str, Path]:
    """Dotted name → file of every installed module of ours."""
    found = {}
    for package in PACKAGES:
        folder = Path(next(iter(package.__path__)))
        for path in sorted(folder.rglob("*.py")):
            parts = [package.__name__, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """A source as Python parses it; read once, as many rules ask for it."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imports(module: str) -> tuple[str, ...]:
    """Every module that ``module`` imports, at its top or inside a function, by full name."""
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[str]:
    for node in nodes_of(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(*packages: str) -> set[str]:
    """Our modules that import one of ``packages`` or anything in them."""
    return {m for m in MODULES if any((name + ".").startswith(f"{p}.") for name in imports(m) for p in packages)}


def under(package: str) -> set[str]:
    return {m for m in MODULES if (m + ".").startswith(f"{package}.")}


# From the ground up. A package imports from floors below its own, and from itself; never upwards, never sideways.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("pipeline.errors", "pipeline.printing", "pipeline.framing", "pipeline.machine", "pipeline.schema"),
    ("pipeline.console", "pipeline.files", "pipeline.logs", "pipeline.parquet"),
    ("pipeline.config", "pipeline.heartbeat", "pipeline.ids"),
    ("pipeline.made_with", "pipeline.observe", "pipeline.staging"),
    ("pipeline.own_files", "pipeline.owner"),
    ("pipeline.extensions", "pipeline.folder"),
    ("pipeline.storage", "pipeline.cluster"),
    ("pipeline.audio", "pipeline.local", "pipeline.run"),
    ("pipeline.manifest", "pipeline.cache"),
    ("pipeline.loading",),
    ("stages.frontend", "stages.device", "stages.commandline", "stages.teacher_config", "stages.printed"),
    ("stages.teachers", "stages.students"),
    ("stages.extract", "stages.train", "stages.caches"),
    ("stages.evaluate", "stages.estimate", "stages.standings"),
    ("stages.report", "stages.export", "stages.copy", "stages.sweep"),
    ("stages.catalogue", "stages.manifests", "stages.demo", "stages.kept", "stages.features", "stages.doctor"),
    ("stages.testing",),
    ("stages.cli",),
)
LONG: dict[str, str] = {}  # module → why it is longer than 300 lines
FLOOR = {f"gdist.{package}": floor for floor, packages in enumerate(FLOORS) for package in packages}


def package_of(module: str) -> str | None:
    """The package of ``FLOORS`` that a module belongs to."""
    return next((package for package in FLOOR if f"{module}.".startswith(f"{package}.")), None)


def test_every_module_has_a_floor() -> None:
    roofs = {package.__name__ for package in PACKAGES} | under("gdist.data_manifests")
    assert not [module for module in MODULES if package_of(module) is None and module not in roofs]
    assert all(under(package) for package in FLOOR), "a floor for something that is not there"


@pytest.mark.parametrize("module", MODULES)
def test_no_arrow_points_up(module: str) -> None:
    """The order in which a newcomer can read the folders. Sideways is not down either: what two neighbours share
    lies below both."""
    own = package_of(module)
    for name in imports(module):
        other = package_of(name)
        if own is not None and other is not None and other != own:
            assert FLOOR[other] < FLOOR[own], f"{module} imports {name}"


def test_the_rules_have_something_to_rule() -> None:
    assert {"gdist.pipeline.cache.cache", "gdist.stages.cli", "gdist.stages.train.losses"} <= MODULES.keys()
    assert "gdist.stages.extract.extract" in importers("gdist.pipeline")


def test_pipeline_never_imports_stages() -> None:
    assert not importers("gdist.stages") & under("gdist.pipeline")


def test_modules_are_short() -> None:
    """A module that has grown past 300 lines holds two things, or has a reason."""
    long = {m for m, path in MODULES.items() if len(path.read_text(encoding="utf-8").splitlines()) > 300}
    assert long == LONG.keys()


def test_no_module_shadows_the_standard_library() -> None:
    files = {path.stem for path in MODULES.values() if path.stem != "__init__"}
    assert not files & sys.stdlib_module_names


def test_training_does_not_know_teachers() -> None:
    """The cache is the contract. Followed through whatever training imports of ours."""
    reached, new = set(), {"gdist.stages.train.train"}
    while new:
        reached |= new
        new = {name for module in new for name in imports(module) if name in MODULES} - reached
    assert "gdist.stages.students" in reached
    assert not reached & under("gdist.stages.teachers")


def test_only_arrays_knows_zarr() -> None:
    assert importers("zarr") == {"gdist.pipeline.cache.arrays"}
    both = {"gdist.pipeline.cache.encode", "gdist.pipeline.cache.shards"}
    assert importers("numcodecs", "google_crc32c") == both


def test_only_storage_knows_object_stores() -> None:
    assert importers("obstore") == {f"gdist.pipeline.storage.{name}" for name in ("objects", "buckets", "requests")}


def test_only_cluster_and_crew_know_dask() -> None:
    assert importers("dask", "distributed", "dask_cuda") == {
        "gdist.pipeline.cluster.workers",
        "gdist.pipeline.cluster.crew",
    }


def test_nothing_imports_bare_packages() -> None:
    """They import from a checkout and not from an installation."""
    assert not importers("pipeline", "stages", "data_manifests")
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in nodes_of(path):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {"pipeline", "stages", "data_manifests"} & {name.split(".")[0] for name in names}, path


def test_nothing_unpickles() -> None:
    """A checkpoint is safetensors; torch's loader is told ``weights_only``, and may still raise pickle's errors."""
    assert importers("pickle", "dill", "joblib", "shelve", "marshal") <= {"gdist.stages.teachers.pickled"}
    source = MODULES["gdist.stages.teachers.pickled"].read_text(encoding="utf-8")
    assert source.count("pickle.") == source.count("pickle.UnpicklingError")
    for module, path in MODULES.items():
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), module


def test_what_is_printed_is_printed_in_one_place() -> None:
    """rich reads markup and emojis in whatever a console of its own prints; and a hint begins with no "try:", which
    is the printer's to say, nor a message with "error:"."""
    assert importers("rich") == {"gdist.pipeline.console"}
    calls = [
        ast.unparse(node)
        for node in nodes_of(MODULES["gdist.pipeline.console"])
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Console", "TextColumn")
    ]
    assert all("markup=False" in call for call in calls) and sum(call.startswith("Console") for call in calls) == 1
    begun = re.compile(r"""[(,=]\s*f?["'](?:try|error|hint): """, re.IGNORECASE)
    printers = {"gdist.stages.commandline", "gdist.stages.sweep.cluster", "gdist.stages.sweep.together"}
    found = {module for module, path in MODULES.items() if begun.search(path.read_text(encoding="utf-8"))}
    assert found <= printers | {"gdist.stages.standings.record"}  # which reads what they print


def test_no_bare_except_and_no_star() -> None:
    for module, path in MODULES.items():
        for node in nodes_of(path):
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), module
            assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), module


def test_every_folder_of_code_is_in_the_package_list() -> None:
    """A sub-package forgotten there still imports from a checkout, and is missing after ``pip install .``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    top = project["package-dir"]
    folders = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for package, folder in top.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert folders == set(project["packages"])
    loose = [
        p for folder in top.values() for p in (ROOT / folder).rglob("*.py") if not (p.parent / "__init__.py").exists()
    ]
    assert not loose


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module: str) -> None:
    assert importlib.import_module(module).__doc__, "every module says what it is for"


def test_gdist_itself_is_a_namespace() -> None:
    import gdist

    assert getattr(gdist, "__file__", None) is None


def test_the_data_that_ships_is_installed() -> None:
    folder = gdist.data_manifests.demo_folder()
    teacher = ("teacher-nano/config.json", "teacher-nano/model.safetensors")
    for name in ("demo.parquet", "LICENSES.md", "PROVENANCE.md", *teacher):
        assert (folder / name).is_file(), name
