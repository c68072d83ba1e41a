"""A sweep's answer as a page of Markdown for a folder of docs: `gdist report DIR --format md --out FILE.md`.

Everything is generated, except for the notes between their marks, which are kept from an earlier page.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from gdist.pipeline.errors import UsageError
from gdist.pipeline.staging import write_atomically
from gdist.stages.report.drawing import standalone
from gdist.stages.report.story import short_name
from gdist.stages.report.sweeps import figures, md_effects, md_tables
from gdist.stages.report.sweeps.board import Board, measured
from gdist.stages.report.sweeps.commands import commands
from gdist.stages.report.sweeps.section import Section
from gdist.stages.report.tables import Table

BEGIN, END = "<!-- notes -->", "<!-- /notes -->"
APART = (
    "A cosine to one teacher says nothing beside a cosine to another, so the students of each teacher are ranked on "
    "their own."
)
NOTES = re.compile(f"{BEGIN}.*{END}", re.DOTALL)


def write_page(sections: Sequence[tuple[str, Section]], out: Path, title: str | None = None) -> None:
    """Write the page and its figures. The same inputs give the same bytes.

    Args:
        sections: teacher → the sweep of its students, each a part of the page where there are several.

    Raises:
        UsageError: there is a file at ``out`` that gdist did not write: it has no notes.
    """
    notes, several = _notes(out), len(sections) > 1
    name = sections[0][1].name if not several else f"{sections[0][1].name}, students of {len(sections)} teachers"
    parts = [
        f"# {title or name[:1].upper() + name[1:]}",
        "Written by `gdist report … --format md`; only the notes are written by hand.",
        notes,
    ]
    if several:
        parts.append(APART)
    out.parent.mkdir(parents=True, exist_ok=True)
    for teacher, section in sections:
        stem = f"{out.stem}-{_slug(teacher)}" if several else out.stem
        drawn = {f"{stem}-{_slug(name)}.svg": (name, drawing) for name, drawing in _figures(section)}
        for file, (_, drawing) in drawn.items():
            write_atomically(out.parent / file, standalone(drawing))
        text = body(section, {name: f"![{name}]({file})" for file, (name, _) in drawn.items()})
        if several:
            parts.append(f"## Students of {short_name(teacher)}")
            text = re.sub(r"^#", "##", text, flags=re.MULTILINE)
        parts.append(text)
    write_atomically(out, "\n\n".join(parts) + "\n")


def body(section: Section, links: dict[str, str]) -> str:
    """The text about the students of one teacher.

    Args:
        links: name of a figure → its link.
    """
    board = section.board
    parts = [
        "## Which student to take",
        _sentences([*section.take, *section.others, *section.gaps]),
        "## What was run",
        _setting(board),
        f"```\n{commands(board)}\n```",
        *_fidelity(section, links),
        *_probes(board),
        *_pairwise(board),
        *_effects(section, links),
        *_search(section, links),
        "## What it cost",
        _sentences(section.cost),
    ]
    return "\n\n".join(part for part in parts if part)


def _fidelity(section: Section, links: dict[str, str]) -> list[str]:
    board = section.board
    front = Markup(
        "On the Pareto front of parameters, {} and {}: {}. Filled markers are on it; whiskers reach from the "
        "worst seed to the best."
    ).format(section.compute, board.metric, section.front_names)
    by_layer = md_tables.layers(board)
    return [
        "## Fidelity, size and cost",
        f"Means over seeds ± their standard deviation; where a point has fewer seeds than others, their number is in "
        f"brackets. {section.noise}",
        md_tables.fidelity(board),
        by_layer and f"Cosine by layer{'' if len(board.few()) == len(board.points) else ', of some of the points'}:",
        by_layer,
        _references(board),
        *(links[name] for name, _ in _front_figures(section)),
        _sentences([front]) if section.on_front else "",
    ]


def _probes(board: Board) -> list[str]:
    names = md_tables.probe_names(board)
    if not names:
        return []
    return [
        "## Probes",
        "For students, the mean over seeds ± their standard deviation; for teacher and log-mel, the value and its "
        "95 % interval over test items. A student's own interval is as wide as the teacher's: these test items "
        "cannot resolve smaller differences.",
        md_tables.probes(board, names),
        f'Where a probe chose one layer, it is in brackets; "{md_tables.NONE}" is a probe that was not run.',
        *md_tables.not_compared(board, names),
    ]


def _pairwise(board: Board) -> list[str]:
    names = md_tables.probe_names(board)
    first = next(point for point in board.points if point.standing)
    others = [board.first] if board.first is first else [board.first, first]
    found = [text for other in others if (text := md_tables.ahead(board, other, names))]
    if not found:
        return []
    more = (
        " The last column counts the probes in which it is clearly ahead and clearly behind, of those that can be "
        "compared: where both answered from the teacher's layer 0, there is no comparison, and the cell says so."
        if names
        else ""
    )
    count = len(board.few())
    some = f" Of {len(board.points)} points, {count} are shown: the best ones, and the first of each alternative."
    some = "" if count == len(board.points) else some
    return [
        "## Every point against the best" + (" and the first" if len(others) > 1 else ""),
        "By how much a point is ahead (+) or behind (−), whichever direction is better: the difference of the means "
        "± its standard error over seeds, **bold** where it is at least twice that. All students were evaluated on "
        f"the same items, whose own scatter is not included.{more}{some}",
        *found,
    ]


def _effects(section: Section, links: dict[str, str]) -> list[str]:
    found = md_effects.marginal(section, md_tables.probe_names(section.board))
    if not found:
        return ["## Every field on its own", md_tables.cell(section.unpaired)] if section.unpaired else []
    return [
        "## Every field on its own",
        "The mean over all pairs of points that differ in this field alone, averaged within each seed first, ± its "
        "standard error over seeds, **bold** where it is at least twice that; ahead is +, whichever direction is "
        "better. Then in how many pairs it is ahead, and by how much in the pair with the first point. Fields "
        "that always change together have one row.",
        found,
        md_tables.cell(section.unpaired),
        *(links[name] for name, _ in section.numeric),
        "### Fields that interact",
        md_effects.interactions(section),
        section.interactions_note,
    ]


def _search(section: Section, links: dict[str, str]) -> list[str]:
    stopped = section.stopped
    parts = [*(links[name] for name, _ in section.history), _table(stopped) if stopped else ""]
    return ["## The search", *parts] if any(parts) else []


def _setting(board: Board) -> str:
    """The teacher, the seeds and the speech that students were evaluated on."""
    teacher = board.teacher
    size = f" ({teacher['params'] / 1e6:.2f} M parameters)" if teacher["params"] else ""
    text = f"The teacher {short_name(str(teacher['name']))}{size}, run once, and students from its cache. "
    seeds = sorted({entry.seed for entry in board.sweep.entries})
    text += f"{len(board.points)} points, with `train.seed` {', '.join(map(str, seeds))}. "
    if not board.evaluated:
        return text + "They are judged by the last validation in training."
    first = board.evaluated[0].eval
    count = len(board.evaluated)
    which = "They" if count == len(board.runs) else f"{count} of the {len(board.runs)} runs"
    text += f"{which} were evaluated on {first['utterances']} utterances of the `{first['split']}` split"
    if first.get("minutes"):
        text += f" (`gdist eval --minutes {first['minutes']:g}`: at most so many of each voice in each split)"
    return text + ", in free-running generation. docs/probes.md describes the probes."


def _references(board: Board) -> str:
    """The two trivial predictions."""
    found = [run.eval.get("references") or {} for run in board.evaluated]
    means = {
        key: [sum(row["cosine"] for row in one[key]) / len(one[key]) for one in found if one.get(key)]
        for key in ("copy_h0", "mean_frame")
    }
    if not all(means.values()):
        return ""
    best = {key: max(values) for key, values in means.items()}
    return f"Copying layer 0 to every layer gives {best['copy_h0']:.3f}, the mean frame {best['mean_frame']:.3f}."


def _front_figures(section: Section) -> figures.Figures:
    found = section.front_figures
    fidelity = section.board.fidelity
    if section.board.metric not in (fidelity, "cosine"):
        found = [*found, *figures.cosine_by_compute(section.board, measured(fidelity))]
    return found


def _figures(section: Section) -> figures.Figures:
    return [*_front_figures(section), *section.numeric, *section.history]


def _notes(out: Path) -> str:
    if not out.exists():
        return f"{BEGIN}\n{END}"
    kept = NOTES.search(out.read_text(encoding="utf-8"))
    if kept is None:
        raise UsageError(
            f"{out} exists and has no {BEGIN} … {END}, so it may be somebody's own work",
            "choose another --out, or put these marks around what is to be kept",
        )
    return kept[0]


def _sentences(found: Sequence[Markup]) -> str:
    """Sentences of the HTML page as Markdown."""
    text = " ".join(map(str, found)).replace("\N{NO-BREAK SPACE}", " ")
    text = re.sub(r"</?b>", "**", text)
    text = text.replace("&#39;", "'").replace("&#34;", '"')  # but "<" remains "&lt;": names are no HTML here either
    return re.sub(r"</?code>", "`", text)


def _table(found: Table) -> str:
    heads = [found.head, *(f"{column.head} {column.note}".strip() for column in found.columns)]
    return md_tables.table(heads, [[row.head, *(cell.text for cell in row.cells)] for row in found.rows])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
