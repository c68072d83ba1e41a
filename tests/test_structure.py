"""The rules of the house, read from the source: who may import whom, and that all of it is installed."""

import ast
import importlib
import tomllib
from collections.abc import Iterator
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


def imports(module: str) -> Iterator[str]:
    """Every module that ``module`` imports, at its top or inside a function, by full name."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
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


def test_the_rules_have_something_to_rule() -> None:
    assert {
        "gdist.pipeline.cache.cache",
        "gdist.stages.cli",
        "gdist.stages.evaluate.probes.keyword_spotting",
    } <= MODULES.keys()
    assert "gdist.stages.extract.extract" in importers("gdist.pipeline")


def test_pipeline_never_imports_stages() -> None:
    assert not importers("gdist.stages") & under("gdist.pipeline")


@pytest.mark.parametrize("one", ["teachers", "students", "probes"])
@pytest.mark.parametrize("other", ["teachers", "students", "probes"])
def test_teachers_students_and_probes_do_not_know_each_other(one: str, other: str) -> None:
    if one != other:
        assert not importers(f"gdist.stages.{other}") & under(f"gdist.stages.{one}")


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
    assert importers("numcodecs", "google_crc32c") == {"gdist.pipeline.cache.shards"}


def test_only_storage_and_buckets_know_object_stores() -> None:
    assert importers("obstore") == {"gdist.pipeline.storage.objects", "gdist.pipeline.storage.buckets"}


def test_only_cluster_and_crew_know_dask() -> None:
    assert importers("dask", "distributed", "dask_cuda") == {
        "gdist.pipeline.cluster.workers",
        "gdist.pipeline.cluster.crew",
    }


def test_nothing_imports_bare_packages() -> None:
    """They import from a checkout and not from an installation."""
    assert not importers("pipeline", "stages", "data_manifests")
    tests = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "tests").glob("*.py"))}
    for path, tree in tests.items():
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {"pipeline", "stages", "data_manifests"} & {name.split(".")[0] for name in names}, path


def test_nothing_unpickles() -> None:
    """A checkpoint is safetensors; torch's loader is told ``weights_only``, and may still raise pickle's errors."""
    assert importers("pickle", "dill", "joblib", "shelve", "marshal") <= {"gdist.stages.teachers"}
    source = MODULES["gdist.stages.teachers"].read_text(encoding="utf-8")
    assert source.count("pickle.") == source.count("pickle.UnpicklingError")
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), module


def test_no_bare_except_and_no_star() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
