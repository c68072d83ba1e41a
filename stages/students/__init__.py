"""Students: small models that answer for every hidden layer of a large one.

To add a student, write one file with a ``StudentConfig`` and a ``Student`` (see ``base.py`` for the contract), and
add its row to ``STUDENTS``; ``gdist.stages.testing.StudentSuite`` checks it. One that is yours alone stays in a file
of your own, and is named by it: ``--student FILE.py:CLASS``.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, PreTrainedConfig, WavLMConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as hf_logging

from gdist.pipeline.config import coerce, did_you_mean
from gdist.pipeline.errors import ConfigError, RunError
from gdist.pipeline.extensions import Registry, extension_behind
from gdist.pipeline.run import Run
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.device import in_own_memory
from gdist.stages.frontend.config import FrontendConfig
from gdist.stages.students.armhubert import ArmHubertModel
from gdist.stages.students.base import Student, StudentConfig
from gdist.stages.students.classification import classifier_of
from gdist.stages.students.distilhubert import DistilHubertModel
from gdist.stages.students.fithubert import FitHubertModel
from gdist.stages.students.gendistiller import GenDistillerModel

hf_logging.disable_progress_bar()  # bars over a few megabytes of weights would draw over our own

__all__ = [
    "STUDENTS",
    "Student",
    "StudentConfig",
    "load_student",
    "student_config",
    "student_sizes",
    "student_values",
]


def _accept(found: Any) -> type[Student]:
    """A row of ``STUDENTS``. From now on Hugging Face's from_pretrained takes it, and runs no code of an export."""
    if not (isinstance(found, type) and issubclass(found, Student)):
        raise TypeError("a student is a subclass of gdist.stages.students.base.Student")
    config, name = found.config_class, found.__name__
    own = isinstance(config, type) and issubclass(config, StudentConfig) and _package(config) == _package(found)
    if config is StudentConfig or not own:
        raise TypeError(f"{name}.config_class must be a subclass of StudentConfig of its own")
    if found.predict is Student.predict:
        raise TypeError(f"{name} has no predict")
    model_type = vars(config).get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise TypeError(f"{config.__name__}.model_type must be a name of its own")
    known = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None  # noqa: SIM401 — its get is a dict's
    if known not in (None, config) and extension_behind(known.__module__) is None:
        raise TypeError(f"{config.__name__}.model_type is {model_type!r}, which is {known.__name__}'s")
    AutoConfig.register(model_type, config, exist_ok=True)
    AutoModel.register(config, found, exist_ok=True)
    AutoModelForAudioClassification.register(config, classifier_of(found), exist_ok=True)
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

# A student answers in the teacher's shapes, so these follow from the teacher alone.
_FROM_TEACHER = ("frontend", "hidden_size", "num_teacher_layers")


def student_config(name: str, teacher_config: dict[str, Any], **overrides: Any) -> StudentConfig:
    """The config of the student ``name`` for a teacher.

    Args:
        name: a key of ``STUDENTS``.
        teacher_config: the teacher's Hugging Face config as a dictionary, ``Teacher.config``.
        **overrides: fields of the student's config; the others follow from the teacher or have their defaults.

    Raises:
        ConfigError: an unknown student or field, or a value out of range.
    """
    overrides = student_values(name, overrides)
    config_class = STUDENTS[name].config_class
    try:
        frontend = FrontendConfig.from_teacher_config(teacher_config)
    except ValueError as error:
        raise ConfigError(f"there is no student of this teacher, whose front-end cannot be built: {error}") from error
    defaults = {
        "intermediate_size": teacher_config.get("intermediate_size", 3072),
        "num_attention_heads": teacher_config.get("num_attention_heads", 12),
        "layer_norm_eps": frontend.eps,
        "pre_norm": teacher_config.get("do_stable_layer_norm", False),
        # A bare config.json does not say; this is how the families come.
        "do_normalize": teacher_config.get("do_normalize", frontend.conv_norm == "layer"),
    }
    try:
        return config_class(
            frontend=frontend.to_dict(),
            hidden_size=frontend.hidden_size,
            num_teacher_layers=teacher_config.get("num_hidden_layers", 12),
            **({name: value for name, value in defaults.items() if name not in config_class.own_fields} | overrides),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The student {name} cannot be configured so: student.{error}.") from error


def student_values(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the student ``name``, as they were typed → each as the type it has there.

    Raises:
        ConfigError: an unknown student or field, or a value of another type.
    """
    config_class = STUDENTS.find(str(name), f"--student {name}").config_class
    fields = student_fields(name)
    for key in values:
        if key in _FROM_TEACHER:
            raise ConfigError(f"student.{key} follows from the teacher and cannot be set.")
        if key not in fields:
            raise ConfigError(f"The student {name} has no field {key!r}.", hint=did_you_mean(key, fields))
    types: dict[str, Any] = {}
    for base in reversed(config_class.__mro__):  # Hugging Face's own hints name modules that it does not import
        if issubclass(base, StudentConfig):
            types |= inspect.get_annotations(base, eval_str=True)
    return {key: coerce(value, types[key], f"student.{key}") for key, value in values.items()}


def student_fields(name: str) -> dict[str, Any]:
    """The fields of a student's config that may be set, with their defaults."""
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return {
        field.name: field.default
        for field in dataclasses.fields(STUDENTS[name].config_class)
        if field.name not in inherited and field.name not in _FROM_TEACHER
    }


def student_sizes(teacher_config: dict[str, Any] | None = None, teacher: str = "WavLM Base") -> list[dict[str, Any]]:
    """How large each student of a teacher is; no weights are made.

    Returns:
        for each student ``{name, params, params_with_heads, teacher, teacher_params, reduction}``, where
        ``reduction`` is the share of the teacher's parameters saved, counting heads that serve distillation only.
    """
    config = WavLMConfig().to_dict() if teacher_config is None else dict(teacher_config)
    with torch.device("meta"):
        teacher_params = AutoModel.from_config(AutoConfig.for_model(**config)).num_parameters()
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


def load_student(folder: str | Path) -> Student:
    """The student of a run (``runs/first``), of its ``student`` folder, or of an export for Hugging Face or s3prl.

    No code of the folder is run: its class is gdist's, an installed package's, or a file's that was named before.

    Raises:
        RunError: there is no finished student; for a run that is on its way, with the command that finishes it.
        ConfigError: its class lies in a file that nobody named.
    """
    folder = Path(folder)
    if (folder / "config.toml").exists():
        run = Run(folder)
        _require_finished(run)
        name = run.tables()["student"]["name"]
        STUDENTS.find(name, f"{folder} has the student {name}", str(run.extensions))
        if extension := STUDENTS.extension(name):
            run.require_same_file(name, extension.sha256)
        folder = run.student
    if not (folder / "config.json").exists():
        raise RunError(
            f"no student at {folder}: it is neither a run nor an exported student",
            f"gdist train --cache URI --out {folder}",
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if not isinstance(config, StudentConfig):
            raise RunError(f"{folder} holds no student of gdist's: its model_type is {config.model_type}")
        student: Student = in_own_memory(AutoModel.from_pretrained(folder, config=config, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise RunError(
            f"cannot load the student at {folder}: {error}", "export it as `--format hf`, or train it again"
        ) from error
    return student


def _require_finished(run: Run) -> None:
    if not (run.student / "config.json").exists():
        done, total = (run.steps() or [0])[-1], run.tables()["train"]["steps"]
        cache = in_shell(run.provenance()["cache"])
        raise RunError(
            f"{run.folder} has no finished student (step {done} of {total})",
            f"gdist train --cache {cache} --out {run.folder} --recipe {run.folder / 'config.toml'}{run.use_options}",
        )
