"""What is printed is data: no name is read as markup or as an emoji, and none does anything to a terminal."""

import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from click.testing import Result
from rich.console import Console

from gdist.pipeline import console, logs, printing

Gdist = Callable[..., Result]

# A name → how it is shown.
NAMES = {
    "cv:fr:bad:100:": "cv:fr:bad:100:",
    "[red]x[": "[red]x[",
    "[bold]x[]": "[bold]x[]",
    "back\\slash\\[b]": "back\\slash\\[b]",
    "\x1b[31mred": "\\x1b[31mred",
    "over\rwritten\b\a": "over\\rwritten\\x08\\x07",
    "tab\there": "tab\\there",
    "\x9b31mc1": "\\x9b31mc1",
    "\u202egpj.exe": "\\u202egpj.exe",
    "not-utf8-\udcff": "not-utf8-\\udcff",
    "Ünïcode 日本語 👍": "Ünïcode 日本語 👍",
}
MARKUP = {"[red]x[/red]": "[red]x[/red]", "[/]": "[/]", "[link=file:///x]y[/link]": "[link=file:///x]y[/link]"}
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")

each_name = pytest.mark.parametrize(("name", "shown"), NAMES.items(), ids=ascii)


@pytest.mark.parametrize(("name", "shown"), (NAMES | MARKUP).items(), ids=ascii)
def test_every_way_to_print_shows_the_name(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.say(f"say {name}", style="yellow")
    console.settle(f"settle {name}")
    console.print_table(f"title {name}", [f"column {name}"], [[f"cell {name}"]])
    console.print_lines([f"line {name}"])
    with console.progress(f"title {name}", 2, "s") as advance:
        advance(2, f"note {name}")
    out, err = capsys.readouterr()
    for text in (f"say {shown}", f"settle {shown}", f"title {shown}: 2/2 s  note {shown}"):
        assert text in err
    for text in (f"title {shown}", f"column {shown}", f"cell {shown}", f"line {shown}"):
        assert text in out
    assert not OBEYED.search(out + err)
    console.emit({"name": name})
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"name": name} and not OBEYED.search(line)


@pytest.mark.parametrize(("name", "shown"), (NAMES | MARKUP).items(), ids=ascii)
def test_a_bar_and_what_is_waited_for_show_the_name(
    name: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    made = console._console

    def terminal(**settings: object) -> Console:
        return made(**settings, file=screen, force_terminal=True, width=200, color_system=None)

    monkeypatch.setattr(console, "_console", terminal)
    with console.progress(f"title {name}", 2, "s") as advance:
        advance(1, f"note {name}")
        console.wait_for(f"below {name}")
    console.wait_for(f"alone {name}")
    console.settle()
    drawn = screen.getvalue()
    for text in (f"title {shown}", f"note {shown}", f"below {shown}"):
        assert text in drawn
    err = capsys.readouterr().err
    assert f"alone {shown}" in err
    own = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n")  # what moves the cursor, and is ours
    assert not OBEYED.search(own.sub("", drawn.replace(f"{shown}", "")) + own.sub("", err))
    assert name == shown or name not in drawn + err


def test_a_line_break_in_a_name_stays_in_its_line() -> None:
    assert printing.printable("two\nlines\x1b") == "two\\nlines\\x1b"
    assert printing.harmless("two\nlines\x1b") == "two\nlines\\x1b"


@each_name
def test_warnings_of_logging_show_the_name(name: str, shown: str) -> None:
    before = logging.getLogRecordFactory()
    try:
        logging.setLogRecordFactory(logging.LogRecord)
        logs.make_warnings_harmless()
        make = logging.getLogRecordFactory()
        record = make("gdist", logging.WARNING, __file__, 1, "%s has none", (name,), None)
        assert logging.Formatter().format(record) == f"{shown} has none"
    finally:
        logging.setLogRecordFactory(before)


COMMANDS = (
    ("manifest", "check", "{path}"),
    ("manifest", "build", "{path}", "--out", "{path}.parquet"),
    ("inspect", "{path}"),
    ("verify", "{path}"),
    ("caches", "{path}"),
    ("doctor", "s3://bucket/{path}"),
    ("copy", "{path}", "{path}-copy"),
    ("plan", "--teacher", "{path}", "--hours", "1"),
    ("students", "--teacher", "{path}"),
    ("teachers", "--use", "{path}.py:Own"),
    ("train", "--cache", "{path}", "--out", "{path}-run"),
    ("eval", "{path}"),
    ("export", "{path}", "--format", "hf", "--out", "{path}-export"),
    ("report", "{path}", "--out", "{path}.html"),
    ("best", "{path}"),
    ("sweep", "{path}.toml", "--cache", "{path}", "--out", "{path}-sweep"),
    ("recipes", "{path}"),
    ("inspect", "{path}", "{path}"),
    ("{path}",),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_that_cannot_use_a_name_shows_it(gdist: Gdist, tmp_path: Path, command: tuple[str, ...]) -> None:
    for name, shown in NAMES.items():
        if command[0] == "manifest" and "\udcff" in name:
            continue  # such a path is none for pyarrow
        path = f"{tmp_path}/{name}"
        result = gdist(*(word.format(path=path) for word in command))
        assert result.exit_code in (1, 2), result.output
        assert shown in result.output or shown.replace("\\", 2 * "\\") in result.output  # where it is quoted
        assert not OBEYED.search(result.output)


@each_name
def test_commands_that_succeed_show_the_name(gdist: Gdist, tmp_path: Path, name: str, shown: str) -> None:
    folder = tmp_path / name
    if "\udcff" in name:
        pytest.skip("a manifest is UTF-8, and cannot hold such a path")
    folder.mkdir()
    soundfile.write(folder / f"{name}.wav", torch.randn(4000).numpy() * 0.1, 16_000)
    (folder / f"bad {name}.wav").write_bytes(b"RIFF")
    manifest = f"{folder}.parquet"
    built = gdist("manifest", "build", folder, "--out", manifest)
    checked = gdist("manifest", "check", manifest)
    for result, words in ((built, (f"{shown}.parquet: 2 utt", f"bad {shown}: ")), (checked, (f"bad {shown}: ",))):
        for word in words:
            assert word in result.stderr
        assert not OBEYED.search(result.output)
