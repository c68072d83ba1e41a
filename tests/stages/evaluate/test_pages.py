"""The benchmarks' pages count no wins among answers from the teacher's layer 0."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from test_layers import evaluation, result

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def evaluated(layer: int, seed: int, ks: float, qbe: float) -> dict[str, Any]:
    """Two probes: the first weighs all layers, the second answered from ``layer``."""
    found = evaluation("run", layer, 0) | {"params": 1_000_000, "params_with_heads": 1_000_000}
    found["probes"] = {"ks": result(ks + seed / 1000, None), "qbe": result(qbe + seed / 1000, layer)}
    for name in ("teacher", "log_mel"):
        found[name] = {"name": name, "params": 6_000_000, "probes": {"ks": result(0.9, None)} | found[name]["probes"]}
    return found


def headline(layers: tuple[int, int], tmp_path: Path) -> str:
    """The page about two rows of two seeds, whose query by example answered from these layers."""
    module = import_module("headline_page")
    values = {"ours": (0.8, 0.5), "baseline": (0.7, 0.4)}
    found = [
        module.Evaluated(row, seed, evaluated(layer, seed, *values[row]), {})
        for row, layer in zip(values, layers, strict=True)
        for seed in range(2)
    ]
    rows = {row: module.Row("recipe") for row in values}
    text: str = module.page(found, rows, [("ours", "baseline")], tmp_path / "page.md")
    return text


def test_a_probe_that_both_answered_from_the_teachers_layer_0_is_not_counted(tmp_path: Path) -> None:
    page = headline((0, 0), tmp_path)
    assert "| ours | baseline | +0.000 ± 0.000 | **+0.100 ± 0.001** | layer 0 | 1, 0 of 1 |" in page
    assert "`qbe`: all answered from the teacher's layer 0: not a comparison." in page
    assert "0.500 ± 0.001 (2) (layer 0)" in page and "(0.370–0.470) (layer 0)" in page


def test_a_probe_that_one_of_them_answered_from_its_own_layer_is_counted(tmp_path: Path) -> None:
    page = headline((3, 0), tmp_path)
    assert "| ours | baseline | +0.000 ± 0.000 | **+0.100 ± 0.001** | **+0.100 ± 0.001** | 2, 0 of 2 |" in page
    assert "`qbe`: teacher and baseline answered from the teacher's layer 0: not a comparison of these." in page


def test_a_probe_that_a_row_was_not_evaluated_by_is_left_empty(tmp_path: Path) -> None:
    module = import_module("headline_page")
    whole, part = evaluated(3, 0, 0.8, 0.5), evaluated(3, 0, 0.7, 0.4)
    del part["probes"]["qbe"]
    found = [module.Evaluated("ours", 0, whole, {}), module.Evaluated("part", 0, part, {})]
    page = module.page(
        found, {name: module.Row("r") for name in ("ours", "part")}, [("ours", "part")], tmp_path / "p"
    )
    assert "| part | 0.700 (1) | – |" in page
    assert "| ours | part | +0.000 | +0.100 | – | 0, 0 of 1 |" in page


def test_the_ablation_neither_marks_nor_contrasts_them() -> None:
    cells, page = import_module("ablation_cells"), import_module("ablation_page")
    columns = list(cells.COLUMNS)[:2]
    rows = [cells.row_name("student", "true", output) for output in ("linear", "none")]
    records = [
        {"row": row, "column": column, "seed": 0, "group": "grid", "probes": {"qbe": value}, "from_layer_0": alike}
        for column, alike in ((columns[0], []), (columns[1], ["qbe"]))
        for row, value in zip(rows, (0.4, 0.5), strict=True)
    ]
    results = page.Results(records)
    alike, get = page.from_layer_0("qbe"), page.probe("qbe")
    table = page.grid_table(results, ["history", "skip", "output", *cells.COLUMNS], get, alike=alike)
    assert "**0.500** | (0.500)" in table and "0.400 | (0.400)" in table
    pairs = [((rows[1], column), (rows[0], column)) for column in columns]
    assert results.contrast(pairs, get, alike)[1] == pytest.approx([0.1])
    assert len(results.contrast(pairs, get)[1]) == 2
    crossed = [((rows[0], columns[0]), (rows[0], columns[1]))]
    assert len(results.contrast(crossed, get, alike)[1]) == 1, "one of the two has a layer of its own"
