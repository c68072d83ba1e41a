"""torch's files, which are pickles, read without running any code that they name.

torch's own restricted unpickler does that. What else a file was saved with, such as fairseq's dictionaries beside the
weights, may become a :class:`StandIn`: data without code, made here. Nothing of the file's own classes is imported.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gdist.pipeline.errors import TeacherError
from gdist.stages.teachers.place import first_line

MAX_STAND_INS = 200  # classes of one file
# Dictionaries of other kinds; only into a dictionary are entries put.
_DICTIONARIES = ("collections.defaultdict", "fairseq.logging.meters.MetersDict")
_NOT_ALLOWED = re.compile(r"Unsupported global: GLOBAL ([\w.]+) was not an allowed global")
_NAMED = re.compile(r"(?:GLOBAL|function|class|instance of type) (?:<[^>]*?'?)?([\w.]+)")


class StandIn:
    """What a file made with a class that is not here: the arguments and the state, and none of the behaviour."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class UnreadableError(TeacherError):
    """A file that cannot be read without running code, or not at all.

    Attributes:
        wants: the class or function that the file asks for; empty if the file is damaged.
    """

    def __init__(self, message: str, hint: str | None = None, wants: str = "") -> None:
        super().__init__(message, hint)
        self.wants = wants


def read_pickled(path: Path, name: str, stands_in: Callable[[str], bool] = lambda wanted: False) -> Any:
    """What ``torch.save`` wrote, on the CPU.

    Args:
        name: of the checkpoint, for messages.
        stands_in: whether a :class:`StandIn` may take the place of a class or function, by its dotted name.

    Raises:
        UnreadableError: the file asks for anything else, or is damaged.
    """
    made: dict[str, Callable[..., Any]] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(known, wanted) for wanted, known in made.items()]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            found = _NOT_ALLOWED.search(str(error))
            wanted = found[1] if found else ""
            wanted = wanted if "." in wanted else f"builtins.{wanted}"  # which torch leaves out
            if found and stands_in(wanted) and wanted not in made and len(made) < MAX_STAND_INS:
                made[wanted] = _stand_in(wanted)
                continue
            raise _refused(path, name, error) from error
        except Exception as error:  # a file that is none, or half of one, fails wherever the unpickler comes upon it
            raise UnreadableError(
                f"The weights of {name} cannot be loaded: {path.name} is damaged, or not a file of torch "
                f"({first_line(error)}).",
                "download it again; an interrupted copy leaves such files",
            ) from error


def _stand_in(wanted: str) -> Callable[..., Any]:
    if wanted in _DICTIONARIES:
        return lambda *args: OrderedDict()
    return type(wanted.rpartition(".")[2], (StandIn,), {})


def _refused(path: Path, name: str, error: Exception) -> UnreadableError:
    told = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
    wants = found[1] if (found := _NAMED.search(told)) else ""
    if not wants:
        return UnreadableError(
            f"The weights of {name} cannot be loaded: {path.name} is damaged, or not a file of torch "
            f"({first_line(Exception(told))}).",
            "download it again; an interrupted copy leaves such files",
        )
    return UnreadableError(
        f"The weights of {name} cannot be loaded: {path.name} holds more than weights, and wants {wants} to run, "
        "which a file from elsewhere may not.",
        "save the weights alone, as safetensors, where the code is that wrote them",
        wants,
    )
