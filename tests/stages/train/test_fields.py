"""Every field of every config and student, as typed by users: it gets the right value, or an error names it."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from transformers import WavLMConfig

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.config import to_tables
from gdist.pipeline.errors import ConfigError
from gdist.stages.estimate.prices import Prices, load_prices
from gdist.stages.students import STUDENTS, StudentConfig, student_config, student_fields
from gdist.stages.train.config import TrainConfig, load_config
from gdist.stages.train.student_store import build_student

TEACHER = WavLMConfig(num_hidden_layers=12).to_dict()
# For each type: what may be typed and the value it gives, then what may not be typed.
RIGHT: dict[Any, list[tuple[str, Any]]] = {
    int: [("2", 2), (" 2 ", 2), ("+2", 2), ("0x2", 2)],
    float: [("0.5", 0.5), ("5e-1", 0.5), ("1", 1.0)],
    bool: [("true", True), ("false", False)],
    str: [("word", "word"), ("two words", "two words"), ('"7"', "7"), ("a*,b*", "a*,b*")],
    list: [("4,8,12", [4, 8, 12]), ("4, 8, 12", [4, 8, 12]), ("[4, 8, 12]", [4, 8, 12]), ('"4,8,12"', [4, 8, 12])],
}
RIGHT[list] += [("6", [6]), ("[6]", [6])]
TRASH = ["{a = 1}", "2024-01-01", "[[1], [2]]", "1;2"]
WRONG: dict[Any, list[str]] = {
    int: ["2.0", "1e3", "true", "two", "[2]", "", '"2"', "none", "2,3", "9" * 20, "nan", *TRASH],
    float: ["true", "half", "[0.5]", "", '"0.5"', "none", "0,5", "nan", "inf", "-inf", "9" * 400, *TRASH],
    bool: ["1", "0", "yes", "True", "[true]", "", "none", *TRASH],
    str: ["7", "0.5", "true", "[]", '["a"]', "{a = 1}", "2024-01-01"],
    list: ["a,b", "4,,8", "true", "[true]", "['a']", "", "4;8", "4 8", "[4, [8]]", "{a = 1}", "2024-01-01", "nan"],
}


def plain(hint: Any) -> tuple[Any, Any, bool]:
    """(the field's type, its items' type, whether it may be none)."""
    optional = get_origin(hint) in (typing.Union, types.UnionType)
    if optional:
        (hint,) = (option for option in get_args(hint) if option is not type(None))
    if get_origin(hint) in (tuple, list):
        return list, get_args(hint)[0], optional
    return (Literal if get_origin(hint) is Literal else hint), hint, optional


def fields() -> Iterator[tuple[str, str, Any]]:
    """(student, table.field, type) of every field."""
    for table, cls in get_type_hints(TrainConfig).items():
        if dataclasses.is_dataclass(cls):
            yield from (("gendistiller", f"{table}.{name}", hint) for name, hint in get_type_hints(cls).items())
    for name in STUDENTS:
        own = {field.name: field.type for field in dataclasses.fields(STUDENTS[name].config_class)}
        yield from ((name, f"student.{field}", own[field]) for field in student_fields(name))


FIELDS = list(fields())
# What else must be set for a field to have its value.
WITH = {"train.steps": ("train.warmup_steps=0",), "train.thaw_step": ("student.frontend=frozen",)}


def ids(case: tuple[str, str, Any]) -> str:
    return f"{case[0]}-{case[1]}"


def resolved(student: str, where: str, typed: str) -> Any:
    """The value in the run's final config; for a student's field, the value in the student's config."""
    config = load_config(None, student, (*WITH.get(where, ()), f"{where}={typed}"))
    table, field = where.split(".")
    if table != "student":
        return getattr(getattr(config, table), field)
    own = {key: value for key, value in config.student.items() if key in student_fields(student)}
    return getattr(student_config(student, TEACHER, **own), field)


def test_there_is_something_to_type() -> None:
    kinds = {plain(hint)[0] for _, _, hint in FIELDS}
    assert kinds == {int, float, bool, str, list, Literal} and len(FIELDS) > 80


@pytest.mark.parametrize("case", FIELDS, ids=ids)
def test_a_right_value_is_taken(case: tuple[str, str, Any]) -> None:
    """Values out of a field's range are refused by a message that names the field; no value becomes another."""
    student, where, hint = case
    kind, inner, optional = plain(hint)
    taken = 0
    for typed, value in RIGHT.get(kind, [(option, option) for option in get_args(inner)]):
        try:
            found = resolved(student, where, typed)
        except ConfigError as error:
            assert where in error.message or where.split(".")[1] in error.message, (typed, error)  # its range
            continue
        taken += 1
        wanted = value if kind is not list else [inner(item) for item in value]
        found = list(found) if kind is list else found
        assert found == wanted and type(found) is type(wanted), typed
        assert kind is not list or all(type(item) is inner for item in found)
    # These values do not suit every field: some need two bounds or a divisor. RANGES below has values for those.
    assert taken or where in RANGES
    if optional:
        resolved(student, where, "none")


RANGES = {
    **dict.fromkeys(("train.betas", "augment.noise_snr_db", "augment.speech_snr_db"), ("0.5,0.9", (0.5, 0.9))),
    **dict.fromkeys(("augment.reverb_rt60", "augment.reverb_drr_db"), ("0.5,0.9", (0.5, 0.9))),
    "loss.name": ("mse", "mse"),
    "student.width": ("24", 24),
    "train.warmup_steps": ("2", 2),
}


@pytest.mark.parametrize("where", RANGES)
def test_fields_with_a_special_range(where: str) -> None:
    typed, value = RANGES[where]
    assert resolved("fithubert", where, typed) == value


@pytest.mark.parametrize("case", FIELDS, ids=ids)
def test_a_wrong_value_is_named(case: tuple[str, str, Any]) -> None:
    student, where, hint = case
    kind, _, optional = plain(hint)
    for typed in WRONG.get(kind, ["neither", "1", "true", "[]", "", "{a = 1}"]):
        if optional and typed == "none":
            continue
        with pytest.raises(ConfigError) as caught:
            resolved(student, where, typed)
        assert where in caught.value.message, (typed, caught.value)
        reasons = ("expected", "not one of", "too large", "must be a finite number")
        assert any(reason in str(caught.value) for reason in reasons), (typed, caught.value)


@pytest.mark.parametrize("typed", ["7", "[]", "{a = 1}", "true", "gendistilller"])
def test_a_student_that_is_not_a_name(typed: str) -> None:
    with pytest.raises(ConfigError, match="there is no such student"):
        load_config(None, None, (f"student.name={typed}",))


@pytest.mark.parametrize("field", ["frontend", "initialize"])
@pytest.mark.parametrize("typed", ["7", "[]", "{a = 1}", "true", "all"])
def test_fields_that_every_student_has(field: str, typed: str) -> None:
    with pytest.raises(ConfigError, match=rf"student.{field} = .* not one of"):
        load_config(None, None, (f"student.{field}={typed}",))


def test_another_spelling_is_the_same_config() -> None:
    typed = [load_config(None, "distilhubert", (f"student.predict_layers={t}",)) for t in ("4,8", "[4, 8]", '"4,8"')]
    assert len({json.dumps(to_tables(config)) for config in typed}) == 1


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Prices)])
def test_prices(field: str, tmp_path: Path) -> None:
    for typed in ("true", "[1]", "nan", "inf", "7" if field == "currency" else '"7"'):
        (tmp_path / "prices.toml").write_text(f"[prices]\n{field} = {typed}\n")
        with pytest.raises(ConfigError, match=f"prices.{field} = "):
            load_prices(tmp_path / "prices.toml")


# Values of the right type that no student can have. Python callers and config.json get the same checks.
IMPOSSIBLE: list[tuple[str, Any]] = [
    ("hidden_size", 0), ("hidden_size", 32.0), ("hidden_size", True), ("num_attention_heads", 0),
    ("num_attention_heads", "2"), ("num_teacher_layers", 0), ("num_teacher_layers", 2.0), ("intermediate_size", 0),
    ("intermediate_size", -1), ("intermediate_size", 1.5), ("layer_norm_eps", 0.0), ("layer_norm_eps", -1e-5),
    ("layer_norm_eps", "small"), ("layer_norm_eps", float("nan")), ("initializer_range", 0.0), ("pre_norm", 1),
    ("do_normalize", "no"), ("dropout", -0.1), ("dropout", 1.0), ("dropout", "a"), ("dropout", False),
    ("predict_layers", 3), ("predict_layers", []), ("predict_layers", [0]), ("predict_layers", [True]),
    ("predict_layers", [1.0]), ("predict_layers", ["1"]), ("predict_layers", "1,2"), ("num_layers", 0),
    ("num_layers", 1.5), ("num_layers", True), ("width", 0), ("width", 24.0), ("width", "24"), ("reuse", 0),
    ("reuse", 1.5), ("rollout", -1), ("rollout", 0.5), ("adapter_rank", -1), ("adapter_rank", True),
    ("distinct_steps", 0), ("distinct_steps", 99), ("distinct_steps", "1"), ("mixed_teacher_ratio", 2),
    ("mixed_teacher_ratio", "1"), ("mixed_teacher_ratio", float("nan")), ("skip", 1), ("layer_embedding", None),
    ("final_norm", 1),
    ("history", 1), ("fed_by", "nobody"), ("output_layer", None), ("output_init", "one"),
]  # fmt: skip


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize(("field", "value"), IMPOSSIBLE, ids=lambda part: str(part))
def test_values_that_no_student_can_have(name: str, field: str, value: Any) -> None:
    cls: type[StudentConfig] = STUDENTS[name].config_class
    if field not in {f.name for f in dataclasses.fields(cls)}:
        pytest.skip("not a field of this student")
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_teacher_layers": 3}
    cls(**small)
    with pytest.raises(ValueError, match=f"^{field} is "):
        cls(**(small | {field: value}))


def test_every_field_has_an_impossible_value() -> None:
    tried = {field for field, _ in IMPOSSIBLE}
    assert {field for name in STUDENTS for field in student_fields(name)} <= tried


@pytest.mark.parametrize(
    ("student", "settings", "message"),
    [
        ("fithubert", (), "they are 32 wide, but its blocks are 20"),
        ("armhubert", (), "they are 32 wide, but its blocks are 20"),
        (
            "armhubert",
            ("student.width=32", "student.intermediate_size=64"),
            "k_proj.bias is 32 in the teacher, but absent",
        ),
        ("distilhubert", ("student.num_layers=3",), "it has 3, but only 2 of the teacher's are available"),
        ("gendistiller", ("student.num_layers=3",), "it has 3, but only 2 of the teacher's are available"),
        ("gendistiller", ("student.width=16",), "they are 32 wide, but its blocks are 16"),
        ("distilhubert", ("student.intermediate_size=48",), "dense.bias is 64 in the teacher, but 48 in the student"),
        ("distilhubert", ("student.num_attention_heads=4",), "heads = 2, but student.num_attention_heads is 4"),
        ("distilhubert", ("student.pre_norm=true",), "pre_norm = False, but student.pre_norm is True"),
    ],
)
def test_layers_that_do_not_fit(tiny_cache: Path, student: str, settings: tuple[str, ...], message: str) -> None:
    config = load_config(None, student, ("student.initialize=layers", *settings))
    with pytest.raises(ConfigError, match=message) as caught:
        build_student(Cache.open(str(tiny_cache)), config)
    assert caught.value.message.startswith("student.initialize = layers")
    assert caught.value.hint is not None and "--set student.initialize=frontend" in caught.value.hint


def test_layers_for_a_student_without_any(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own student made of convolutions only would silently train from random weights."""
    monkeypatch.setattr(STUDENTS["distilhubert"], "layers", lambda self: ())
    with pytest.raises(ConfigError, match="which has no Transformer layers"):
        build_student(Cache.open(str(tiny_cache)), load_config(None, "distilhubert", ("student.initialize=layers",)))


@pytest.mark.parametrize("student", ["distilhubert", "gendistiller", "fithubert"])
def test_layers_that_fit_are_taken(tiny_cache: Path, student: str) -> None:
    wide = ("student.width=32", "student.intermediate_size=64", "student.num_layers=2") * (student == "fithubert")
    built: Any = build_student(
        Cache.open(str(tiny_cache)), load_config(None, student, ("student.initialize=layers", *wide))
    )
    fresh: Any = build_student(Cache.open(str(tiny_cache)), load_config(None, student, wide))
    for own, other in zip(built.layers(), fresh.layers(), strict=True):
        assert not own.attention.v_proj.weight.equal(other.attention.v_proj.weight)
