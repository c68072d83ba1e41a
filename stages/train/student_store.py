"""Builds a student for a cache's teacher, and saves it when it is trained."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from gdist.pipeline import framing
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.console import say
from gdist.pipeline.errors import CacheError, ConfigError
from gdist.pipeline.files import write_atomically
from gdist.pipeline.local.folder import LocalFolder
from gdist.pipeline.run import STUDENT_FILES, Run
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.students import STUDENTS, Student, layer_fields, student_config
from gdist.stages.students.configuration import StudentConfig
from gdist.stages.train.config import STUDENT_DEFAULTS, TrainConfig

FRONTEND_ONLY_HINT = "to start from the teacher's front-end alone: --set student.initialize=frontend"


def build_student(cache: Cache, config: TrainConfig) -> Student:
    """The student for the cache's teacher, initialized from the teacher's weights as the config says.

    Raises:
        ConfigError: the student's config is impossible, or the teacher's weights do not fit the student.
    """
    torch.manual_seed(config.train.seed)
    student = STUDENTS[config.student["name"]](configured(cache, config))
    try:
        student.require_post_init()
    except TypeError as error:
        name = config.student["name"]
        raise ConfigError(f"the student {name} cannot be trained: {error}", "see docs/extending.md") from error
    initialize = config.student["initialize"]
    if initialize != "none":
        frontend = safetensors.torch.load(cache.document("frontend.safetensors"))
        layers = None
        if initialize == "layers":
            layers = safetensors.torch.load(cache.document("layers.safetensors"))
            require_layers(layers, cache)
            require_same_attention(student, teachers_config(cache))
        try:
            student.initialize_from_teacher(frontend, layers)
        except ValueError as error:
            raise ConfigError(
                f"student.initialize = {initialize}, with the teacher of {cache.uri}: {error}",
                FRONTEND_ONLY_HINT if initialize == "layers" else f"gdist verify {in_shell(cache.uri)}",
            ) from error
    if config.student["frontend"] == "frozen":
        student.frontend.requires_grad_(False)
    return student


def teachers_config(cache: Cache) -> dict[str, Any]:
    """The config of the cache's teacher."""
    config: dict[str, Any] = json.loads(cache.document("config.json"))
    return config | {"do_normalize": cache.identity["teacher"]["do_normalize"]}


def configured(cache: Cache, config: TrainConfig) -> StudentConfig:
    """The config of the student that ``config`` names, for the cache's teacher.

    Raises:
        ConfigError: it is impossible.
    """
    fields = {key: value for key, value in config.student.items() if key not in STUDENT_DEFAULTS}
    return student_config(config.student["name"], teachers_config(cache), **fields)


def require_layers(layers: Mapping[str, torch.Tensor], cache: Cache) -> None:
    """Raise ConfigError if the teacher's layers are of another kind than a student's."""
    if not any(name.startswith("0.") for name in layers):
        raise ConfigError(
            f"student.initialize = layers: the layers of {cache.identity['teacher']['family']}, the family of the "
            f"teacher of {cache.uri}, are not made of what a student's Transformer layers are made of",
            FRONTEND_ONLY_HINT,
        )


def require_same_attention(student: Student, teacher_config: Mapping[str, Any]) -> None:
    """Raise ConfigError if the teacher's layers would compute something else in the student, despite equal shapes."""
    trained_with = layer_fields(teacher_config)
    for field in ("num_attention_heads", "pre_norm"):
        value = trained_with[field]
        if (own := getattr(student.config, field)) != value:
            raise ConfigError(
                f"student.initialize = layers: the teacher's layers were trained with {field} = {value}, but "
                f"student.{field} is {own}",
                FRONTEND_ONLY_HINT,
            )


def bound_to(run: Run) -> str | None:
    """The state of the cache that a run which has begun was begun with."""
    return run.provenance().get("cache_checksum") if (run.folder / "run.json").exists() else None


def open_cache(run: Run, uri: str, local: LocalFolder | None = None) -> Cache:
    """The cache at ``uri`` as it was when the run began, even if it has grown since."""
    cache = Cache.open(uri, local=local)
    bound = bound_to(run)
    if bound is None or bound == cache.gdist["checksum"]:
        return cache
    with suppress(CacheError):  # a different cache; `Run.begin` raises the error
        cache = Cache.open(uri, bound, local)
        say(f"the cache at {uri} has grown since {run.folder} was started; it is read as it was then")
    return cache


def layers_to_read(cache: Cache, student: Student, config: TrainConfig) -> list[int]:
    """The cached layers that steps need: those that the student predicts, and layer 0 for a frozen front-end."""
    layers = [0] * (config.student["frontend"] == "frozen") + list(student.predicted_layers)
    absent = [layer for layer in layers if layer not in cache.layers]
    if absent:
        raise CacheError(
            f"this student needs layers {absent}, but the cache at {cache.uri} contains only {cache.layers}",
            "gdist extract … --layers all, into another cache",
        )
    return layers


def save_student(run: Run, student: Student) -> None:
    """Save the finished student in Hugging Face's format, either completely or not at all."""
    with run.replacing(run.student, STUDENT_FILES) as staged:
        save_student_to(staged, student)


def save_student_to(folder: Path, student: Student) -> None:
    """Save the student's weights, its config and its feature extractor's config."""
    student.save_pretrained(folder)
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": student.config.do_normalize,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": framing.SAMPLE_RATE,
    }
    write_atomically(folder / "preprocessor_config.json", json.dumps(extractor, indent=2))
