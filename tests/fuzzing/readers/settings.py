"""A recipe of other values, and what follows --set: the config is made, written, read back, and one step is taken."""

import itertools
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import artefacts
from fuzzing.mutations import NUMBERS, TEXTS, hostile, near, torn, value
from fuzzing.readers.run_documents import toml
from gdist.pipeline.config import readable_toml, to_tables
from gdist.pipeline.console import silenced
from gdist.stages.students import STUDENTS
from gdist.stages.train.config import load_config
from gdist.stages.train.recipes import shipped
from gdist.stages.train.train import train

ENOUGH = ("train.steps=2", "train.warmup_steps=1", "train.batch_seconds=8", "train.validate_seconds=8")
SEPARATOR = b"\x1e"
TYPED = ("{}", '"{}"', "[{}]", "[{}, {}]", "{},{}", " {} ", "{}{}", "{{a = {}}}", "-{}")


class Settings:
    """The recipes that ship with other values, and settings over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = str(artefacts.cache())
        recipes = [one for one in shipped().values() if one.kind == "recipe"]
        self.texts = [one.text.encode() for one in recipes]
        self.students = sorted(STUDENTS.own)
        self.resolved = {name: to_tables(load_config(None, name, ENOUGH)) for name in self.students}
        self.count = itertools.count()

    def make(self, random: Random) -> bytes:
        """A recipe, by hand or resolved; and settings."""
        student = random.choice(self.students)
        tables: Any = self.resolved[student]
        if (kind := random.randrange(4)) == 0:
            recipe = torn(random.choice(self.texts), random)
        elif kind == 1:
            recipe = toml(hostile(tomllib.loads(random.choice(self.texts).decode()), random))
        else:
            recipe = toml(hostile(tables, random) if kind == 2 else tables)
        settings = [self._setting(tables, random) for _ in range(random.choice([0, 1, 1, 2]) if kind < 3 else 1)]
        return SEPARATOR.join([recipe, *(setting.encode(errors="surrogatepass") for setting in settings)])

    def _setting(self, tables: dict[str, dict[str, Any]], random: Random) -> str:
        table = random.choice(sorted(tables))
        names = sorted(tables[table]) + (["name", "predict_layers"] if table == "student" else [])
        field = random.choice(names or ["name"])
        old = tables[table].get(field, 1)
        new: Any = random.choice([near(old, random), random.choice(NUMBERS), random.choice(TEXTS), value(random)])
        form = random.choice(TYPED)
        text = f"{table}.{field}={form.replace('{}', str(new)).replace('{{', '{').replace('}}', '}')}"
        return text if random.random() < 0.9 else near(text, random)

    def read(self, data: bytes) -> None:
        recipe, *settings = data.split(SEPARATOR)
        file = self.folder / "recipe.toml"
        file.write_bytes(recipe)
        with silenced():
            typed = tuple(setting.decode(errors="surrogateescape") for setting in settings)
            config = load_config(str(file), None, (*ENOUGH, *typed) if len(data) % 2 else typed)
            again = self.folder / "again.toml"
            again.write_text(readable_toml(to_tables(config)), encoding="utf-8")
            assert load_config(str(again), None, ()) == config
            few = min(config.train.accumulate, 2)
            config = replace(config, train=replace(config.train, compile=False, accumulate=few))  # else minutes
            out = self.folder / f"run-{next(self.count)}"
            try:
                train(self.cache, out, config, show_progress=False, until=1)
            finally:
                shutil.rmtree(out, ignore_errors=True)
