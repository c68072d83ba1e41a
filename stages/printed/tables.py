"""What the commands print that list what can be chosen."""

from typing import Literal, TypedDict


class Recipe(TypedDict):
    """A recipe or a sweep that ships.

    Attributes:
        about: its first sentence.
        path: of the file.
    """

    name: str
    kind: Literal["recipe", "sweep"]
    about: str
    path: str


class RecipeText(Recipe):
    """With NAME: that one.

    Attributes:
        text: the file itself.
    """

    text: str


class StudentSize(TypedDict):
    """A student, and how small it is.

    Attributes:
        params: parameters in use.
        params_with_heads: those of distillation too.
        teacher: whose student it would be.
        reduction: the share of the teacher's parameters that it does without, heads included.
    """

    name: str
    params: int
    params_with_heads: int
    teacher: str
    teacher_params: int
    reduction: float


class TeacherFamily(TypedDict):
    """A family of teachers.

    Attributes:
        model: the class of transformers.
        frontend: the kind of front-end.
    """

    family: str
    model: str
    frontend: str


class EncodingKind(TypedDict):
    """A way to store hidden states.

    Attributes:
        relative_error: root mean square of the error over that of the values, on the bundled teacher's.
        largest: values beyond it cannot be stored.
    """

    name: str
    bytes_per_value: float
    relative_error: float
    largest: float
    description: str


class Version(TypedDict):
    """gdist itself.

    Attributes:
        revision: of git; null where it is not known.
    """

    version: str
    revision: str | None


class Check(TypedDict):
    """One thing that was tried.

    Attributes:
        area: gdist, packages, extras, gpu, cpu, audio, or the folder or URI.
        status: a problem is what work would stop at; a note is worth knowing.
        value: what was found.
        means, hint: what follows, and what to do; empty where there is nothing to say.
    """

    area: str
    name: str
    status: Literal["ok", "note", "problem"]
    value: str
    means: str
    hint: str


class Examined(TypedDict):
    """Whether this machine can do the work.

    Attributes:
        ok: there is no problem.
    """

    ok: bool
    gdist: Version
    checks: list[Check]
