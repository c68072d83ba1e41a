"""`gdist export-features`, read top to bottom: choose → own the folder → write what is missing → index."""

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gdist.pipeline import console
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import UsageError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.pipeline.schema import LARGEST
from gdist.stages.features import kmeans
from gdist.stages.features.folder import RECORDS, OutFolder
from gdist.stages.features.formats import FORMATS, TOKENS, format_named
from gdist.stages.features.formats.base import Export, as_npy
from gdist.stages.features.selection import Matrix, Selection, Utterance

CENTROIDS, FITTED = "centroids.npy", f"{RECORDS}/kmeans.json"


@dataclass(frozen=True)
class FeaturesConfig:
    """What to export, and to where.

    Attributes:
        to: a format; None for tokens.
        layers: ``all``, or layers such as ``0,4,8-12``.
        weights: see :func:`gdist.stages.features.selection.weights_of`.
        where: ``COLUMN=VALUE`` each; see :func:`gdist.stages.copy.part.rows_of`.
        clusters: of k-means, to be fitted on about ``sample_frames`` frames.
        centroids: a file of centroids, fitted before.
        piece_bytes: of hidden states in a piece, about.
    """

    cache: str
    out: Path
    to: str | None = None
    layers: str = "all"
    average: bool = False
    weights: str | None = None
    where: tuple[str, ...] = ()
    dtype: str = "float32"
    clusters: int | None = None
    centroids: Path | None = None
    sample_frames: int = 200_000
    seed: int = 0
    piece_bytes: int = 256_000_000

    def __post_init__(self) -> None:
        asked = {"--to": self.to, "--kmeans": self.clusters, "--centroids": self.centroids}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) != 1:
            raise UsageError(
                f"{' and '.join(given)} are different exports" if given else "it is not said what to write",
                f"give one of --to {'|'.join(FORMATS)}, --kmeans K and --centroids FILE.npy",
            )
        if self.to is None and self.dtype != "float32":
            raise UsageError(f"--dtype {self.dtype}: tokens are whole numbers", "leave out --dtype")
        for name, value in (("--kmeans", self.clusters), ("--sample-frames", self.sample_frames),
                            ("--shard-size", self.piece_bytes)):  # fmt: skip
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}: it must be at least 1")
            if value is not None and value > LARGEST:
                raise UsageError(f"{name} {value}: it must be at most {LARGEST:,}")


def export_features(config: FeaturesConfig, show_progress: bool = True) -> dict[str, Any]:
    """Export, or continue to.

    Returns:
        the fields of ``gdist export-features --json`` (see docs/features.md).

    Raises:
        UsageError: the options ask for what the cache does not have, or the folder contains another export.
        RunError: the folder contains something else, or cannot be written.
        CacheDamagedError: the cache is damaged.
        CacheError: it is unfinished, or cannot be read.
    """
    began = time.monotonic()
    cache = Cache.open(config.cache)
    selection = Selection.of(
        cache, config.layers, config.where, config.average, config.weights, config.dtype, config.piece_bytes
    )
    given = kmeans.read_centroids(config.centroids, selection.dim) if config.centroids else None
    name = config.to or TOKENS
    determines = selection.identity() | {"format": name, "shard_size": config.piece_bytes}
    out = OutFolder(config.out, determines | _of_kmeans(config, given))
    form, about = format_named(name), _about(selection)
    form.check(Export(out, selection, about))
    with out.owned():
        centroids = _fitted(out) if given is None else given
        fits = name == TOKENS and centroids is None  # what has been written then comes from other centroids
        todo = [piece for piece in range(len(selection)) if fits or out.record(piece) is None]
        if todo:
            out.plan(about, finished=False)
        if name == TOKENS:
            centroids = _kept(out, _fit(config, selection, show_progress) if centroids is None else centroids)
        export = Export(out, selection, about, centroids)
        seconds = sum(map(selection.seconds, todo))
        with console.progress("export", seconds, "s of audio", enabled=show_progress) as advance, out.explained():
            for piece in todo:
                utterances = _counted(selection.read(selection.entries(piece)), advance)
                out.commit(piece, form.write(export, piece, utterances))
        with out.explained():
            form.finish(export, out.rows(len(selection)))
        out.plan(about, finished=True)
    return _result(config, export, name, len(selection) - len(todo), time.monotonic() - began) | {
        "usage": form.usage(export)
    }


def _of_kmeans(config: FeaturesConfig, given: Matrix | None) -> dict[str, Any]:
    """Return what determines tokens, in addition to what is exported."""
    if given is not None:
        return {"centroids_sha256": hashlib.sha256(given.tobytes()).hexdigest()}
    if config.clusters:
        return {"kmeans": config.clusters, "seed": config.seed, "sample_frames": config.sample_frames}
    return {}


def _counted(utterances: Iterable[Utterance], advance: Callable[[float], None]) -> Iterator[Utterance]:
    """Report each utterance once it is written."""
    for utterance in utterances:
        yield utterance
        advance(utterance.entry.num_samples / SAMPLE_RATE)


def _fit(config: FeaturesConfig, selection: Selection, show_progress: bool) -> Matrix:
    """Return centroids that are fitted now, [K, D]."""
    assert config.clusters is not None, "tokens without --centroids"
    frames = min(config.sample_frames, int(selection.frames().sum()))
    with console.progress("sample", frames, "frames", enabled=show_progress) as advance:
        sample_ND = kmeans.sampled(selection, frames, config.seed, advance)
    if show_progress:
        console.say(f"fitting {config.clusters} clusters on {len(sample_ND):,} frames")
    return kmeans.fit(sample_ND, config.clusters, config.seed)


def _kept(out: OutFolder, centroids_KD: Matrix) -> Matrix:
    """Write centroids to the folder, and return them."""
    with out.replacing(CENTROIDS) as file:
        file.write(as_npy(centroids_KD))
    with out.replacing(FITTED) as file:
        file.write(json.dumps({"sha256": hashlib.sha256(centroids_KD.tobytes()).hexdigest()}).encode())
    return centroids_KD


def _fitted(out: OutFolder) -> Matrix | None:
    """Return the centroids of an earlier call; None where there are none, or other ones than were fitted."""
    try:
        found: Matrix = np.load(out.at(CENTROIDS), allow_pickle=False)
        digest = json.loads(out.at(FITTED).read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if hashlib.sha256(found.tobytes()).hexdigest() == digest else None


def _about(selection: Selection) -> dict[str, Any]:
    """Return what people want to know of where features come from."""
    about = selection.cache.gdist["about"]
    weights = dict(zip(map(str, selection.layers), selection.weights or (), strict=False))
    return {
        "teacher": str(about.get("teacher", "")),
        "cache": selection.cache.uri,
        "matrices": selection.names,
        "weights": weights or None,
        "dim": selection.dim,
        "frame_shift": selection.frame_shift,
        "gdist": importlib.metadata.version("gdist"),
    }


def _result(config: FeaturesConfig, export: Export, name: str, resumed: int, seconds: float) -> dict[str, Any]:
    selection = export.selection
    sizes = [sum((export.out.record(piece) or {"files": {}})["files"].values()) for piece in range(len(selection))]
    return {
        "format": name,
        "out": str(config.out),
        "cache": config.cache,
        "layers": selection.layers,
        "matrices": selection.names,
        "weights": list(selection.weights) if selection.weights else None,
        "dtype": selection.dtype,
        "dim": selection.dim,
        "clusters": None if export.centroids is None else len(export.centroids),
        "utterances": len(selection.positions),
        "left_out": selection.left_out,
        "frames": int(selection.frames().sum()),
        "audio_seconds": sum(map(selection.seconds, range(len(selection)))),
        "bytes": sum(sizes),
        "pieces": len(selection),
        "pieces_resumed": resumed,
        "seconds": seconds,
    }


def show(result: dict[str, Any]) -> None:
    """Print the result for people."""
    what = f"{', '.join(result['matrices'])} as {result['format']}"
    if result["clusters"]:
        what = f"{result['clusters']} tokens of {result['matrices'][0]}"
    console.say(
        f"{result['out']}: {what}, {result['utterances']:,} utterances, {result['frames']:,} frames, "
        f"{console.size(result['bytes'])} in {console.duration(result['seconds'])}",
        "green",
    )
    if result["left_out"]:
        console.say(f"{result['left_out']:,} utterances are quarantined in the cache, and left out", "yellow")
    if result["pieces_resumed"]:
        console.say(f"{result['pieces_resumed']:,} of {result['pieces']:,} pieces were there already")
    console.say(f"  try: {result['usage']}")
