"""The bytes, objects and requests of a planned cache, from the utterances' lengths and the teacher's shapes alone."""

import dataclasses
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from gdist.pipeline.cache import layout
from gdist.pipeline.cache.encode import COMPRESS, UNCOMPRESSED
from gdist.pipeline.cache.encodings import encoding
from gdist.pipeline.cache.entries import Entries, Entry
from gdist.pipeline.cache.index import to_table
from gdist.pipeline.cache.plan import INDEX, WAVEFORM, Plan, array_specs, layer_name
from gdist.pipeline.errors import UsageError
from gdist.pipeline.framing import SAMPLE_RATE, Framing
from gdist.pipeline.heartbeat import BEAT_SECONDS
from gdist.pipeline.loading.loader import RESIDENT_BYTES
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.extract.plan import INITIAL_LAYERS, labels_of, measure
from gdist.stages.frontend.kinds import build_frontend, frontend_of
from gdist.stages.teachers import FAMILIES, empty_model
from gdist.stages.train.config import TrainConfig

TEACHER_FILES = ("config.json", "frontend.safetensors", "layers.safetensors")
SAMPLED_PACKS = 8  # packs whose batches are timed

# Upper bounds on bytes that a plan does not determine exactly. For each chunk: zstd's frame, the checksum and the
# entry in the shard's index; and the share that zstd adds to numbers that it cannot compress.
CHUNK_BYTES, CHUNK_SHARE = 64, 1 / 256
RECEIPT_BYTES = 400  # per receipt, and again for each array in it
SUMMARY_OBJECTS = 2  # the table of all receipts, and its sealed document
INDEX_BYTES = 64  # per row of the index, if there is no manifest
DOCUMENT_BYTES = 20_000  # for the teacher's config, versions and names


@dataclass(frozen=True)
class Corpus:
    """How much there is to store.

    Attributes:
        framing: the teacher's.
        rows: the number of rows, of one hop each, that the waveforms take.
        chunks: the number of chunks of 128 frames that the utterances take; each utterance begins a new chunk.
        index_bytes: the size of the index of utterances.
        sample: some packs of the corpus, for timing.
    """

    utterances: int
    quarantined: int
    samples: int
    frames: int
    rows: int
    chunks: int
    packs: int
    index_bytes: int
    framing: Framing
    sample: list[list[Entry]]

    @property
    def hours(self) -> float:
        return self.samples / SAMPLE_RATE / 3600

    @classmethod
    def of_manifest(cls, path: str, framing: Framing, max_seconds: float, pack_frames: int) -> "Corpus":
        """The corpus of a manifest, exactly as extraction would plan it."""
        manifest = Manifest.read(path)
        _, lengths = measure(manifest)
        entries = _placed(lengths, framing, max_seconds, pack_frames)
        usable = entries.take(np.flatnonzero(entries.numbers("num_frames")))
        if not len(usable):
            raise UsageError(f"no utterance of {path} can be used", f"gdist manifest check {in_shell(path)}")
        index = io.BytesIO()
        pq.write_table(to_table(entries, labels_of(manifest)), index, compression="zstd")
        packs = np.unique(usable.numbers("pack"))
        spread = np.linspace(0, len(packs) - 1, min(len(packs), SAMPLED_PACKS)).round().astype(int)
        samples = usable.numbers("num_samples")
        rows = framing.num_rows(samples)
        return cls(
            utterances=len(usable),
            quarantined=len(entries) - len(usable),
            samples=int(samples.sum()),
            frames=int(usable.numbers("num_frames").sum(dtype=np.int64)),
            rows=int(rows.sum()),
            chunks=int((-(-rows // layout.CHUNK_FRAMES)).sum()),
            packs=int(entries.numbers("pack").max()) + 1,
            index_bytes=len(index.getbuffer()),
            framing=framing,
            sample=[usable.of_pack(int(pack)) for pack in packs[spread]],
        )

    @classmethod
    def of_hours(
        cls, hours: float, utterance_seconds: float, framing: Framing, max_seconds: float, pack_frames: int
    ) -> "Corpus":
        """A corpus of the given number of hours, in utterances of one length."""
        count = math.ceil(hours * 3600 / utterance_seconds)
        samples = round(utterance_seconds * SAMPLE_RATE)
        (one,) = _placed([("0", samples, None)], framing, max_seconds, pack_frames)
        if one.problem:
            raise UsageError(f"--utterance-seconds {utterance_seconds:g}: {one.problem}", "for example 12")
        rows = one.num_rows(framing)
        chunks = -(-rows // layout.CHUNK_FRAMES)
        in_pack = min(pack_frames // layout.CHUNK_FRAMES // chunks, count)
        pack = [dataclasses.replace(one, start_frame=i * chunks * layout.CHUNK_FRAMES) for i in range(in_pack)]
        return cls(
            utterances=count,
            quarantined=0,
            samples=count * samples,
            frames=count * one.num_frames,
            rows=count * rows,
            chunks=count * chunks,
            packs=math.ceil(count / in_pack),
            index_bytes=count * INDEX_BYTES,
            framing=framing,
            sample=[pack],
        )


def _placed(
    lengths: Iterable[tuple[str, int, str | None]], framing: Framing, max_seconds: float, pack_frames: int
) -> Entries:
    return layout.place(lengths, int(max_seconds * SAMPLE_RATE), layout.CHUNK_FRAMES, pack_frames, framing=framing)


# --- the cache ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """The size of a finished cache in one encoding.

    Attributes:
        bytes: an upper bound, before lossless compression; without compression, padding included.
        read_layers, read_arrays, read_bytes: the part that a student reads: the waveform and every layer except 0.
    """

    bytes: int
    objects: int
    read_layers: int
    read_arrays: int
    read_bytes: int


def size_of(
    name: str, teacher: dict[str, Any], layers: list[int], corpus: Corpus, pack_frames: int, compress: str = COMPRESS
) -> Size:
    """Compute the size of a finished cache in the encoding ``name``."""
    kind, dim = encoding(name), int(teacher["hidden_size"])
    identity = {
        "layers": layers,
        "dim": dim,
        "encoding": name,
        "compress": compress,
        "framing": corpus.framing.to_dict(),
        "chunk_frames": layout.CHUNK_FRAMES,
        "pack_frames": pack_frames,
    }
    sizes, per_chunk = {}, {folder for folder, part in kind.parts(dim).items() if part.per_chunk}
    for array, spec in array_specs(identity).items():
        row = spec.width * np.dtype(spec.dtype).itemsize
        rows = corpus.frames if array != WAVEFORM else corpus.rows
        rows = corpus.chunks if array.partition("/")[0] in per_chunk else rows
        around = CHUNK_BYTES + row * spec.chunk_rows * CHUNK_SHARE
        if compress == UNCOMPRESSED:
            rows, around = corpus.packs * spec.pack_rows, CHUNK_BYTES  # padding takes as much as anything else
        sizes[array] = rows * row + math.ceil(corpus.packs * spec.pack_rows / spec.chunk_rows * around)
    names = [*TEACHER_FILES, *(["tables-0.safetensors"] if kind.calibrated else [])]
    # Only the last entry's pack matters here; the size of the index is computed separately, once for all encodings.
    last = layout.place([("", 0, "represents all entries")], 0, first_pack=corpus.packs - 1)
    documents = Plan(identity, {}, last, None, dict.fromkeys(names, b"")).documents()
    described = sum(len(data) for key, data in documents.items() if key != INDEX) + corpus.index_bytes
    described += teacher_bytes(teacher) + (_table_bytes(name, dim) * len(layers) if kind.calibrated else 0)
    receipts = 2 * corpus.packs * RECEIPT_BYTES * (len(sizes) + 1)  # themselves, and in the summary
    unread = {layer_name(0, folder) for folder in kind.parts(dim)}
    read = [array for array in sizes if array not in unread]
    return Size(
        bytes=sum(sizes.values()) + described + receipts + DOCUMENT_BYTES,
        objects=len(documents) + corpus.packs * (len(sizes) + 1) + SUMMARY_OBJECTS,
        read_layers=sum(layer > 0 for layer in layers),
        read_arrays=len(read),
        read_bytes=sum(sizes[array] for array in read),
    )


def teacher_bytes(config: dict[str, Any]) -> int:
    """The bytes of the front-end and of the first layers that the cache stores, in fp32. No weights are allocated."""
    with torch.device("meta"):
        frontend = build_frontend(frontend_of(config))
    layers, _ = FAMILIES[config["model_type"]].blocks(empty_model(config))
    return sum(
        4 * tensor.numel()
        for module in (frontend, layers[:INITIAL_LAYERS])
        for tensor in module.state_dict().values()
    )


def _table_bytes(name: str, dim: int) -> int:
    """The bytes of the tables that an encoding learns for one layer; they do not depend on the corpus."""
    sample_TD = torch.randn(1024, dim, generator=torch.Generator().manual_seed(0))
    return sum(table.nbytes for table in encoding(name).calibrate(sample_TD).values())


# --- requests -------------------------------------------------------------------------------------------------------


def extraction_requests(size: Size, packs: int, seconds: float) -> tuple[int, int]:
    """The requests of one extraction: (puts and lists, gets).

    Every object is written with one put. Committing a pack reads the lock twice and the pack's receipt once, and the
    summary reads the receipt again. The lock is read and written every ten seconds. There are six listings, with one
    request per thousand objects.
    """
    beats = math.ceil(seconds / BEAT_SECONDS)
    return size.objects + 6 * math.ceil(size.objects / 1000) + 3 + beats, 4 * packs + 5 + beats


def run_requests(size: Size, corpus: Corpus, run_seconds: float, train: TrainConfig, dim: int) -> int:
    """The largest number of gets of one student run that reads the cache where it is.

    From each array, a batch reads the chunks of each utterance with one get, since they are adjacent, and an epoch
    also reads the index of every shard. What fits into memory is read once, except for the waveforms.
    """
    seconds = corpus.samples / SAMPLE_RATE
    utterance_seconds = min(seconds / corpus.utterances, train.data.crop_seconds or math.inf)
    in_batch = max(min(train.train.batch_seconds / utterance_seconds, corpus.utterances), 1.0)
    per_batch = in_batch * (1 + corpus.packs / corpus.utterances)
    batches = run_seconds / train.train.batch_seconds
    resident = corpus.frames * (4 * dim * size.read_layers + 2 * corpus.framing.hop) <= RESIDENT_BYTES
    hidden_batches = min(batches, corpus.utterances / in_batch) if resident else batches
    return math.ceil(per_batch * (batches + (size.read_arrays - 1) * hidden_batches))
