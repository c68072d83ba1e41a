"""The pages of the reference that are made from the code: python docs/generate.py (`make pages`).

docs/reference/commands.md comes from the commands' own help, config.md from the dataclasses of a run's config and
their docstrings, and json.md from the types of what `--json` prints. tests/test_pages.py checks that they are up to
date; docs/schemas, which comes from the same types, is made by tests/schemas.py.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

DOCS = Path(__file__).parent
MADE = "<!-- Made by docs/generate.py: change the code, then run `make pages`. -->\n"
ENTRY = re.compile(r"    ((?:\w+, )*\w+): (.*(?:\n {8}.*)*)")


def commands() -> str:
    """The page of all commands, each with its description, its example and its options."""
    from gdist.stages.cli import main

    head = f"""# Commands

{MADE}
Data goes to stdout, messages and progress to stderr. [Commands, fields and folders](../commands.md) has what several
commands share: exit codes, progress for other programs, devices, a run's folder. What `--json` prints is on
[its own page](json.md).
"""
    with click.Context(main, info_name="gdist", max_content_width=10_000) as context:
        parts = [head, _command(main, context, "The options of `gdist` itself")]
        for name, command in _all(main, context):
            parts.append(_command(command, name, f"`{name.command_path}`"))
    return "\n".join(parts)


def _all(group: click.Group, parent: click.Context) -> Iterator[tuple[click.Context, click.Command]]:
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, parent, info_name=name, max_content_width=10_000)
        if isinstance(command, click.Group):
            yield from _all(command, context)
        else:
            yield context, command


def _command(command: click.Command, context: click.Context, title: str) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {title}", "", *_description(command.help or ""), f"`{context.command_path} {usage}`", ""]
    records = [param.get_help_record(context) for param in command.params if isinstance(param, click.Option)]
    rows = [record for record in records if record]
    lines += [
        "| option | what it does |",
        "|---|---|",
        *(f"| {_code(name)} | {_cell(text)} |" for name, text in rows),
    ]
    return "\n".join([*lines, ""])


def _description(text: str) -> Iterator[str]:
    """Paragraphs as they are, and what click leaves unwrapped as a block, with a prompt before each command."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            block = re.sub(r"^(\s*)Example:", r"\1        ", paragraph.removeprefix("\b\n"))
            typed = inspect.cleandoc("\n" + block).splitlines()
            yield "```console"
            yield from (f"$ {line}" if re.match(r"(gdist|torchrun|cat|export)\b", line) else line for line in typed)
            yield "```"
        else:
            yield " ".join(paragraph.split())
        yield ""


def config() -> str:
    """The page of the fields of a run's config."""
    from gdist.pipeline.loading import DataConfig
    from gdist.stages.students import STUDENTS, StudentConfig, student_fields
    from gdist.stages.train.augment import AugmentConfig
    from gdist.stages.train.config import OptimConfig
    from gdist.stages.train.losses import LossConfig

    parts = [
        f"""# Config fields

{MADE}
`gdist train` applies `--recipe` (a shipped name or a TOML file), then `--student`, then every
`--set table.field=value`; later ones override earlier ones. For an unknown field, the error names the nearest known
one. Lists are typed `4,8,12` (or `[4, 8, 12]`, as in TOML; a single value is a list of one), and `none` empties a
field that may be empty. The resolved config is saved in the run as `config.toml`, and `--recipe RUN/config.toml`
repeats the run. [Training](../training.md) says what these do to a student and what they cost.

The schedule is DistilHuBERT's. Two of GenDistiller's defaults are gdist's own and not the paper's: the output layer
begins at zero (so the student begins as a copy of h_0), and a learned embedding gives each step its layer.
""",
        _table("[train]", "train", OptimConfig),
        """## [student]

| field | type | default | meaning |
|---|---|---|---|
| `student.name` | text | `gendistiller` | a row of `gdist students`, or `FILE.py:CLASS` |
| `student.frontend` | `trained`, `frozen` | `trained` | frozen starts from cached layer 0, and reads no audio |
| `student.initialize` | `frontend`, `layers`, `none` | `frontend` | what is taken from the teacher: its front-end; \
also its first Transformer layers, of which a cache contains two, for a student of the teacher's width and heads; \
or nothing |
""",
    ]
    every = [field.name for field in dataclasses.fields(StudentConfig)]
    common = [name for name in student_fields("gendistiller") if name in every]
    parts.append(
        "All other fields follow from the teacher where its config has them; the defaults are for where it has not.\n"
    )
    parts.append(_table("Every student", "student", StudentConfig, common))
    for name, student in sorted(STUDENTS.own.items()):
        fields = [field for field in student_fields(name) if field not in common]
        parts.append(_table(f"`{name}`", "student", student.config_class, fields))
    parts.append(_table("[loss]", "loss", LossConfig))
    parts.append(_table("[data]", "data", DataConfig))
    parts.append(_table("[augment]", "augment", AugmentConfig))
    return "\n".join(parts)


def _table(title: str, table: str, kind: Any, names: list[str] | None = None) -> str:
    meanings: dict[str, str] = {}
    for of in reversed(kind.__mro__):
        meanings |= attributes(of)
    rows = []
    for field in dataclasses.fields(kind):
        if names is None or field.name in names:
            row = f"`{table}.{field.name}`", _type(field.type), f"`{_toml(field.default)}`"
            rows.append(f"| {' | '.join(row)} | {_cell(meanings[field.name])} |")
    head = ["## " * (not title.startswith("`")) + "### " * title.startswith("`") + title, ""]
    return "\n".join([*head, "| field | type | default | meaning |", "|---|---|---|---|", *rows, ""])


def json() -> str:
    """The page of what `--json` prints."""
    from gdist.stages.printed import PRINTED

    parts = [
        f"""# What `--json` prints

{MADE}
One JSON value on stdout. Fields are added from version to version, and never renamed. Each command has a JSON
Schema in [docs/schemas](../schemas/README.md), against which the tests check whatever is printed in them.
`gdist report` prints nothing.
"""
    ]
    for command, kinds in PRINTED.items():
        shown: list[type] = []
        parts.append(f"## `gdist {command}`\n")
        for kind in kinds:
            several, one = get_origin(kind) is list, get_args(kind)[0] if get_origin(kind) is list else kind
            if one in shown:
                parts.append("Of several, a list of these.\n")
            else:
                parts.append(_fields(one, "A list: " if several else "", shown))
    return "\n".join(parts)


def _fields(kind: Any, head: str, shown: list[type]) -> str:
    """A type's table, and after it those of the types that it contains."""
    shown.append(kind)
    about = _markdown(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0])
    lines = [
        f"{head}**{kind.__name__}**: {' '.join(about.split())}",
        "",
        "| field | type | meaning |",
        "|---|---|---|",
    ]
    meanings: dict[str, str] = {}
    for of in reversed((*getattr(kind, "__orig_bases__", ()), kind)):
        meanings |= attributes(of) if isinstance(of, type) else {}
    inside: list[Any] = []
    for name, hint in typing.get_type_hints(kind).items():
        lines.append(f"| `{name}` | {_json_type(hint, inside)} | {_cell(meanings.get(name, ''))} |")
    parts = ["\n".join([*lines, ""])]
    parts += [_fields(one, "", shown) for one in dict.fromkeys(inside) if one not in shown]
    return "\n".join(parts)


def _json_type(hint: Any, inside: list[Any]) -> str:
    """What JSON has for a type; the objects that it names are added to ``inside``."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(_json_type(one, inside) for one in args))
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in args)
    if origin in (list, tuple):
        return f"list of {_json_type(args[0], inside)}"
    if origin is dict:
        return f"object of {_json_type(args[1], inside)}"
    if typing.is_typeddict(hint):
        inside.append(hint)
        return f"**{hint.__name__}**"
    names = {int: "integer", float: "number", bool: "boolean", str: "text", type(None): "null", Any: "anything"}
    return names[hint]


def attributes(kind: type) -> dict[str, str]:
    """Each attribute or argument that a docstring describes → what it says, in Markdown."""
    text = inspect.cleandoc(vars(kind).get("__doc__") or "")
    _, _, section = text.partition("Attributes:\n" if "Attributes:\n" in text else "Args:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    found = {}
    for names, meaning in ENTRY.findall(section):
        for name in names.split(", "):
            found[name] = _markdown(" ".join(meaning.split()))
    return found


def _markdown(text: str) -> str:
    return re.sub(r":\w+:`[~.]*([^`]+)`", r"`\1`", text).replace("``", "`")


def _type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(hint))
    if get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_type(one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) in (tuple, list):
        return f"list of {_type(get_args(hint)[0])}s"
    return {int: "integer", float: "number", bool: "true, false", str: "text"}[hint]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return {None: "none", "": '""'}.get(value, str(value)) if not isinstance(value, float) else f"{value:g}"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    pieces = " ".join(text.split()).replace("|", "\\|").split("`")  # every second one is code, and stays as it is
    plain = [piece.replace("<", "&lt;").replace("*", "\\*") for piece in pieces[::2]]
    return "`".join(piece for pair in zip_longest(plain, pieces[1::2]) for piece in pair if piece is not None)


PAGES = {"commands.md": commands, "config.md": config, "json.md": json}


if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / "reference" / name).write_text(make(), encoding="utf-8")
