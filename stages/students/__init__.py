"""Students: small models that predict every hidden layer of a large one.

To add a student, write one file with a ``StudentConfig`` and a ``Student`` (see ``base.py`` for the contract), and
add its row to ``STUDENTS``; ``gdist.stages.testing.StudentSuite`` checks it. Your own student can stay outside gdist,
in a file that you name: ``--student FILE.py:CLASS``.
"""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, WavLMConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as hf_logging

from gdist.pipeline.config import coerce, did_you_mean
from gdist.pipeline.errors import ConfigError, RunError
from gdist.pipeline.extensions import Registry, extension_behind
from gdist.pipeline.run import ONCE_MORE
from gdist.pipeline.run.checkpoints import nbytes
from gdist.pipeline.run.snapshot import Snapshot, run_and_step, snapshot
from gdist.stages.device import in_own_memory
from gdist.stages.frontend.kinds import frontend_of
from gdist.stages.students.armhubert import ArmHubertModel
from gdist.stages.students.base import Student, StudentConfig
from gdist.stages.students.distilhubert import DistilHubertModel
from gdist.stages.students.fine_tuning import FINE_TUNING_FIELDS
from gdist.stages.students.fithubert import FitHubertModel
from gdist.stages.students.gendistiller import GenDistillerModel
from gdist.stages.students.heads import HEADS, head_of
from gdist.stages.students.stored import LOADING_FAILS, config_fields, require_weights

LARGE = 1 << 20  # bytes beside a student's own tensors: the count of an average, buffers

hf_logging.disable_progress_bar()  # its bars for a few megabytes of weights would overwrite ours

__all__ = [
    "STUDENTS",
    "Student",
    "StudentConfig",
    "layer_fields",
    "load_student",
    "require_loadable",
    "student_config",
    "student_sizes",
    "student_values",
]


def _accept(found: Any) -> type[Student]:
    """Make a row of ``STUDENTS``, and register it: Hugging Face's from_pretrained then runs no exported code."""
    if not (isinstance(found, type) and issubclass(found, Student)):
        raise TypeError("a student is a subclass of gdist.stages.students.base.Student")
    config, name = found.config_class, found.__name__
    own = isinstance(config, type) and issubclass(config, StudentConfig) and _package(config) == _package(found)
    if config is StudentConfig or not own:
        raise TypeError(f"{name}.config_class must be its own subclass of StudentConfig")
    if found.predict is Student.predict:
        raise TypeError(f"{name} does not define predict")
    model_type = vars(config).get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise TypeError(f"{config.__name__}.model_type must be a name that no other model uses")
    known = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None  # noqa: SIM401 — its get is a dict's
    if known not in (None, config) and extension_behind(known.__module__) is None:
        raise TypeError(f"{config.__name__}.model_type is {model_type!r}, which {known.__name__} already uses")
    AutoConfig.register(model_type, config, exist_ok=True)
    AutoModel.register(config, found, exist_ok=True)
    for name, head in HEADS.items():
        getattr(transformers, name).register(config, head_of(found, head), exist_ok=True)
    return found


def _package(of: type) -> str:
    return of.__module__.partition(".")[0]


STUDENTS: Registry[type[Student]] = Registry(
    "student",
    "gdist.students",
    {
        "gendistiller": _accept(GenDistillerModel),
        "distilhubert": _accept(DistilHubertModel),
        "fithubert": _accept(FitHubertModel),
        "armhubert": _accept(ArmHubertModel),
    },
    _accept,
)

# A student's outputs have the teacher's shapes, so these fields follow from the teacher alone.
_FROM_TEACHER = ("frontend", "hidden_size", "num_teacher_layers", "other_teachers")
NAMED_LAYER = re.compile(r"\s*(\w+):(\d+)\s*")  # a layer of one of several teachers: wavlm:3


def student_config(name: str, teacher_config: dict[str, Any], **overrides: Any) -> StudentConfig:
    """Return the config of the student ``name`` for a teacher.

    Args:
        name: a key of ``STUDENTS``.
        teacher_config: the teacher's Hugging Face config as a dictionary, ``Teacher.config``.
        **overrides: fields of the student's config; the others follow from the teacher or keep their defaults.

    Raises:
        ConfigError: the student or a field is unknown, or a value is out of range.
    """
    overrides = student_values(name, overrides)
    config_class = STUDENTS[name].config_class
    try:
        frontend = frontend_of(teacher_config)
    except ValueError as error:
        raise ConfigError(f"cannot build a student for this teacher, because of its front-end: {error}") from error
    defaults = layer_fields(teacher_config) | {
        "layer_norm_eps": frontend.eps,
        # A bare config.json does not contain it; this is the families' usual value.
        "do_normalize": teacher_config.get("do_normalize", getattr(frontend, "conv_norm", None) == "layer"),
    }
    if hasattr(config_class, "final_norm"):
        defaults["final_norm"] = teacher_config.get("final_norm", False)
    try:
        return config_class(
            frontend=frontend.to_dict(),
            hidden_size=frontend.hidden_size,
            num_teacher_layers=teacher_config.get("num_hidden_layers", 12),
            **({name: value for name, value in defaults.items() if name not in config_class.own_fields} | overrides),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The student {name} cannot be configured like this: student.{error}.") from error


def layer_fields(teacher_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a student's Transformer layers, with the values that the teacher's layers have."""
    return {
        "intermediate_size": teacher_config.get("intermediate_size", 3072),
        "num_attention_heads": teacher_config.get("num_attention_heads", 12),
        "pre_norm": teacher_config.get("do_stable_layer_norm", False),
    }


def student_values(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert fields of the student ``name``, as they were typed, to the types that its config declares.

    Raises:
        ConfigError: the student or a field is unknown, or a value has the wrong type.
    """
    config_class = STUDENTS.find(str(name), f"--student {name}").config_class
    fields = student_fields(name)
    for key in values:
        if key in _FROM_TEACHER:
            raise ConfigError(f"student.{key} follows from the teacher and cannot be set.")
        if key not in fields:
            raise ConfigError(f"The student {name} has no field {key!r}.", hint=did_you_mean(key, fields))
    types: dict[str, Any] = {}
    for base in reversed(config_class.__mro__):  # Hugging Face's own annotations name modules that it does not import
        if issubclass(base, StudentConfig):
            types |= inspect.get_annotations(base, eval_str=True)
    return {
        key: named_layers(value) if _has_names(key, value) else coerce(value, types[key], f"student.{key}")
        for key, value in values.items()
    }


def _has_names(key: str, value: Any) -> bool:
    items = value if isinstance(value, (list, tuple)) else [value]
    return key == "predict_layers" and any(isinstance(item, str) and ":" in item for item in items)


def named_layers(value: Any) -> list[str]:
    """Convert layers of several teachers, as they were typed: ``wavlm:3,whisper:6``."""
    found = []
    for item in value.split(",") if isinstance(value, str) else value:
        match = NAMED_LAYER.fullmatch(item) if isinstance(item, str) else None
        if match is None:
            raise ConfigError(
                f"student.predict_layers: {item!r} is not a teacher's name and a layer",
                "student.predict_layers=NAME:3,NAME:6,OTHER:4",
            )
        found.append(f"{match[1]}:{int(match[2])}")
    return found


def student_fields(name: str) -> dict[str, Any]:
    """Return the fields of a student's config that may be set, with their defaults."""
    return {
        field.name: field.default
        for field in dataclasses.fields(STUDENTS[name].config_class)
        if field.name not in FINE_TUNING_FIELDS and field.name not in _FROM_TEACHER
    }


def student_sizes(
    teacher_config: dict[str, Any] | None = None, teacher: str = "WavLM Base", teacher_params: int | None = None
) -> list[dict[str, Any]]:
    """Return the size of each student of a teacher, without allocating weights.

    Args:
        teacher_config: see :func:`student_config`; None means WavLM Base.
        teacher_params: the teacher's parameters; by default, those of transformers' model of the config.

    Returns:
        for each student ``{name, params, params_with_heads, teacher, teacher_params, reduction}``, where
        ``reduction`` is the saved share of the teacher's parameters, if heads that only distillation needs are
        counted.
    """
    config = WavLMConfig().to_dict() if teacher_config is None else dict(teacher_config)
    with torch.device("meta"):
        if teacher_params is None:
            teacher_params = int(AutoModel.from_config(AutoConfig.for_model(**config)).num_parameters())
        rows = []
        for name, model_class in STUDENTS.items():
            model = model_class(student_config(name, config))
            with_heads = model.num_parameters_with_heads()
            rows.append(
                {
                    "name": name,
                    "params": model.num_parameters(),
                    "params_with_heads": with_heads,
                    "teacher": teacher,
                    "teacher_params": teacher_params,
                    "reduction": 1 - with_heads / teacher_params,
                }
            )
    return rows


def load_student(location: str | Path | Snapshot) -> Student:
    """Load the student of a run (``runs/first``), its ``student`` folder, or an export for Hugging Face or s3prl.

    ``runs/first@4000`` is the student after step 4000, from a checkpoint that is kept: the averaged one, where
    weights are averaged, as the finished student would be.

    No code in the folder is run: the class comes from gdist, an installed package, or a file that was already named.

    Raises:
        RunError: there is no finished student; for an unfinished run, the hint is the command that finishes it.
        ConfigError: the class is in a file that was not named.
    """
    again = ""
    if not isinstance(location, Snapshot):
        folder, step = run_and_step(location)
        if step is not None or (folder / "config.toml").exists():
            location = snapshot(location, unfinished=False)
    if isinstance(location, Snapshot):
        require_loadable(location)
        if location.is_checkpoint:
            return _at_checkpoint(location)
        folder = location.run.own_student(location.folder)
        if location.is_finished:
            location.run.require_student()
            again = location.run.training
    if not (folder / "config.json").exists():
        raise RunError(
            f"no student at {folder}: it is neither a run nor an exported student",
            f"gdist train --cache URI --out {folder}",
        )
    try:
        config_fields(folder)  # before Hugging Face's own reader follows any of it
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if not isinstance(config, StudentConfig):
            raise RunError(f"{folder} does not contain a student of gdist: its model_type is {config.model_type}")
        require_weights(folder, AutoModel._model_mapping[type(config)], config)
        student: Student = in_own_memory(
            AutoModel.from_pretrained(folder, config=config, trust_remote_code=False, use_safetensors=True)
        )
    # transformers says in many ways that a file is damaged.
    except LOADING_FAILS as error:
        hint = f"{again}{ONCE_MORE}" if again else "export it as `--format hf`, or train it again"
        raise RunError(f"cannot load the student at {folder}: {error}", hint) from error
    return student


def _at_checkpoint(at: Snapshot) -> Student:
    """The student of a checkpoint, whose folder has its weights alone: its config is in the run."""
    run, name = at.run, at.run.tables()["student"]["name"]
    recorded = run.provenance().get("student_config")
    try:
        if recorded is None:  # a run of an earlier gdist, which may be finished
            recorded = config_fields(run.student)
        with torch.random.fork_rng(devices=[]):  # initializing what is then loaded draws from it
            student: Student = STUDENTS[name](STUDENTS[name].config_class.from_dict(recorded))
        student.load_state_dict(at.weights(nbytes(student.state_dict()) + LARGE))
    except LOADING_FAILS as error:
        raise RunError(f"cannot load the student of {at.folder}: {error}", run.training) from error
    student.eval()
    return student


def require_loadable(at: Snapshot) -> None:
    """Raise what :func:`load_student` would raise for a file that was not named; no weights are read."""
    run = at.run
    name = run.tables()["student"]["name"]
    STUDENTS.find(name, f"{run.folder} has the student {name}", str(run.extensions))
    if extension := STUDENTS.extension(name):
        run.require_same_file(name, extension.sha256)
