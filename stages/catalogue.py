"""The choices that are available: `gdist recipes`, `gdist students`, `gdist teachers` and `gdist encodings`."""

from collections.abc import Sequence

import click

from gdist.pipeline import console
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.config import did_you_mean
from gdist.pipeline.errors import EXIT_OK, UsageError
from gdist.pipeline.extensions import use


def recipes_command(name: str | None, as_json: bool) -> int:
    """Print the table of recipes and sweeps that ship; or one of them, to be copied and changed."""
    from gdist.stages.train.recipes import shipped

    known = shipped()
    if name is not None and name not in known:
        raise UsageError(f"no recipe or sweep {name!r}", did_you_mean(name, known))
    chosen = list(known.values()) if name is None else [known[name]]
    rows = [{"name": one.name, "kind": one.kind, "about": one.about, "path": str(one.path)} for one in chosen]
    if as_json:
        console.emit(rows if name is None else rows[0] | {"text": chosen[0].text})
        return EXIT_OK
    if name is not None:
        click.echo(chosen[0].text, nl=False)
        return EXIT_OK
    width = max(len(row["name"]) for row in rows)
    for kind, title in (("recipe", "gdist train --recipe NAME"), ("sweep", "gdist sweep NAME")):
        click.echo(title)
        for row in rows:
            if row["kind"] == kind:
                click.echo(f"  {row['name']:{width}}  {row['about']}")
    return EXIT_OK


def students_command(teacher: str | None, uses: Sequence[str], as_json: bool) -> int:
    """Print the table of students, with their sizes for a teacher."""
    from gdist.stages.students import STUDENTS, student_fields, student_sizes
    from gdist.stages.teachers import num_params, read_teacher_config

    use(uses, STUDENTS)
    config = read_teacher_config(teacher) if teacher else None
    sizes = student_sizes(config, teacher, num_params(config)) if teacher and config else student_sizes()
    if as_json:
        console.emit(sizes)
        return EXIT_OK
    rows = [
        [
            str(size["name"]),
            f"{size['params'] / 1e6:.2f} M",
            f"{size['params_with_heads'] / 1e6:.2f} M",
            f"{size['reduction']:.1%}",
        ]
        for size in sizes
    ]
    title = f"students of {sizes[0]['teacher']} ({sizes[0]['teacher_params'] / 1e6:.2f} M parameters)"
    console.print_table(title, ["student", "parameters", "with heads", "smaller by"], rows)
    for name in STUDENTS:
        fields = ", ".join(f"{key}={value}" for key, value in student_fields(name).items())
        console.say(f"{name}: --set student.FIELD=VALUE with {fields}")
    return EXIT_OK


def teachers_command(uses: Sequence[str], as_json: bool) -> int:
    """Print the table of teacher families."""
    from gdist.stages.frontend.kinds import kind_of
    from gdist.stages.teachers import FAMILIES

    use(uses, FAMILIES)
    rows = [
        {"family": name, "model": family.model_class.__name__, "frontend": kind_of(name)}
        for name, family in FAMILIES.items()
    ]
    if as_json:
        console.emit(rows)
    else:
        console.print_table("teachers", ["family", "loads with", "front-end"], [list(row.values()) for row in rows])
    return EXIT_OK


def encodings_command(uses: Sequence[str], as_json: bool) -> int:
    """Print the table of encodings."""
    use(uses, ENCODINGS)
    rows = [
        {
            "name": name,
            "bytes_per_value": kind.bytes_per_value,
            "relative_error": kind.relative_error,
            "largest": kind.largest,
            "description": (type(kind).__doc__ or "").split("\n")[0],
        }
        for name, kind in ENCODINGS.items()
    ]
    if as_json:
        console.emit(rows)
    else:
        table = [
            [str(r["name"]), str(r["bytes_per_value"]), f"{r['relative_error']:.1e}", str(r["description"])]
            for r in rows
        ]
        console.print_table("encodings", ["name", "bytes per value", "relative error", "description"], table)
    return EXIT_OK
