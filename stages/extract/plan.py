"""The plan of stage one: what the cache will be, which follows from the manifest and the teacher's shapes alone."""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.torch

from gdist.pipeline.cache import layout
from gdist.pipeline.cache.cache import Cache, require_same
from gdist.pipeline.cache.copied import require_extracted
from gdist.pipeline.cache.encode import COMPRESS, UNCOMPRESSED, compression
from gdist.pipeline.cache.encodings import ENCODINGS, encoding
from gdist.pipeline.cache.index import joined
from gdist.pipeline.cache.plan import Plan, array_specs
from gdist.pipeline.cache.schema import MAX_PACK_FRAMES, MAX_SECONDS
from gdist.pipeline.config import require
from gdist.pipeline.errors import UsageError
from gdist.pipeline.extensions import Extension
from gdist.pipeline.framing import SAMPLE_RATE, resampled_length
from gdist.pipeline.made_with import revision
from gdist.pipeline.manifest.by_id import by_id
from gdist.pipeline.manifest.table import Manifest, Utterance
from gdist.stages.teachers import FAMILIES, Teacher

PACKAGES = ("gdist", "torch", "torchaudio", "transformers", "zarr", "numcodecs")  # those that determine the bytes
BATCH_SECONDS = {"cpu": 32.0, "cuda": 320.0}
INITIAL_LAYERS = 2  # of the teacher's Transformer layers, stored in the cache: DistilHuBERT starts from two


@dataclass(frozen=True)
class ExtractConfig:
    """What to extract, from what, and to where.

    Attributes:
        layers: ``all``, or layers such as ``0,4,8,12`` (0 is the input of the first Transformer layer).
        compress: how the chunks are compressed: ``zstd:LEVEL``, or ``none``.
        precision: the teacher's arithmetic: fp32, tf32 (CUDA only), or autocast to bf16 or fp16.
        window: for Whisper, "exact" or "short"; None means exact.
        max_seconds: longer utterances are quarantined, since attention's memory grows with the square of the length.
        batch_seconds: seconds of audio per batch, padding included; None chooses by the device.
        cluster: where the tasks run: ``local:N``, a Dask scheduler, or None for this process. The bytes are the same.
    """

    teacher: str
    manifest: str
    cache: str
    layers: str = "all"
    encoding: str = "fp16"
    compress: str = COMPRESS
    precision: str = "fp32"
    device: str = "auto"
    final_norm: bool = False
    window: str | None = None
    max_seconds: float = 60.0
    batch_seconds: float | None = None
    pack_frames: int = layout.PACK_FRAMES
    cluster: str | None = None
    restart: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        encoding(self.encoding)
        compression(self.compress)
        for option, seconds in (("--max-seconds", self.max_seconds), ("--batch-seconds", self.batch_seconds)):
            possible = seconds is None or 0 < seconds <= MAX_SECONDS
            require(possible, f"{option} {seconds}: must be more than 0, and at most {MAX_SECONDS:g}")
        require(
            0 < self.pack_frames <= MAX_PACK_FRAMES and self.pack_frames % layout.CHUNK_FRAMES == 0,
            f"--pack-frames {self.pack_frames}: must be a multiple of {layout.CHUNK_FRAMES}, "
            f"at most {MAX_PACK_FRAMES}",
        )
        if self.cluster is not None:
            from gdist.pipeline.cluster.workers import check_spec  # Dask takes a second to import

            check_spec(self.cluster)
            require(
                ":" not in self.device,
                f"--device {self.device}: each worker of a cluster has its own GPU, so give --device cuda",
            )


def measure(manifest: Manifest) -> tuple[Mapping[str, Utterance], layout.Lengths]:
    """Find the length of each utterance at 16 kHz, from the manifest or, if it has none, from the file's header.

    Returns:
        id → utterance with ``num_samples`` and ``sample_rate`` filled in, and (id, samples, problem) in the
        manifest's order.
    """
    measured = manifest.measured()
    utterances = by_id(measured)
    samples, rates = (
        pc.fill_null(measured.table[name], unknown).to_numpy().astype(np.int64)
        for name, unknown in (("num_samples", 0), ("sample_rate", SAMPLE_RATE))
    )
    lengths = resampled_length(samples, rates)
    rows = pc.index_in(pa.array([p.id for p in measured.problems], utterances.ids.type), utterances.ids).to_pylist()
    problems = {row: problem.reason for row, problem in zip(rows, measured.problems, strict=True)}
    lengths[rows] = 0
    return utterances, layout.Lengths(utterances.ids, lengths, problems)


def make_plan(
    config: ExtractConfig,
    teacher: Teacher,
    manifest: Manifest,
    lengths: layout.Lengths,
    device: str,
    cache: Cache | None = None,
    gpus: str = "",
) -> Plan:
    """Plan everything that the cache will contain, before the teacher runs.

    Args:
        lengths: the lengths of the utterances, in the manifest's order, see :func:`measure`.
        cache: the existing cache, if any. It keeps its utterances and layers, and new ones are added.
        gpus: the models of the GPUs that compute, which the cache records.

    Raises:
        CacheMismatchError: the existing cache was made from other inputs, or some of its utterances are missing from
            the manifest or have changed there.
    """
    identity: dict[str, Any] = {
        "teacher": {
            "family": teacher.family,
            "fingerprint": teacher.fingerprint,
            "num_layers": teacher.num_layers,
            "num_params": teacher.num_params,
            "do_normalize": teacher.do_normalize,
            "final_norm": config.final_norm,
        },
        "manifest": manifest.fingerprint(),
        "layers": parse_layers(config.layers, teacher.num_layers),
        "dim": teacher.dim,
        "encoding": config.encoding,
        "compress": compression(config.compress),
        "precision": config.precision,
        "sample_rate": SAMPLE_RATE,
        "framing": teacher.framing.to_dict(),
        "chunk_frames": layout.CHUNK_FRAMES,
        "pack_frames": config.pack_frames,
        "max_seconds": config.max_seconds,
        # Which utterances share a batch affects the last bits of a float, so it is part of the identity.
        "batch_seconds": config.batch_seconds or BATCH_SECONDS[device.partition(":")[0]],
    }
    if window := teacher.config.get("window"):
        identity["teacher"]["window"] = window
    if teacher.least_samples:
        identity["teacher"]["window_samples"] = teacher.least_samples
    if extension := FAMILIES.extension(teacher.family):
        identity["teacher"]["sha256"] = extension.sha256
    if extension := ENCODINGS.extension(config.encoding):
        identity["encoding_sha256"] = extension.sha256
    about = {name: importlib.metadata.version(name) for name in PACKAGES} | {
        "teacher": published_name(teacher.name),
        "device": device,
    }
    about |= packages_of(teacher.family, config.encoding) | ({"gpus": gpus} if gpus else {})
    about |= {"revision": found} if (found := revision()) else {}
    max_samples = int(config.max_seconds * SAMPLE_RATE)
    if cache is not None:
        return _addition(identity, about, cache, manifest, lengths, max_samples)
    entries = layout.place(lengths, max_samples, layout.CHUNK_FRAMES, config.pack_frames, framing=teacher.framing)
    return Plan(identity, about, entries, labels_of(manifest), teacher_files(teacher, config.encoding))


def extensions_of(family: str, encoding: str) -> list[Extension]:
    """The user's own files that a cache is made with."""
    return [found for found in (FAMILIES.extension(family), ENCODINGS.extension(encoding)) if found is not None]


def packages_of(family: str, encoding: str) -> dict[str, str]:
    """Package → version of what a cache is made with that is neither gdist's nor a file."""
    found = (FAMILIES.package(family), ENCODINGS.package(encoding))
    return {record["package"]: record["version"] for record in found if record}


def teacher_files(teacher: Teacher, encoding: str) -> dict[str, bytes]:
    """The files under ``teacher/`` of a cache: name → content."""
    sources = {each.file_name: each.source for each in extensions_of(teacher.family, encoding)}
    layers = teacher.layer_tensors(min(INITIAL_LAYERS, teacher.num_layers)) | teacher.norm_tensors()
    return sources | {
        "config.json": json.dumps(teacher.config, indent=2, sort_keys=True).encode(),
        "frontend.safetensors": safetensors.torch.save(teacher.frontend_tensors()),
        "layers.safetensors": safetensors.torch.save(layers),
    }


def _addition(
    identity: dict[str, Any],
    about: dict[str, str],
    cache: Cache,
    manifest: Manifest,
    lengths: layout.Lengths,
    max_samples: int,
) -> Plan:
    """The plan of a cache to which new utterances and layers are added. What is already stored stays unchanged."""
    require_extracted(cache.uri, cache.gdist, "extract into")
    known = cache.entries.texts("id")
    found = pc.index_in(lengths.ids, known.cast(lengths.ids.type))  # where the cache has each row of the manifest
    absent = found.is_null().to_numpy(zero_copy_only=False)
    new, row_of = np.flatnonzero(absent), np.full(len(known), -1)
    row_of[found.drop_null().to_numpy()] = np.flatnonzero(~absent)
    old = row_of[row_of >= 0]
    if len(old) < len(known):
        identity["manifest"] = f"{len(known) - len(old)} of its utterances are not in this one"
    elif not _has_rows(manifest.take(old), cache):
        identity["manifest"] = "the same utterances with other rows"
    else:
        identity["manifest"] = cache.identity["manifest"]
    identity["layers"] = sorted({*identity["layers"], *cache.identity["layers"]})
    require_same(cache.uri, cache.identity, identity | {"layers": cache.identity["layers"]})
    ordered = manifest.take(np.concatenate([old, new]))
    identity["manifest"] = ordered.fingerprint()
    sizes = identity["chunk_frames"], identity["pack_frames"]
    added = layout.place(lengths.take(new), max_samples, *sizes, cache.packs, cache.framing)
    return Plan(identity, about, joined(cache.entries, added), labels_of(ordered), {}, cache.gdist)


def _has_rows(manifest: Manifest, cache: Cache) -> bool:
    """Whether these are the rows that the cache was planned from. Columns that were added later do not count."""
    labels = list(cache.entries.labels)
    if not set(labels) <= set(manifest.label_columns):
        return False
    fingerprint = manifest.take(range(len(manifest.table)), labels).fingerprint()
    return bool(fingerprint == cache.identity["manifest"])


def labels_of(manifest: Manifest) -> pa.Table | None:
    """The columns that are copied into the cache's index."""
    return manifest.table.select(manifest.label_columns) if manifest.label_columns else None


def published_name(teacher: str) -> str:
    """A hub id unchanged, or the last part of a folder: its full path on this machine should not be published."""
    return Path(teacher).resolve().name if Path(teacher).exists() else teacher


def parse_layers(text: str, num_layers: int) -> list[int]:
    """Parse ``all`` or ``0,4,8-12`` into sorted layer numbers between 0 and ``num_layers``.

    Raises:
        UsageError: the text is invalid, or the teacher has no such layer.
    """
    if text == "all":
        return list(range(num_layers + 1))
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 20:
            raise UsageError(f"--layers {text!r}: {part!r} is not a layer", "for example --layers all or 0,4,8-12")
        start, stop = int(first), int(last or first)
        if not start <= stop <= num_layers:
            raise UsageError(f"--layers {text!r}: this teacher has layers 0 to {num_layers}")
        layers |= set(range(start, stop + 1))
    return sorted(layers)


def describe(plan: Plan, done: int) -> dict[str, Any]:
    """The result of ``--dry-run``. Sizes are upper bounds, before lossless compression and without the padding, which
    compresses to nothing; without compression, they include it.

    Args:
        done: the number of packs that are already complete.
    """
    kind, all_frames = encoding(plan.identity["encoding"]), plan.entries.numbers("num_frames")
    frames = int(all_frames.sum(dtype=np.int64))
    samples = int(plan.entries.numbers("num_samples")[all_frames > 0].sum())
    problems = plan.entries.take(np.flatnonzero(all_frames == 0))
    specs = array_specs(plan.identity)
    size = frames * plan.identity["dim"] * len(plan.identity["layers"]) * kind.bytes_per_value + samples * 2
    if plan.identity["compress"] == UNCOMPRESSED:
        size = plan.packs * sum(spec.pack_bytes for spec in specs.values())
    return {
        "utterances": len(plan.entries) - len(problems),
        "frames": frames,
        "audio_seconds": samples / SAMPLE_RATE,
        "bytes": round(size),
        "packs": plan.packs,
        "packs_resumed": done,
        "objects": plan.packs * (len(specs) + 1),
        "quarantined": len(problems),
        "quarantine": {entry.id: entry.problem for entry in problems},
    }
