"""Files that a user names, and the tables for their objects: what is run, what is refused, and the messages."""

import importlib.metadata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gdist.pipeline import extensions
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.errors import ConfigError
from gdist.pipeline.extensions import Extension, Registry, enter, extension_behind, use
from gdist.pipeline.manifest.sources import SOURCES
from gdist.pipeline.manifest.targets import TARGETS
from gdist.stages.evaluate.probes import PROBES, probes_named
from gdist.stages.students import STUDENTS
from gdist.stages.teachers import FAMILIES
from gdist.stages.train.losses import LOSSES

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    extensions.forget()
    yield
    extensions.forget()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file, and give its path."""

    def written(text: str | bytes, name: str = "own.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return written


def number(found: Any) -> int:
    if not isinstance(found, int):
        raise TypeError("a number is an int")
    return found


def table(**rows: int) -> Registry[int]:
    return Registry("number", "gdist.no-such-group", rows, number)


def refusal(do: Callable[[], object]) -> str:
    """The message and the hint of a ConfigError."""
    with pytest.raises(ConfigError) as caught:
        do()
    return str(caught.value)


class TestNames:
    @pytest.mark.parametrize(
        ("reference", "words"),
        [
            ("own.py", ["own.py names a file but no object", "own.py:MyClass"]),
            ("own.py:", ["names a file but no object", "as in own.py:MyClass"]),
            ("own.py:not a name", ["names a file but no object", "as in own.py:MyClass"]),
            ("gone/own.py:X", ["cannot read gone/own.py: No such file or directory", "check the path"]),
            ("~nobody-of-that-name/own.py:X", ["cannot read ~nobody-of-that-name/own.py"]),
            ("https://example.org/own.py:X", ["is a URL", "download the file, read it"]),
            ("s3://bucket/own.py:X", ["is a URL", "download the file"]),
        ],
    )
    def test_a_reference_without_an_object_in_a_file(self, reference: str, words: list[str]) -> None:
        for refused in (lambda: table().use(reference), lambda: use([reference], table())):
            said = refusal(refused)
            assert all(word in said for word in words), said

    def test_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "own.py").mkdir()
        assert "Is a directory" in refusal(lambda: table().use(f"{tmp_path}/own.py:X"))

    def test_a_name_that_no_export_could_import(self, write: Write) -> None:
        for name in ("my-student.py", "2.py", "class.py"):
            said = refusal(lambda name=name: table().use(f"{write('X = 1', name)}:X"))  # type: ignore[misc]
            assert name in said and "my_student.py" in said

    def test_text_that_is_not_utf_8(self, write: Write) -> None:
        for text in ("X = 'é'".encode("latin-1"), "# -*- coding: latin-1 -*-\nX = 'é'".encode("latin-1")):
            assert "not UTF-8 text" in refusal(lambda text=text: table().use(f"{write(text)}:X"))  # type: ignore[misc]

    def test_two_files_with_the_same_name(self, write: Write) -> None:
        one, two = f"{write('X = 1', 'a/own.py')}:X", f"{write('X = 2', 'b/own.py')}:X"
        numbers, others = table(), table()
        assert numbers[numbers.use(one)] == 1
        said = refusal(lambda: others.use(two))
        assert "a/own.py and " in said and "two different files with the same name" in said and "rename one" in said
        assert "two different files" in refusal(lambda: use([one, two], table()))
        extensions.forget()  # another command
        assert numbers[numbers.use(two)] == 2

    def test_the_same_file_twice(self, write: Write) -> None:
        one, two = write("X, Y = 1, 2\n", "a/own.py"), write("X, Y = 1, 2\n", "b/own.py")
        numbers = table()
        use([f"{one}:X", f"{one}:X", f"{two}:X", f"{two}:Y"], numbers)
        assert dict(numbers) == {"own.py:X": 1, "own.py:Y": 2}

    def test_a_file_that_changed_is_read_again(self, write: Write) -> None:
        numbers = table()
        assert numbers[numbers.use(f"{write('X = 1')}:X")] == 1
        assert numbers[numbers.use(f"{write('X = 2')}:X")] == 2


class TestRunning:
    def test_it_runs_once_and_the_source_that_ran_is_kept(self, write: Write, tmp_path: Path) -> None:
        log = tmp_path / "log"
        path = write(f"open({str(log)!r}, 'a').write('ran.')\nX = 1\ndef f(): ...\n")
        numbers = table()
        name = numbers.use(f"{path}:X")
        numbers.use(f"{path}:X")
        assert name == "own.py:X" and log.read_text() == "ran."
        extension = numbers.extension(name)
        assert extension is not None and extension.path == Path(path)
        before = Path(path).read_bytes()
        Path(path).write_text("X = 2")
        behind = extension_behind(extension.module_name)
        assert behind is not None and behind.source == before == extension.source
        assert extension.record == {"path": path, "sha256": extension.sha256}

    def test_dataclasses_annotations_and_a_byte_order_mark(self, write: Write) -> None:
        text = "\ufefffrom __future__ import annotations\r\nfrom dataclasses import dataclass\r\n"
        text += "@dataclass\r\nclass C:\r\n    x: int = 3\r\nX = C().x\r\n"
        numbers = table()
        assert numbers[numbers.use(f"{write(text)}:X")] == 3

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("X = = 1", ["cannot run", "SyntaxError", "line 1"]),
            ("X = 1\x00", ["cannot run", "null bytes"]),
            ("\n\n1 / 0", ["own.py, line 3: ZeroDivisionError: division by zero"]),
            ("import sys\nsys.exit(7)", ["own.py, line 2: SystemExit: 7"]),
            ("def f():\n    raise KeyError('k')\nf()", ["line 2: KeyError"]),
            ("import no_such_library.part", ["ModuleNotFoundError", "install no_such_library"]),
            ("import beside", ["ModuleNotFoundError", "one file: put what it needs into that file"]),
            ("from .beside import Y", ["ImportError", "one file: put what it needs into that file"]),
            ("from torch import no_such_thing", ["ImportError", "no_such_thing"]),
            ("Something = 1", ["own.py has no X", "known: Something"]),
            ("XX = 1\nimport os", ["own.py has no X", "did you mean `XX`"]),
            ("import os", ["own.py has no X"]),
            ("X = 'text'", ["own.py:X is not a valid number: a number is an int"]),
        ],
    )
    def test_a_file_that_cannot_be_used(self, write: Write, text: str, words: list[str]) -> None:
        write("Y = 1", "beside.py")
        path = write(text)
        for _ in range(2):  # a file that failed does not count as one that ran
            said = refusal(lambda: table().use(f"{path}:X"))
            assert all(word in said for word in words), said

    def test_nothing_remains_of_a_file_that_failed(self, write: Write) -> None:
        path = write("X = 1\nraise OSError('later')")
        extension = Extension.read(f"{path}:X")
        refusal(extension.load)
        assert extension_behind(extension.module_name) is None


class TestTables:
    def test_own_rows_files_and_nothing_else(self, write: Write) -> None:
        numbers = table(one=1)
        assert numbers.use("one") == "one" and numbers.find("one", "--number one") == 1
        assert "--number oen: there is no such number\ndid you mean `one`?" in refusal(
            lambda: numbers.find("oen", "--number oen")
        )
        assert "FILE.py:NAME" in refusal(lambda: numbers.find("own:X", "--number own:X"))
        assert "--use path/to/own.py:X" in refusal(lambda: numbers.find("own.py:X", "run.toml"))
        assert "--use runs/a/own.py:X" in refusal(lambda: numbers.find("own.py:X", "run.toml", "runs/a"))
        numbers.use(f"{write('X = 5')}:X")
        assert (
            numbers.find("own.py:X", "run.toml") == 5 and list(numbers) == ["one", "own.py:X"] and len(numbers) == 2
        )
        extensions.forget()
        assert "own.py:X" not in numbers and numbers.extension("own.py:X") is None

    def test_an_object_goes_into_the_first_table_that_it_fits(self, write: Write) -> None:
        words: Registry[str] = Registry("word", "gdist.no-such-group", {}, lambda found: word(found))

        def word(found: Any) -> str:
            if not isinstance(found, str):
                raise TypeError("a word is a str")
            return found

        path = write("X, Y, Z = 1, 'y', None")
        use([f"{path}:X", f"{path}:Y"], numbers := table(), words)
        assert list(numbers) == ["own.py:X"] and list(words) == ["own.py:Y"]
        said = refusal(lambda: use([f"{path}:Z"], numbers, words))
        assert said.splitlines() == [
            "this command cannot use own.py:Z",
            "  not a valid number: a number is an int",
            "  not a valid word: a word is a str",
        ]

    def test_a_worker_takes_another_file_with_that_name_for_its_next_job(self, write: Write) -> None:
        numbers = table()
        for value in (1, 2):
            extensions.forget()
            enter([Extension.read(f"{write(f'X = {value}', f'{value}/own.py')}:X")], numbers)
            assert numbers["own.py:X"] == value


IMPORTS = """
from gdist.pipeline.cache.encodings.floats import Float16
from gdist.pipeline.cache.encodings import Encoding
from gdist.pipeline.manifest.sources import Source
from gdist.stages.students.base import Student, StudentConfig
from gdist.stages.students.distilhubert import DistilHubertConfig, DistilHubertModel
from gdist.stages.teachers.base import Teacher
"""


@pytest.mark.parametrize(
    ("registry", "text", "words"),
    [
        (STUDENTS, "class X: ...", "a student is a subclass of gdist.stages.students.base.Student"),
        (STUDENTS, "X = Student", "config_class must be its own subclass of StudentConfig"),
        (STUDENTS, "class X(Student): ...", "X.config_class must be its own subclass of StudentConfig"),
        (STUDENTS, "class X(DistilHubertModel): ...", "must be its own subclass of StudentConfig"),
        (STUDENTS, "class X(Student): config_class = None", "must be its own subclass of StudentConfig"),
        (STUDENTS, "class C(StudentConfig): ...\nclass X(Student): config_class = C", "does not define predict"),
        (
            STUDENTS,
            "class C(StudentConfig): ...\nclass X(Student):\n  config_class = C\n  def predict(self): ...",
            "C.model_type must be a name that no other model uses",
        ),
        (
            STUDENTS,
            "class C(StudentConfig): model_type = 'wavlm'\n"
            "class X(Student):\n  config_class = C\n  def predict(self): ...",
            "model_type is 'wavlm', which WavLMConfig already uses",
        ),
        (
            STUDENTS,
            "class C(DistilHubertConfig): model_type = DistilHubertConfig.model_type\n"
            "class X(DistilHubertModel): config_class = C",
            "which DistilHubertConfig already uses",
        ),
        (LOSSES, "def X(prediction, target, mask): ...", "too many positional arguments"),
        (LOSSES, "def X(prediction, target, mask, weight, more): ...", "missing a required argument: 'more'"),
        (LOSSES, "class X: ...", "a loss is a function of (prediction_BKTD"),
        (LOSSES, "X = 3", "a loss is a function of (prediction_BKTD"),
        (LOSSES, "X = print.__self__.max", "a loss is a function of (prediction_BKTD"),
        (PROBES, "class X: ...", "a probe has name, title, label"),
        (PROBES, "class X:\n  def __init__(self, rate): ...", "X() cannot be called without arguments"),
        (PROBES, "class X:\n  def __init__(self): 1 / 0", "X() cannot be called without arguments: division by zero"),
        (ENCODINGS, "X = 3", "an encoding is a subclass of gdist.pipeline.cache.encodings.Encoding"),
        (ENCODINGS, "class X(Encoding): ...", "X() cannot be called without arguments: Can't instantiate abstract"),
        (
            ENCODINGS,
            "class X(Encoding):\n  encode = decode = parts = None",
            "X does not define bytes_per_value, relative_error, largest",
        ),
        (FAMILIES, "class X(Teacher): ...", "with a model_class"),
        (SOURCES, "class X: ...", "a kind of manifest must be a subclass of"),
        (SOURCES, "class X(Source): ...", "X() cannot be called without arguments"),
    ],
)
def test_objects_that_do_not_fit_a_table(registry: Registry[Any], text: str, words: str, write: Write) -> None:
    path = write(IMPORTS + text)
    for refused in (lambda: registry.use(f"{path}:X"), lambda: use([f"{path}:X"], registry)):
        said = refusal(refused)
        assert words in said and "own.py:X" in said, said
    assert "own.py:X" not in registry


def test_a_loss_may_have_defaults_or_take_anything(write: Write) -> None:
    path = write(
        "def X(a, b, c, d, delta=1.0): ...\ndef Y(*arguments): ...\nclass C:\n  def __call__(self, *a): ...\nZ = C()"
    )
    for name in "XYZ":
        assert LOSSES.use(f"{path}:{name}") == f"own.py:{name}"


def test_probes_by_label_and_by_name() -> None:
    assert list(probes_named("ks, label:accent")) == ["ks", "label:accent"]
    assert probes_named("label:accent")["label:accent"].label == "accent"
    assert list(probes_named("all")) == list(PROBES) and probes_named("none") == {}
    for text in ("kss", "label:", "", "ks,,sid"):
        assert "there is no such probe" in refusal(lambda text=text: probes_named(text))  # type: ignore[misc]


def test_no_table_announces_what_is_not_installed() -> None:
    groups = {registry.group for registry in (STUDENTS, FAMILIES, ENCODINGS, LOSSES, PROBES, SOURCES, TARGETS)}
    names = ("students", "teachers", "encodings", "losses", "probes", "manifests", "manifest_targets")
    assert groups == {f"gdist.{name}" for name in names}
    assert not [point for group in groups for point in importlib.metadata.entry_points(group=group)]
