"""What a cache would hold, told without one: bytes, objects and requests, from the utterances' lengths and the
teacher's shapes alone."""

import dataclasses
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import AutoConfig, AutoModel

from gdist.pipeline import framing
from gdist.pipeline.cache import layout
from gdist.pipeline.cache.encodings import encoding
from gdist.pipeline.cache.layout import Entry
from gdist.pipeline.cache.lock import BEAT_SECONDS
from gdist.pipeline.cache.plan import INDEX, WAVEFORM, Plan, array_specs, layer_name
from gdist.pipeline.errors import UsageError
from gdist.pipeline.loading.loader import RESIDENT_BYTES
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.extract.plan import INITIAL_LAYERS, labels_of, measure
from gdist.stages.frontend.config import FrontendConfig
from gdist.stages.frontend.frontend import Frontend
from gdist.stages.train.config import TrainConfig

TEACHER_FILES = ("config.json", "frontend.safetensors", "layers.safetensors")
SAMPLED_PACKS = 8  # whose batches are timed

# Bytes that no plan tells exactly, from above. The first two: zstd's frame, the checksum and the shard's index, for
# each chunk, and what zstd adds to numbers that it cannot compress.
CHUNK_BYTES, CHUNK_SHARE = 64, 1 / 256
RECEIPT_BYTES = 400  # a receipt, and as much again for each array in it
INDEX_BYTES = 64  # a row of the index, where there is no manifest
DOCUMENT_BYTES = 20_000  # the teacher's config, versions and names


@dataclass(frozen=True)
class Corpus:
    """How much there is to store.

    Attributes:
        rows: of 320 samples, that hold the waveforms.
        chunks: of 128 frames, that hold the utterances; each begins at one.
        index_bytes: of the index of utterances.
        sample: some packs of it, for timing.
    """

    utterances: int
    quarantined: int
    samples: int
    frames: int
    rows: int
    chunks: int
    packs: int
    index_bytes: int
    sample: list[list[Entry]]

    @property
    def hours(self) -> float:
        return self.samples / framing.SAMPLE_RATE / 3600

    @classmethod
    def of_manifest(cls, path: str, max_seconds: float, pack_frames: int) -> "Corpus":
        """Exactly what extraction would plan."""
        manifest = Manifest.read(path)
        _, lengths = measure(manifest)
        entries = layout.place(lengths, int(max_seconds * framing.SAMPLE_RATE), layout.CHUNK_FRAMES, pack_frames)
        usable = [entry for entry in entries if entry.num_frames]
        if not usable:
            raise UsageError(f"no utterance of {path} can be used", f"gdist manifest check {in_shell(path)}")
        index = io.BytesIO()
        pq.write_table(layout.to_table(entries, labels_of(manifest)), index, compression="zstd")
        packs: dict[int, list[Entry]] = {}
        for entry in usable:
            packs.setdefault(entry.pack, []).append(entry)
        spread = np.linspace(0, len(packs) - 1, min(len(packs), SAMPLED_PACKS)).round().astype(int)
        return cls(
            utterances=len(usable),
            quarantined=len(entries) - len(usable),
            samples=sum(entry.num_samples for entry in usable),
            frames=sum(entry.num_frames for entry in usable),
            rows=sum(entry.num_rows for entry in usable),
            chunks=sum(-(-entry.num_rows // layout.CHUNK_FRAMES) for entry in usable),
            packs=max(entry.pack for entry in entries) + 1,
            index_bytes=len(index.getbuffer()),
            sample=[list(packs.values())[place] for place in spread],
        )

    @classmethod
    def of_hours(cls, hours: float, utterance_seconds: float, max_seconds: float, pack_frames: int) -> "Corpus":
        """So many hours in utterances of one length."""
        count = math.ceil(hours * 3600 / utterance_seconds)
        samples = round(utterance_seconds * framing.SAMPLE_RATE)
        limit = int(max_seconds * framing.SAMPLE_RATE)
        (one,) = layout.place([("0", samples, None)], limit, layout.CHUNK_FRAMES, pack_frames)
        if one.problem:
            raise UsageError(f"--utterance-seconds {utterance_seconds:g}: {one.problem}", "for example 12")
        chunks = -(-one.num_rows // layout.CHUNK_FRAMES)
        in_pack = min(pack_frames // layout.CHUNK_FRAMES // chunks, count)
        pack = [dataclasses.replace(one, start_frame=i * chunks * layout.CHUNK_FRAMES) for i in range(in_pack)]
        return cls(
            utterances=count,
            quarantined=0,
            samples=count * samples,
            frames=count * one.num_frames,
            rows=count * one.num_rows,
            chunks=count * chunks,
            packs=math.ceil(count / in_pack),
            index_bytes=count * INDEX_BYTES,
            sample=[pack],
        )


# --- the cache ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """A finished cache in one encoding.

    Attributes:
        bytes: an upper bound, before lossless compression.
        read_layers, read_arrays, read_bytes: what a student reads: the waveform and every layer but 0.
    """

    bytes: int
    objects: int
    read_layers: int
    read_arrays: int
    read_bytes: int


def size_of(name: str, teacher: dict[str, Any], layers: list[int], corpus: Corpus, pack_frames: int) -> Size:
    """What a finished cache of the encoding ``name`` holds."""
    kind, dim = encoding(name), int(teacher["hidden_size"])
    identity = {
        "layers": layers,
        "dim": dim,
        "encoding": name,
        "chunk_frames": layout.CHUNK_FRAMES,
        "pack_frames": pack_frames,
    }
    sizes, per_chunk = {}, {folder for folder, part in kind.parts(dim).items() if part.per_chunk}
    for array, spec in array_specs(identity).items():
        row = spec.width * np.dtype(spec.dtype).itemsize
        rows = corpus.frames if array != WAVEFORM else corpus.rows
        rows = corpus.chunks if array.partition("/")[0] in per_chunk else rows
        around = CHUNK_BYTES + row * spec.chunk_rows * CHUNK_SHARE
        sizes[array] = rows * row + math.ceil(corpus.packs * spec.pack_rows / spec.chunk_rows * around)
    names = [*TEACHER_FILES, *(["tables-0.safetensors"] if kind.calibrated else [])]
    # Only the last entry's pack counts here; the index is sized apart, once for all encodings.
    last = Entry("", corpus.packs - 1, 0, 0, 0, "stands for all")
    documents = Plan(identity, {}, [last], None, dict.fromkeys(names, b"")).documents()
    described = sum(len(data) for key, data in documents.items() if key != INDEX) + corpus.index_bytes
    described += teacher_bytes(teacher) + (_table_bytes(name, dim) * len(layers) if kind.calibrated else 0)
    receipts = corpus.packs * RECEIPT_BYTES * (len(sizes) + 1)
    unread = {layer_name(0, folder) for folder in kind.parts(dim)}
    read = [array for array in sizes if array not in unread]
    return Size(
        bytes=sum(sizes.values()) + described + receipts + DOCUMENT_BYTES,
        objects=len(documents) + corpus.packs * (len(sizes) + 1),
        read_layers=sum(layer > 0 for layer in layers),
        read_arrays=len(read),
        read_bytes=sum(sizes[array] for array in read),
    )


def teacher_bytes(config: dict[str, Any]) -> int:
    """Of the front-end and the first layers that travel along, in fp32; no weights are made."""
    with torch.device("meta"):
        frontend = Frontend(FrontendConfig.from_teacher_config(config))
        first = AutoModel.from_config(AutoConfig.for_model(**config)).encoder.layers[:INITIAL_LAYERS]
    return sum(4 * tensor.numel() for module in (frontend, first) for tensor in module.state_dict().values())


def _table_bytes(name: str, dim: int) -> int:
    """Of what an encoding learns for one layer, whose size does not depend on the corpus."""
    sample_TD = torch.randn(1024, dim, generator=torch.Generator().manual_seed(0))
    return sum(table.nbytes for table in encoding(name).calibrate(sample_TD).values())


# --- requests -------------------------------------------------------------------------------------------------------


def extraction_requests(size: Size, packs: int, seconds: float) -> tuple[int, int]:
    """(puts and lists, gets) of one extraction.

    Every object is written with one put. A pack's commit asks for its lock twice and for its receipt once, and the
    summary reads the receipt; the lock is read and written every ten seconds. A listing takes a request for each
    thousand objects, and there are six.
    """
    beats = math.ceil(seconds / BEAT_SECONDS)
    return size.objects + 6 * math.ceil(size.objects / 1000) + 3 + beats, 4 * packs + 5 + beats


def run_requests(size: Size, corpus: Corpus, run_seconds: float, train: TrainConfig, dim: int) -> int:
    """Gets of one student run that reads the cache where it lies, at most.

    Of each array a batch takes each utterance's chunks, which lie together, and an epoch every shard's index once
    more. What fits into memory is read once, but for the waveforms.
    """
    seconds = corpus.samples / framing.SAMPLE_RATE
    heard = min(seconds / corpus.utterances, train.data.crop_seconds or math.inf)
    in_batch = max(min(train.train.batch_seconds / heard, corpus.utterances), 1.0)
    a_batch = in_batch * (1 + corpus.packs / corpus.utterances)
    batches = run_seconds / train.train.batch_seconds
    resident = corpus.frames * (4 * dim * size.read_layers + 2 * framing.HOP) <= RESIDENT_BYTES
    of_hidden = min(batches, corpus.utterances / in_batch) if resident else batches
    return math.ceil(a_batch * (batches + (size.read_arrays - 1) * of_hidden))
