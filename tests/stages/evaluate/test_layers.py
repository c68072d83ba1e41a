"""Every result says which layer it is from, and results from the teacher's layer 0 are not compared."""

import doctest
import json
from pathlib import Path
from typing import Any

import pytest
from test_train import run, short

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading.splits import DataConfig
from gdist.pipeline.run import Run
from gdist.pipeline.run.snapshot import snapshot
from gdist.stages.evaluate import layers
from gdist.stages.evaluate.bench import Bench
from gdist.stages.evaluate.evaluate import evaluate
from gdist.stages.evaluate.layers import Alike, answered_alike, layer_read, whose_layer_0
from gdist.stages.evaluate.tables import show


def test_worked_examples() -> None:
    result = doctest.testmod(layers)
    assert result.attempted and not result.failed


@pytest.fixture(scope="module")
def bench(tiny_cache: Path) -> Bench:
    return Bench(Cache.open(str(tiny_cache)), DataConfig(), {})


@pytest.mark.parametrize(
    ("fields", "whose"),
    [
        ({"student__frontend": "frozen"}, "teacher"),
        ({"student__frontend": "frozen", "train__ema_decay": 0.9}, "teacher"),
        ({"student__frontend": "frozen", "train__thaw_step": 5}, "own"),
        ({"student__frontend": "trained"}, "own"),
        ({"student__frontend": "trained", "student__initialize": "none"}, "own"),
    ],
)
def test_whose_layer_0_a_student_has(
    tiny_cache: Path, bench: Bench, tmp_path: Path, fields: dict[str, Any], whose: str
) -> None:
    """It is told by the weights; of older evaluations, the config says the same."""
    run(tiny_cache, tmp_path / "run", short("distilhubert", **fields))
    trained = Run(tmp_path / "run")
    found = evaluate(snapshot(trained.folder), bench)
    assert found["layer_0"] == whose
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["layer_0"] == whose
    older = {key: value for key, value in found.items() if key != "layer_0"}
    assert whose_layer_0(older, trained.tables()) == whose


def result(value: float, layer: int | None, states: int = 4, **more: Any) -> dict[str, Any]:
    weights = [1 / states] * states if layer is None else [float(k == layer) for k in range(states)]
    known = {"title": "query by example", "metric": "mean average precision", "higher_is_better": True}
    known |= {"value": value, "low": value - 0.05, "high": value + 0.05, "chance": 0.1, "test_items": 60}
    return known | {"shuffled": None, "layer": layer, "layer_weights": weights} | more


def evaluation(run: str, layer: int | None, teachers: int | None, layer_0: str = "teacher") -> dict[str, Any]:
    """What eval.json says of a student that answered from ``layer``, where its teacher answered from ``teachers``."""
    rows = [{"layer": 1, "cosine": 0.9}]
    return {
        "run": run,
        "layer_0": layer_0,
        "layers": rows,
        "references": {"copy_h0": rows, "mean_frame": rows},
        "mean_cosine": 0.9,
        "utterances": 8,
        "split": "test",
        "probes": {"qbe": result(0.426, layer)},
        "teacher": {"probes": {"qbe": result(0.42, teachers)}},
        "log_mel": {"probes": {"qbe": result(0.25, 0, states=1)}},
    }


def test_which_layer_was_read() -> None:
    assert layer_read(result(0.4, 2)) == 2
    assert layer_read(result(0.4, None)) is None
    assert layer_read(result(0.4, 0, states=1)) is None, "log-mel has no layers"
    assert layer_read({"value": 0.4}) is None and layer_read({"layer_weights": []}) is None
    assert layer_read({"layer": 3}) == 3, "a probe of one's own may give no weights"


@pytest.mark.parametrize(
    ("first", "second", "teachers", "alike"),
    [
        ((0, "teacher"), (0, "teacher"), 0, Alike(True, ("a", "b"))),
        ((0, "teacher"), (0, "teacher"), 2, Alike(False, ("a", "b"))),
        ((0, "teacher"), (0, "own"), 0, Alike(True, ("a",), ("b",))),
        ((0, "teacher"), (2, "teacher"), 0, Alike(True, ("a",), ("b",))),
        ((0, "teacher"), (0, "own"), 2, Alike()),  # the only one: it can be compared
        ((0, "own"), (0, "own"), 0, Alike()),
        ((2, "teacher"), (2, "teacher"), 2, Alike()),  # each has a layer 2 of its own
        ((None, "teacher"), (None, "teacher"), None, Alike()),
    ],
)
def test_who_answered_alike(
    first: tuple[int | None, str], second: tuple[int | None, str], teachers: int | None, alike: Alike
) -> None:
    systems = {
        name: [evaluation(name, layer, teachers, whose)] for name, (layer, whose) in (("a", first), ("b", second))
    }
    assert answered_alike("qbe", systems) == alike
    assert answered_alike("ks", systems) == Alike()


def test_seeds_are_alike_only_together() -> None:
    seeds = [evaluation("a-0", 0, 0), evaluation("a-1", 2, 0)]
    assert answered_alike("qbe", {"a": seeds}) == Alike()
    assert answered_alike("qbe", {"a": seeds[:1] * 2}) == Alike(True, ("a",))


def test_the_printed_table(capsys: pytest.CaptureFixture[str]) -> None:
    show([evaluation("first", 0, 0), evaluation("second", 0, 0)])
    shown = capsys.readouterr().out
    assert "  qbe: query by example, mean average precision, from one layer; all answered from the teacher's" in shown
    assert "layer 0: not a comparison\n" in shown
    assert shown.count("(layer 0)") == 3 and shown.count("–") == 1, "only log-mel has an interval"

    # Runs in different folders may share a name.
    show([evaluation("same", 0, 0), evaluation("same", 0, 0, "own"), evaluation("same", 3, 0)])
    shown = capsys.readouterr().out
    assert "; teacher and same answered from the teacher's layer 0: not a comparison of these\n" in shown
    assert shown.count("(layer 0)") == 3 and shown.count("(layer 3)") == 1
    assert shown.count("–") == 3, "two students that can be compared, and log-mel"

    show([evaluation("first", None, None)])
    shown = capsys.readouterr().out
    assert "from a learned sum of layers\n" in shown and "(layer" not in shown and "not a comparison" not in shown


def test_names_are_counted_where_there_are_many() -> None:
    names = tuple(f"run-{n}" for n in range(5))
    note = Alike(True, names, ("another",)).note
    assert note.startswith("teacher, run-0, run-1 and 3 more answered from the teacher's layer 0: not a comparison")
    assert Alike(False, names).note.startswith("all students answered from the teacher's layer 0")
