"""What a field does on its own, and which fields interact, against numbers that were put in by hand."""

import doctest
from itertools import product
from typing import Any

import pytest

from gdist.stages.report.sweeps import effects as module
from gdist.stages.report.sweeps import tables
from gdist.stages.report.sweeps.effects import effects, factors, interactions, noise
from gdist.stages.standings import ranking

Features = dict[str, dict[str, Any]]


def grid(**axes: list[Any]) -> Features:
    names = [f"train.{name}" for name in axes]
    return {" ".join(map(str, values)): dict(zip(names, values, strict=True)) for values in product(*axes.values())}


@pytest.mark.parametrize("each", [module, ranking, tables])
def test_worked_examples(each: Any) -> None:
    result = doctest.testmod(each)
    assert result.attempted and not result.failed


def test_effects_and_interactions_of_a_full_grid() -> None:
    """y = 0.1 a + 0.2 b + 0.5 a b, and a scatter that seeds share between points: it cancels."""
    features = grid(a=[0, 1], b=[0, 1], c=["x", "y"])
    values = {
        point: {
            seed: 0.1 * f["train.a"] + 0.2 * f["train.b"] + 0.5 * f["train.a"] * f["train.b"] + 0.01 * seed
            for seed in range(3)
        }
        for point, f in features.items()
    }
    found = factors(features, dict.fromkeys(next(iter(features.values())), ""))
    assert [factor.name for factor in found] == ["train.a", "train.b", "train.c"]
    a, b, c = effects(values, found)
    assert a.found and b.found and c.found
    assert a.found.mean == pytest.approx(0.35) and (a.found.pairs, a.found.up) == (4, 4)
    assert a.found.at_first == pytest.approx(0.1) and a.found.is_clear
    assert b.found.mean == pytest.approx(0.45) and c.found.mean == pytest.approx(0) and not c.found.up
    crossed, count = interactions(values, found)
    assert count == 3 and crossed[0].found.mean == pytest.approx(0.5) and crossed[0].found.pairs == 2
    assert crossed[0].at_level.mean == pytest.approx(0.6) and crossed[0].at_base.mean == pytest.approx(0.1)
    assert [crossed[0].one.factor.name, crossed[0].other.factor.name] == ["train.a", "train.b"]
    assert noise(values) == pytest.approx(0.01)


def test_the_error_is_that_of_the_whole_comparison_over_seeds() -> None:
    features = grid(a=[0, 1])
    values = {"0": {0: 0.0, 1: 0.0, 2: 0.0, 9: 5.0}, "1": {0: 0.1, 1: 0.2, 2: 0.3}}
    (only,) = effects(values, factors(features, {"train.a": ""}))
    assert only.found and only.found.mean == pytest.approx(0.2)  # seed 9 is not in both
    assert only.found.error == pytest.approx(0.1 / 3**0.5)
    assert effects({"0": {0: 0.0}, "1": {0: 0.1}}, factors(features, {"train.a": ""}))[0].found == module.Difference(
        0.1, None, 1, 1, 0.1
    )


def test_a_design_that_is_no_grid() -> None:
    """Pairs are where they are, their number is given, and fields without any pair have no effect."""
    features: Features = {
        "one": {"train.a": 0, "train.b": 0},
        "two": {"train.a": 1, "train.b": 0},
        "three": {"train.a": 2, "train.b": 1},
    }
    values = {point: {0: float(place)} for place, point in enumerate(features)}
    found = {(e.factor.name, e.level): e.found for e in effects(values, factors(features, dict.fromkeys("ab", "")))}
    known = found["train.a", "1"]
    assert known and known.pairs == 1 and known.error is None and not known.is_clear
    assert found["train.a", "2"] is None and found["train.b", "1"] is None
    assert interactions(values, factors(features, {})) == ([], 0)


def test_fields_that_change_together_are_one_factor() -> None:
    features: Features = {
        "short": {"train.steps": 100, "train.validate_every": 100.0, "student.name": "g"},
        "long": {"train.steps": 200, "train.validate_every": 200, "student.name": "g"},
    }
    (only,) = factors(features, dict.fromkeys(["train.steps", "train.validate_every"], ""))
    assert only.name == "train.steps, train.validate_every" and only.order == ["100", "200"]


def test_alternatives_with_recipes_of_their_own_are_points() -> None:
    """What a recipe changes is not the effect of the one field that the sweep's file happens to set."""
    features: Features = {}
    for name, lr in product(("thin", "deep"), (1e-3, 2e-3)):
        recipe = {"student.name": name, "student.width": len(name) + (name == "deep"), "train.clip": name == "thin"}
        features[f"{name} lr={lr}"] = {"train.lr": lr, **recipe}
    found = factors(features, {"train.lr": ""})
    point = next(factor for factor in found if factor.name == "point")
    assert sorted(set(point.levels.values())) == ["deep", "thin"]
    assert next(factor for factor in found if factor.name == "train.lr").numbers == {"0.001": 1e-3, "0.002": 2e-3}


def test_runs_that_are_alike_are_not_compared() -> None:
    values = {"0": {0: 0.0, 1: 0.0}, "1": {0: 0.1, 1: 0.3}}
    only = factors(grid(a=[0, 1]), {"train.a": ""})
    (found,) = effects(values, only, alike={"0": [0], "1": [0]})
    assert found.found and found.found.mean == pytest.approx(0.3)
    (found,) = effects(values, only, alike={"0": [0, 1], "1": [1]})
    assert found.found and found.found.mean == pytest.approx(0.1)
