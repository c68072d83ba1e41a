"""Where a run comes from: what its run.json says of it, and the user's own files that it uses."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.extensions import Extension
from gdist.stages.students import STUDENTS, Student
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.losses import LOSSES
from gdist.stages.train.ranks import Ranks


def provenance(
    cache: Cache, student: Student, config: TrainConfig, splits: Mapping[str, Sequence[Entry]], ranks: Ranks
) -> dict[str, Any]:
    """Where a run comes from, for run.json."""
    teacher = cache.identity["teacher"]
    return {
        "cache": cache.uri,
        "cache_checksum": cache.gdist["checksum"],
        "encoding": cache.identity["encoding"],
        "layers": list(cache.layers),
        "student": config.student["name"],
        "params": student.num_parameters(),
        "params_with_heads": student.num_parameters_with_heads(),
        "teacher": {
            "name": cache.gdist["about"]["teacher"],
            "family": teacher["family"],
            "fingerprint": teacher["fingerprint"],
            "params": teacher["num_params"],
            "num_layers": teacher["num_layers"],
            "dim": cache.identity["dim"],
        },
        "ranks": ranks.world,
        "utterances": {name: len(entries) for name, entries in splits.items()},
        "packages": {
            name: record
            for registry, name in (
                (STUDENTS, config.student["name"]),
                (LOSSES, config.loss.name),
                (ENCODINGS, cache.identity["encoding"]),
            )
            if (record := registry.package(name))
        },
        "versions": {name: importlib.metadata.version(name) for name in ("gdist", "torch", "transformers")},
    }


def extensions_of(cache: Cache, config: TrainConfig) -> list[Extension]:
    """The user's own files that a run uses."""
    named = (
        STUDENTS.extension(config.student["name"]),
        LOSSES.extension(config.loss.name),
        ENCODINGS.extension(cache.identity["encoding"]),
    )
    return [extension for extension in named if extension is not None]
