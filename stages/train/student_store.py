"""Builds a student for the teachers of its caches, and saves it when it is trained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gdist.pipeline import framing
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.needs import layers_command
from gdist.pipeline.errors import CacheError, ConfigError
from gdist.pipeline.loading.joined import Joined, Source, joined
from gdist.pipeline.run import STUDENT_FILES, Run
from gdist.pipeline.staging import write_atomically
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.students import STUDENTS, Student, layer_fields, student_config
from gdist.stages.students.configuration import StudentConfig
from gdist.stages.train.config import STUDENT_DEFAULTS, TrainConfig
from gdist.stages.train.teacher_files import frontend_tensors, layer_tensors, teachers_config

FRONTEND_ONLY_HINT = "to start from the teacher's front-end alone: --set student.initialize=frontend"


def build_student(source: Source, config: TrainConfig) -> Student:
    """The student for the teachers of one or several caches, initialized from their weights as the config says.

    Raises:
        ConfigError: the student's config is impossible, or a teacher's weights do not fit the student.
    """
    torch.manual_seed(config.train.seed)
    name, caches = config.student["name"], joined(source)
    student = STUDENTS[name](configured(caches, config))
    try:
        student.require_post_init()
    except TypeError as error:
        raise ConfigError(f"the student {name} cannot be trained: {error}", "see docs/extending.md") from error
    if config.student["initialize"] != "none":
        for place, taught in enumerate(caches.teachers):
            initialize(student, place, taught.cache, config.student["initialize"])
    if config.student["frontend"] == "frozen":
        student.frontend.requires_grad_(False)
    return student


def initialize(student: Student, place: int, cache: Cache, how: str) -> None:
    """Copy weights of the ``place``-th teacher, that of ``cache``: the front-end of the first one, and of each its
    layers if ``how`` is "layers"."""
    layers = teacher = None
    if how == "layers" and (place == 0 or list(student.layers_of(place))):
        layers = layer_tensors(cache)
        require_layers(layers, cache)
        teacher = teachers_config(cache)
        require_same_attention(student, teacher, place)
    try:
        if place == 0:
            student.initialize_from_teacher(frontend_tensors(cache, teacher), layers)
        elif layers is not None:
            student.initialize_layers(layers, place)
    except ValueError as error:
        raise ConfigError(
            f"student.initialize = {how}, with the teacher of {cache.uri}: {error}",
            FRONTEND_ONLY_HINT if how == "layers" else f"gdist verify {in_shell(cache.uri)}",
        ) from error


def configured(source: Source, config: TrainConfig) -> StudentConfig:
    """The config of the student that ``config`` names, for the teachers of one or several caches.

    Raises:
        ConfigError: it is impossible.
    """
    caches, name = joined(source), config.student["name"]
    fields = {key: value for key, value in config.student.items() if key not in STUDENT_DEFAULTS}
    chosen = predicted_layers(caches, fields.pop("predict_layers", None))
    configs: dict[str, StudentConfig] = {}
    for taught in caches.teachers:
        own = fields if chosen[taught.name] is None else fields | {"predict_layers": chosen[taught.name]}
        try:
            configs[taught.name] = student_config(name, teachers_config(taught.cache), **own)
        except ConfigError as error:
            if len(caches.teachers) == 1:
                raise
            raise ConfigError(f"For the teacher {taught.name}: {error.message}", error.hint) from error
    first, *others = configs
    if others:
        if not STUDENTS[name].several_teachers:
            raise ConfigError(
                f"the student {name} learns from one teacher, and the caches are of {len(configs)}",
                f"one --cache, or --student {' or '.join(n for n in STUDENTS.own if STUDENTS[n].several_teachers)}",
            )
        configs[first].learn_from({other: configs[other] for other in others})
    return configs[first]


def predicted_layers(caches: Joined, given: Sequence[int | str] | None) -> dict[str, list[int] | None]:
    """Teacher → its layers that are predicted; None for the student's own choice.

    Args:
        given: ``student.predict_layers``. Numbers are meant for every teacher.

    Raises:
        ConfigError: a teacher is unknown, or nothing of one is predicted.
    """
    names = [taught.name for taught in caches.teachers]
    if given is None or not any(isinstance(layer, str) for layer in given):
        return dict.fromkeys(names, None if given is None else [int(layer) for layer in given])
    found: dict[str, list[int] | None] = {}
    for text in map(str, given):
        name, _, layer = text.partition(":")
        if name not in names or len(names) == 1:
            raise ConfigError(
                f"student.predict_layers: {text}, and "
                + (f"the teachers are {', '.join(names)}" if len(names) > 1 else "there is one teacher"),
                f"{names[0]}:{layer}" if len(names) > 1 else f"student.predict_layers={layer}",
            )
        found[name] = [*(found.get(name) or []), int(layer)]
    if absent := [name for name in names if name not in found]:
        raise ConfigError(
            f"student.predict_layers has no layer of {absent[0]}",
            f"add one, such as {absent[0]}:1, or leave out its cache",
        )
    return found


def require_layers(layers: Mapping[str, torch.Tensor], cache: Cache) -> None:
    """Raise ConfigError if the teacher's layers are of another kind than a student's."""
    if not any(name.startswith("0.") for name in layers):
        raise ConfigError(
            f"student.initialize = layers: the layers of {cache.identity['teacher']['family']}, the family of the "
            f"teacher of {cache.uri}, are not made of what a student's Transformer layers are made of",
            FRONTEND_ONLY_HINT,
        )


def require_same_attention(student: Student, teacher_config: Mapping[str, Any], place: int = 0) -> None:
    """Raise ConfigError if the teacher's layers would compute something else in the student, despite equal shapes."""
    trained_with = layer_fields(teacher_config)
    for field in ("num_attention_heads", "pre_norm"):
        value = trained_with[field]
        if (own := getattr(student.teachers[place].config, field)) != value:
            raise ConfigError(
                f"student.initialize = layers: the teacher's layers were trained with {field} = {value}, but "
                f"student.{field} is {own}",
                FRONTEND_ONLY_HINT,
            )


def layers_to_read(source: Source, student: Student, config: TrainConfig) -> list[int]:
    """The cached layers that steps need: those that the student predicts, and layer 0 for a frozen front-end."""
    caches = joined(source)
    layers = [0] * (config.student["frontend"] == "frozen") + list(student.predicted_layers)
    absent = [layer for layer in layers if layer not in caches.layers]
    if absent:
        if len(caches.teachers) == 1:
            lacking, there = str(absent), str(caches.layers)
        else:
            lacking, there = (", ".join(map(caches.layer_name, some)) for some in (absent, caches.layers))
        holders = f"cache at {caches.uri} contains" if len(caches.parts) == 1 else f"caches at {caches.uri} contain"
        raise CacheError(
            f"this student needs layers {lacking}, but the {holders} only {there}", _or_extract(caches, absent)
        )
    return layers


def _or_extract(caches: Joined, absent: Sequence[int]) -> str:
    """What to type where layers are lacking: the settings that need none of them, or the command that adds them."""
    own = [caches.teacher_of(number) for number in absent]
    settings = ["student.frontend=trained"] * (0 in absent)
    if any(number > taught.offset for number, taught in zip(absent, own, strict=True)):
        cached = [number for number in caches.layers if number > caches.teacher_of(number).offset]
        settings.append(f"student.predict_layers={','.join(map(caches.layer_name, cached))}")
    hint = f"add {' '.join(f'--set {each}' for each in settings)}"
    commands = dict.fromkeys(layers_command(taught.cache.uri, taught.cache.gdist) for taught in own)
    return "; or add the layers to the cache: ".join([hint, *filter(None, commands)])


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
