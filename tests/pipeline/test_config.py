"""Configs: from tables to dataclasses and back, and the messages that mistakes get."""

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdist.pipeline.config import (
    build,
    differences,
    merge,
    parse_set,
    read_toml,
    readable_toml,
    require,
    signature,
    to_tables,
    to_toml,
)
from gdist.pipeline.errors import ConfigError

LIST = "it takes a list, typed train.betas=1,2,3"


@dataclass(frozen=True)
class Optim:
    steps: int = 10
    lr: float = 1e-3
    schedule: Literal["linear", "constant"] = "linear"
    betas: tuple[float, ...] = (0.9, 0.98)
    layers: int | None = None
    resume: bool = True
    note: str = ""

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"train.steps = {self.steps}: must be 1 or more", "--set train.steps=1")


@dataclass(frozen=True)
class Whole:
    train: Optim = field(default_factory=Optim)
    student: dict[str, Any] = field(default_factory=dict)


def from_sets(*assignments: str) -> Whole:
    return build(Whole, merge(*({t: {f: v}} for t, f, v in map(parse_set, assignments))))


class TestBuild:
    def test_every_kind_of_value(self) -> None:
        config = from_sets(
            "train.steps=5", "train.lr=1", "train.schedule=constant", "train.betas=[0, 0.5]", "train.layers=3",
            "train.resume=false", "student.name=gendistiller", "student.skip=true",
        )  # fmt: skip
        assert config.train == Optim(5, 1.0, "constant", (0.0, 0.5), 3, False)
        assert config.student == {"name": "gendistiller", "skip": True}
        assert isinstance(config.train.lr, float) and isinstance(config.train.betas[0], float)

    @pytest.mark.parametrize("typed", ["0.5,1", "0.5, 1", "[0.5, 1]", '"0.5,1"'])
    def test_a_list_has_several_spellings(self, typed: str) -> None:
        assert from_sets(f"train.betas={typed}").train.betas == (0.5, 1.0)

    def test_one_value_is_a_list_of_one(self) -> None:
        assert from_sets("train.betas=3").train.betas == (3.0,)
        assert from_sets("train.betas=[]").train.betas == ()

    def test_none_clears_an_optional_field(self) -> None:
        assert from_sets("train.layers=3", "train.layers=none").train.layers is None

    @pytest.mark.parametrize(
        ("assignment", "message", "hint"),
        [
            ("trian.steps=5", r"unknown table \[trian\]", "did you mean `train`?"),
            ("train.step=5", "unknown field `train.step`", "did you mean `train.steps`?"),
            ("train.zzz=5", "unknown field `train.zzz`", "known: betas, layers, lr, note, resume, schedule, steps"),
            ("train.steps=5.5", "train.steps = 5.5: expected int, got float", None),
            ("train.steps=true", "train.steps = True: expected int, got bool", None),
            ("train.lr=fast", "train.lr = 'fast': expected float, got str", None),
            ("train.resume=1", "train.resume = 1: expected bool, got int", None),
            ("train.schedule=cosine", "train.schedule = 'cosine': not one of linear, constant", None),
            (
                "train.betas=fast",
                "train.betas = 'fast': expected float, got str",
                LIST,
            ),
            (
                "train.betas=0.9,",
                "train.betas = '': expected float, got str",
                LIST,
            ),
            ('train.betas=["0.5"]', "train.betas = '0.5': expected float, got str", LIST),
            ("train.layers=2.5", "train.layers = 2.5: expected int or none, got float", None),
            ("train.lr=inf", "train.lr = inf: must be a finite number", None),
            (f"train.lr={'9' * 400}", "train.lr = inf: must be a finite number", None),
            (f"train.steps={'9' * 20}", "train.steps is too large for a 64-bit integer", None),
            (f"train.steps={'9' * 5000}", "train.steps = '9+': expected int, got str", None),
            ('train.note="a\\u007fb"', r"train.note = 'a\\x7fb': it contains '\\x7f', which no text of a", None),
            ('train.note="a\\nb"', r"it contains '\\n', which no text of a config may", None),
            ("train.note=a\udcffb", r"it contains '\\udcff', which no text of a config may", None),
            (f"train.layers={'[' * 5000}", "train.layers = ", None),
            ("train.steps=0", "train.steps = 0: must be 1 or more", "--set train.steps=1"),
        ],
    )
    def test_mistakes(self, assignment: str, message: str, hint: str | None) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            from_sets(assignment)
        assert caught.value.hint == hint
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize("text", ["train.steps", "steps=5", ".steps=5", "train.=5", "=5", ""])
    def test_not_an_assignment(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"is not table.field=value"):
            parse_set(text)

    def test_later_layers_win_field_by_field(self) -> None:
        assert merge({"a": {"x": 1, "y": 1}}, {"a": {"x": 2}}, {"b": {}}) == {"a": {"x": 2, "y": 1}, "b": {}}


class TestFiles:
    @given(
        st.dictionaries(
            st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
            st.dictionaries(
                st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
                st.integers(-(2**63), 2**63 - 1)
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.booleans()
                | st.text(st.characters(exclude_categories=["Cs"]))
                | st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
                max_size=4,
            ),
            max_size=3,
        )
    )
    def test_toml_reads_back(self, tables: dict[str, dict[str, Any]]) -> None:
        assert tomllib.loads(readable_toml(tables)) == tables

    @pytest.mark.parametrize("value", [math.inf, math.nan, "\ud800", {"a": 1}, None])
    def test_nothing_is_written_that_is_not_read_back(self, value: object) -> None:
        with pytest.raises(ConfigError, match="the config cannot be written as TOML"):
            readable_toml({"train": {"lr": value}})

    def test_a_resolved_config_reads_back(self, tmp_path: Path) -> None:
        config = from_sets("train.steps=7", "train.lr=3e-7", 'student.name=gendistiller 🙂 "é"')
        (tmp_path / "run.toml").write_text(to_toml(to_tables(config)), encoding="utf-8")
        assert build(Whole, read_toml(tmp_path / "run.toml")) == config

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("steps = 5", "`steps` is outside any table"),
            ("[train", "is not valid TOML"),
            (f"x = {'9' * 5000}", "is not valid TOML"),
            (f"x = {'[' * 5000}", "is not valid TOML: it is nested too deeply"),
            ("#" * (1 << 22) + "#", "it has 4,194,304 at most"),
            (None, "cannot read"),
        ],
    )
    def test_files_that_cannot_be_read(self, tmp_path: Path, text: str | None, message: str) -> None:
        path = tmp_path / "recipe.toml"
        if text is not None:
            path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_toml(path)


def test_a_signature_depends_on_values_and_not_on_their_order() -> None:
    one, other = {"a": {"x": 1, "y": 2}, "b": {}}, {"b": {}, "a": {"y": 2, "x": 1}}
    assert signature(one) == signature(other) == "95832a1dfcff"
    assert signature(one) != signature({"a": {"x": 1, "y": 3}, "b": {}})


def test_differences_descend_into_tables() -> None:
    old = {"teacher": {"family": "wavlm", "layers": [0, 1]}, "dim": 32, "gone": 1}
    new = {"teacher": {"family": "hubert", "layers": (0, 1)}, "dim": 32}
    assert differences(old, new) == ["gone: 1 → None", "teacher.family: wavlm → hubert"]
