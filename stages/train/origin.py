"""Where a run comes from: what its run.json says of it, and the user's own files that it uses."""

import json
from typing import Any

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.extensions import Extension
from gdist.pipeline.loading.joined import Joined, Source, joined
from gdist.pipeline.loading.splits import Splits
from gdist.pipeline.made_with import made_with
from gdist.pipeline.storage.locations import lasting
from gdist.stages.students import STUDENTS, Student
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.losses import LOSSES
from gdist.stages.train.ranks import Ranks


def provenance(source: Source, student: Student, config: TrainConfig, splits: Splits, ranks: Ranks) -> dict[str, Any]:
    """Where a run comes from, for run.json. Where it has several caches, the first one and its teacher come first."""
    caches = joined(source)
    cache, first = caches.first, caches.teachers[0]
    return {
        "cache": lasting(cache.uri),
        "cache_checksum": caches.checksum,
        "encoding": cache.identity["encoding"],
        "layers": list(first.layers),
        "student": config.student["name"],
        "student_config": json.loads(student.config.to_json_string()),
        "params": student.num_parameters(),
        "params_with_heads": student.num_parameters_with_heads(),
        "teacher": _teacher(cache),
        **_several(caches),
        "ranks": ranks.world,
        "utterances": {name: len(entries) for name, entries in splits.items()},
        "also_trained_on": splits.also_trained_on,
        "packages": {
            name: record
            for name, record in (
                (config.student["name"], STUDENTS.package(config.student["name"])),
                (config.loss.name, LOSSES.package(config.loss.name)),
                *((encoding, ENCODINGS.package(encoding)) for encoding in _encodings(caches)),
            )
            if record
        },
        **made_with(str(ranks.device)),
    }


def _teacher(cache: Cache) -> dict[str, Any]:
    teacher = cache.identity["teacher"]
    return {
        "name": cache.gdist["about"]["teacher"],
        "family": teacher["family"],
        "fingerprint": teacher["fingerprint"],
        "params": teacher["num_params"],
        "num_layers": teacher["num_layers"],
        "dim": cache.identity["dim"],
    }


def _several(caches: Joined) -> dict[str, Any]:
    """All caches, and all teachers by the names that their layers have in the config; nothing where there is one."""
    found: dict[str, Any] = {}
    if len(caches.parts) > 1:
        found["caches"] = [
            {
                "name": caches.teacher_of(min(part.layers)).name,
                "uri": lasting(part.cache.uri),
                "checksum": part.cache.gdist["checksum"],
                "encoding": part.cache.identity["encoding"],
                "layers": list(part.layers.values()),
            }
            for part in caches.parts
        ]
    if len(caches.teachers) > 1:
        found["teachers"] = {
            taught.name: _teacher(taught.cache) | {"layers": list(taught.layers)} for taught in caches.teachers
        }
    return found


def _encodings(caches: Joined) -> list[str]:
    """Those of the caches, each once."""
    return list(dict.fromkeys(part.cache.identity["encoding"] for part in caches.parts))


def extensions_of(source: Source, config: TrainConfig) -> list[Extension]:
    """The user's own files that a run uses."""
    named = (
        STUDENTS.extension(config.student["name"]),
        LOSSES.extension(config.loss.name),
        *map(ENCODINGS.extension, _encodings(joined(source))),
    )
    return [extension for extension in named if extension is not None]
