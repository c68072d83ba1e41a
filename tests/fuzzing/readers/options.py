"""Commands with hostile options. What they work on is missing or tiny, so that what is typed is parsed and checked,
and no long work begins. No option names a place outside of the reader's own folder."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import click
from click.testing import CliRunner
from huggingface_hub import constants

from fuzzing import artefacts
from gdist.stages.cli import main
from gdist.stages.commandline import Size
from gdist.stages.sweep.command import Duration

NUMBERS = (
    *(
        "0",
        "-1",
        "1",
        "2",
        "-0",
        "0.5",
        "1e400",
        "-1e400",
        "1e-400",
        "nan",
        "inf",
        "-inf",
        "1e3",
        "1_000",
        "0x10",
        "٣",
    ),
    *(
        "9" * 20,
        "9" * 400,
        "9" * 5000,
        "2147483648",
        "18446744073709551616",
        "-9223372036854775809",
        "1e308",
        "1,2",
        "2-1",
    ),
    *(
        "",
        " ",
        "3 ",
        "\n",
        "+5",
        "1.",
        ".",
        "e",
        "½",
        "1e9GB",
        "99999999999TB",
        "9" * 400 + "TB",
        "0B",
        "-1GB",
        "5 PB",
        "1h",
        "1e9d",
    ),
)
PLACES = (
    *(
        "s3://bucket",
        "s3://",
        "s3:///",
        "s3:///key",
        "s3://bucket//",
        "s3://bucket/../x",
        "gs://",
        "az://",
        "hf://",
        "hf://a",
    ),
    *(
        "hf://datasets/a",
        "file://",
        "file://host/x",
        "file:x",
        "http://",
        "https://",
        "http://[",
        "http://127.0.0.1:1/x",
    ),
    *(
        "http://127.0.0.1:99999/x",
        "https://user:secret@127.0.0.1:1/x",
        "s3://KEY:secret@bucket/x",
        "memory://",
        "x://y",
        "://",
    ),
    *(
        "tcp://127.0.0.1:1",
        "tcp://",
        "local:",
        "local:0",
        "local:-1",
        "slurm:",
        "a=b",
        "a:b",
        "name=uri=uri",
        "=",
        "#",
        "?",
        "%00",
    ),
)
TEXTS = (
    *("", " ", "\n", "\x1b[31mred\x1b[0m", "\u202egnp.exe", "\x7f", "\udcff", "é" * 300, "a" * 5000, "."),
    *(
        "none",
        "None",
        "null",
        "True",
        "[]",
        "{}",
        "{0}",
        "%s%n",
        "\\",
        "'",
        '"',
        "`x`",
        "$(x)",
        ";",
        "-",
        "--",
        "-x",
        "@",
        "@1",
    ),
    *(
        "missing.toml",
        "missing.py:X",
        "x.py:",
        ":X",
        "a.b:c",
        "cuda:99",
        "cuda:-1",
        "cuda:x",
        "meta",
        "mps",
        "cpu:7",
        "auto",
        "all",
    ),
    *(
        "0-9",
        "9-0",
        "-3",
        "1,,2",
        "1,1",
        "0:3",
        "split=test",
        "split!=x",
        "split",
        "duration>1e400",
        "a in b",
        "train.steps=1e400",
    ),
    *("student.x=1", "data.seed", "a.b.c=1", "=1", ".=", "train.steps=" + "9" * 5000, "train.steps=\udcff"),
)


# What a parameter usually has; and what keeps a command short where all that is typed is right.
USUAL = {
    "teacher": "teacher", "cache": "cache", "uri": "cache", "caches": "cache", "source": "cache", "run": "run",
    "runs": "run", "folder": "empty", "manifest": "speech.parquet", "path": "speech.parquet", "src": "speech.parquet",
    "out": "out", "target": "out", "file": "sweep.toml", "local": "kept", "to": "kaldi", "kind": "auto",
    "name": "hf", "uris": "cache",
}  # fmt: skip
ONE_STEP = ("train.steps=1", "train.warmup_steps=0", "train.batch_seconds=8")
SHORT = {
    "train": ("--set", ONE_STEP[0], "--set", ONE_STEP[1], "--set", ONE_STEP[2]),
    "sweep": ("--dry-run",),
    "extract": ("--dry-run",),
    "eval": ("--probes", "none"),
    "doctor": ("--read-only",),
}


class Options:
    """Every command with some of its options, at least one of which is hostile."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "a" / "b" / "c"  # so that ../../x stays inside of it too
        self.home.mkdir(parents=True)
        for name, made in (
            ("cache", artefacts.cache()),
            ("run", artefacts.run()),
            ("teacher", artefacts.teacher()),
            ("speech.parquet", artefacts.speech()),
        ):
            (shutil.copytree if made.is_dir() else shutil.copy)(made, self.home / name)
        (self.home / "sweep.toml").write_text('[grid]\n"train.lr" = [0.1]\n')
        (self.home / "empty").mkdir()
        self.commands = dict(_commands(main))
        self.commands.pop("demo")  # it has no options but where to write

    def make(self, random: Random) -> bytes:
        name = random.choice(sorted(self.commands))
        command = self.commands[name]
        free = [each for each in command.params if not each.required and each.name not in ("as_json", "measure")]
        chosen = random.sample(free, min(random.choice([0, 1, 1, 1, 2, 3]), len(free)))
        hostile = None if chosen and random.random() < 0.8 else random.choice(command.params)
        words, arguments = name.split(), []
        for parameter in command.params:
            if parameter is not hostile and not parameter.required and parameter not in chosen:
                continue
            is_usual = parameter is not hostile and (parameter.required or random.random() < 0.1)
            value = self._usual(parameter, random) if is_usual else self._hostile(parameter, random)
            option = parameter.opts[-1]
            if isinstance(parameter, click.Argument):
                arguments.append(value)
            elif getattr(parameter, "is_flag", False):
                words.append(option)
            else:
                words += [option, value] if random.random() < 0.5 else [f"{option}={value}"]
        words += [*SHORT.get(name, ()), *(["--"] if random.random() < 0.3 else []), *arguments]
        if random.random() < 0.05:
            words.insert(random.randrange(len(words) + 1), random.choice(TEXTS))
        before = ["--log-json"] if random.random() < 0.2 else []
        if random.random() < 0.05:
            before += ["--metrics", random.choice([*NUMBERS, *PLACES])]
        return json.dumps(before + words).encode()

    def _usual(self, parameter: click.Parameter, random: Random) -> str:
        choices = list(getattr(parameter.type, "choices", ["none"]))
        return USUAL.get(str(parameter.name)) or str(random.choice(choices))

    def _hostile(self, parameter: click.Parameter, random: Random) -> str:
        numbers = isinstance(parameter.type, click.types.FloatParamType | click.types.IntParamType | Size | Duration)
        if random.random() < (0.9 if numbers else 0.15):
            return random.choice(NUMBERS)
        return random.choice([*TEXTS, *PLACES])

    def read(self, data: bytes) -> None:
        for name in ("out", "kept"):
            shutil.rmtree(self.home / name, ignore_errors=True)
        before = Path.cwd(), constants.HF_HUB_OFFLINE
        os.chdir(self.home)
        constants.HF_HUB_OFFLINE = True  # a name that means no folder may be a model's; nobody is asked for it
        try:
            result = CliRunner().invoke(main, json.loads(data))
        finally:
            os.chdir(before[0])
            constants.HF_HUB_OFFLINE = before[1]
        if result.exception is not None:
            raise result.exception


def _commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, one in group.commands.items():
        if isinstance(one, click.Group):
            yield from _commands(one, f"{above}{name} ")
        else:
            yield f"{above}{name}", one
