"""The command line as scripts and people use it: fast help, examples that parse, JSON with the documented fields."""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.errors import CacheError, UsageError
from gdist.stages.cli import main
from gdist.stages.commandline import Command, InOrder

Gdist = Callable[..., Result]
HEAVY = ("torch", "torchaudio", "transformers", "zarr", "pyarrow", "numpy", "soundfile", "matplotlib", "sklearn")


def commands(
    group: click.Group = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, one in group.commands.items():
        if isinstance(one, click.Group):
            yield from commands(one, (*path, name))
        else:
            yield (*path, name), one


COMMANDS = dict(commands())


class TestHelp:
    def test_it_is_quick_and_loads_nothing_heavy(self) -> None:
        """In a separate process; shell completion and every new user call `gdist --help`."""
        code = (
            "import sys, time; began = time.perf_counter()\n"
            "from gdist.stages.cli import main\n"
            "try: main(['--help'])\n"
            "except SystemExit: pass\n"
            "print(time.perf_counter() - began, *sys.modules, file=sys.stderr)"
        )
        seconds = []
        for _ in range(3):  # the best of three: other processes may be using the machine
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            taken, *loaded = done.stderr.split()
            assert not set(HEAVY) & set(loaded)
            assert "gdist extract --teacher" in done.stdout
            seconds.append(float(taken))
        assert min(seconds) < 0.5

    def test_the_console_script(self) -> None:
        script = Path(sys.executable).with_name("gdist")
        began = time.monotonic()
        done = subprocess.run([script, "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("Usage: gdist")
        assert time.monotonic() - began < 10  # the bound that matters is above; this one detects a script that hangs
        assert subprocess.run([script, "--version"], capture_output=True, text=True).stdout.startswith(
            "gdist, version "
        )
        unknown = subprocess.run([script, "extrct"], capture_output=True, text=True)
        assert unknown.returncode == 2 and not unknown.stdout and "No such command 'extrct'" in unknown.stderr

    @pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
    def test_every_command_explains_itself(self, path: tuple[str, ...]) -> None:
        result = CliRunner().invoke(main, [*path, "--help"])
        assert result.exit_code == 0
        assert f"Example:  gdist {' '.join(path)}" in result.stdout

    @pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
    def test_every_example_parses(self, path: tuple[str, ...]) -> None:
        """No example uses an option that was renamed."""
        examples = re.findall(r"Example:  gdist (.*)", COMMANDS[path].help or "")
        assert examples
        for example in examples:
            arguments = shlex.split(example)
            assert tuple(arguments[: len(path)]) == path
            COMMANDS[path].make_context(path[-1], arguments[len(path) :])

    def test_the_overview_parses_too(self) -> None:
        lines = [line.strip() for line in (main.help or "").splitlines() if line.strip().startswith("gdist ")]
        assert len(lines) >= 5
        for line in lines:
            arguments = shlex.split(re.split(r"\s{3,}(?=the )", line)[0])[1:]
            path = next(path for path in COMMANDS if tuple(arguments[: len(path)]) == path)
            COMMANDS[path].make_context(path[-1], arguments[len(path) :])

    def test_options_are_described(self) -> None:
        for path, one in COMMANDS.items():
            for option in one.params:
                if isinstance(option, click.Option) and option.name != "help" and not option.hidden:
                    described = option.help or isinstance(option.type, click.Choice)
                    assert described, f"gdist {' '.join(path)} {option.opts[0]}"


class TestJson:
    """One object (or list), alone on stdout."""

    def test_extract(self, gdist: Gdist, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        arguments = ["--teacher", tiny_teacher, "--manifest", speech, "--cache", tmp_path / "c", "--pack-frames", 512]
        fields = {"utterances", "frames", "audio_seconds", "seconds", "realtime_factor", "bytes", "packs"}
        fields |= {"packs_resumed", "quarantined"}
        first = gdist("extract", *arguments, "--json")
        assert first.exit_code == 0
        assert fields <= json.loads(first.stdout).keys()
        assert "extract: " in first.stderr and "real time" in first.stderr  # progress goes to stderr
        again = json.loads(gdist("extract", *arguments, "--json").stdout)
        assert again["packs_resumed"] == again["packs"] == 9
        for_people = gdist("extract", *arguments)
        assert "signal to noise" in for_people.stdout and "30 utterances" in for_people.stderr
        planned = json.loads(gdist("extract", *arguments, "--dry-run", "--json").stdout)
        assert {"utterances", "frames", "audio_seconds", "bytes", "packs"} <= planned.keys()

    def test_inspect(self, gdist: Gdist, tiny_cache: Path) -> None:
        found = json.loads(gdist("inspect", tiny_cache, "--json").stdout)
        assert (found["utterances"], found["packs"], found["packs_done"], found["format"]) == (30, 9, 9, 1)
        assert found["identity"]["teacher"]["family"] == "wavlm" and found["identity"]["encoding"] == "fp16"
        assert found["bytes"] == sum(path.stat().st_size for path in tiny_cache.rglob("*") if path.is_file())
        assert [layer["layer"] for layer in found["layers"]] == [0, 1, 2, 3]
        for layer in found["layers"]:
            assert (
                0.5 < layer["rms"] < 2 < layer["max_abs"] < 20
            )  # a random Base model ends each layer in a LayerNorm
        table = gdist("inspect", tiny_cache)
        assert table.exit_code == 0 and "30 utterances" in table.stdout and "9 of 9 done" in table.stdout

    def test_verify(self, gdist: Gdist, tiny_cache: Path) -> None:
        found = json.loads(gdist("verify", tiny_cache, "--json").stdout)
        assert {"ok", "packs", "bad"} <= found.keys() and found["ok"] is True

    def test_encodings(self, gdist: Gdist) -> None:
        found = json.loads(gdist("encodings", "--json").stdout)
        assert [row["name"] for row in found] == list(ENCODINGS)
        assert all(row["bytes_per_value"] > 0 and row["description"] for row in found)
        assert all(name in gdist("encodings").stdout for name in ENCODINGS)

    def test_teachers(self, gdist: Gdist) -> None:
        found = json.loads(gdist("teachers", "--json").stdout)
        assert {row["family"] for row in found} >= {"wavlm", "hubert", "wav2vec2", "data2vec-audio"}
        assert "wavlm" in gdist("teachers").stdout

    def test_students(self, gdist: Gdist) -> None:
        """The published sizes, for WavLM Base."""
        found = {row["name"]: row for row in json.loads(gdist("students", "--json").stdout)}
        for row in found.values():
            assert row.keys() == {"name", "params", "params_with_heads", "teacher", "teacher_params", "reduction"}
            assert row["teacher_params"] == pytest.approx(94.4e6, abs=0.05e6)
        assert found["gendistiller"]["params"] == pytest.approx(16.99e6, abs=0.02e6)
        assert found["gendistiller"]["reduction"] == pytest.approx(0.820, abs=0.0005)
        assert found["distilhubert"]["params_with_heads"] == pytest.approx(25.26e6, abs=0.03e6)

    def test_students_of_another_teacher(self, gdist: Gdist, tiny_teacher: Path) -> None:
        found = json.loads(gdist("students", "--teacher", tiny_teacher, "--json").stdout)
        assert all(row["params"] < 1e5 for row in found)
        assert "gendistiller" in gdist("students", "--teacher", tiny_teacher).stdout

    def test_manifests(self, gdist: Gdist, speech: Path, tmp_path: Path) -> None:
        checked = json.loads(gdist("manifest", "check", speech, "--audio", "--json").stdout)
        audio = checked.pop("audio")
        assert checked == {"ok": True, "utterances": 30, "problems": []}
        assert audio["sample_rate"].keys() == {"8000", "16000"} and audio["channels"] == {"1": 30}
        assert audio["seconds"]["least"] > 0.1 and -40 < audio["peak_dbfs"]["median"] < 0
        source = tmp_path / "m.csv"
        source.write_text(f"id,path,speaker\na,{speech.parent}/none.wav,ann\n")
        built = gdist("manifest", "build", source, "--out", tmp_path / "m.parquet", "--json")
        found = json.loads(built.stdout)
        assert built.exit_code == 3 and found["utterances"] == 1 and "speaker" in found["columns"]
        assert found["problems"][0]["id"] == "a"


class TestExitCodes:
    """What a command's function raises, and what the shell gets."""

    @staticmethod
    def ending(function: Callable[[], int], kept: str = "") -> Result:
        from gdist.stages.commandline import command

        return CliRunner().invoke(command("go", kept=kept)(function))

    @pytest.mark.parametrize(("error", "code"), [(CacheError("no [bucket]", "make one"), 1), (UsageError("no"), 2)])
    def test_known_failures(self, error: Exception, code: int) -> None:
        def fail() -> int:
            raise error

        result = self.ending(fail)
        assert result.exit_code == code and result.stdout == ""
        assert result.stderr.startswith("error: no")
        if code == 1:
            assert result.stderr == "error: no [bucket]\n  try: make one\n"

    def test_an_interrupt(self) -> None:
        def interrupt() -> int:
            raise KeyboardInterrupt

        result = self.ending(interrupt)
        assert result.exit_code == 130 and result.stderr == "\ninterrupted\n"
        result = self.ending(interrupt, kept="its checkpoints are kept")
        assert result.exit_code == 130 and "run the same command again to continue" in result.stderr

    @pytest.mark.parametrize("group", [False, True])
    def test_an_interrupt_while_options_are_read(self, group: bool) -> None:
        def interrupt(context: click.Context, parameter: click.Parameter, value: object) -> None:
            raise KeyboardInterrupt

        option = click.Option(["--seed"], callback=interrupt)
        going = InOrder("all", params=[option], commands=[Command("go")]) if group else Command("go", params=[option])
        result = CliRunner().invoke(going, ["--seed=1", *["go"] * group])
        assert result.exit_code == 130 and result.stderr == "\ninterrupted\n"

    def test_what_a_command_keeps_is_said_where_it_helps(self) -> None:
        def fail() -> int:
            raise CacheError("no", "free some space, then run the same command again")

        def refuse() -> int:
            raise CacheError("no", "choose another place")

        assert self.ending(fail).stderr.endswith("then run the same command again\n")
        assert self.ending(fail, kept="finished packs are kept").stderr.endswith("again: finished packs are kept\n")
        assert self.ending(refuse, kept="finished packs are kept").stderr.endswith("choose another place\n")

    def test_a_bug_shows_its_traceback(self) -> None:
        def bug() -> int:
            raise ZeroDivisionError

        assert isinstance(self.ending(bug).exception, ZeroDivisionError)

    def test_brackets_are_no_markup(self, capsys: pytest.CaptureFixture[str]) -> None:
        from gdist.pipeline import console

        console.print_table("/data/[a]", ["[b]", "c"], [["[red]x[/red]", "[/]"]])
        console.say("[bold]quarantined[/bold]")
        out, err = capsys.readouterr()
        assert "/data/[a]" in out and "[red]x[/red]" in out and "[/]" in out and "[b]" in out
        assert err == "[bold]quarantined[/bold]\n"


class TestConsole:
    def test_plain_progress_ends_with_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        from gdist.pipeline import console

        with console.progress("extract", 10, "s of audio", start=4) as advance:
            advance(3)
            advance(3, "7× real time")
        assert capsys.readouterr().err == "extract: 10/10 s of audio  7× real time\n"

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3725, "1 h 02 min")],
    )
    def test_durations(self, seconds: float, text: str) -> None:
        from gdist.pipeline.console import duration

        assert duration(seconds) == text

    @pytest.mark.parametrize(
        ("count", "text"), [(999, "999 B"), (1_500_000, "1.5 MB"), (3.4e12, "3.4 TB"), (2e15, "2000.0 TB")]
    )
    def test_sizes(self, count: float, text: str) -> None:
        from gdist.pipeline.console import size

        assert size(count) == text


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EIO])
def test_what_the_machine_refuses_is_said_in_words(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gdist: Gdist
) -> None:
    """Wherever it is met, even where nobody expected it."""

    def refuse(path: Path) -> bool:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    result = gdist("inspect", tmp_path)
    assert result.exit_code == 1 and f"error: {tmp_path}: {os.strerror(number)}\n" in result.stderr
    assert "  try: see to that, and run the same command again" in result.stderr
