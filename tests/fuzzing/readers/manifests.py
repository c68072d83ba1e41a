"""Manifests, ours and other toolkits', and the headers of recordings: what somebody else's data set consists of."""

import csv
import gzip
import io
import json
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from fuzzing import artefacts
from fuzzing.mutations import TEXTS, hostile, other_table, text_of, torn, value
from gdist.pipeline.audio import Segment, load, measure, read_header
from gdist.pipeline.console import silenced
from gdist.pipeline.errors import GdistError
from gdist.pipeline.manifest.checking import examine
from gdist.pipeline.manifest.table import Manifest, build
from gdist.pipeline.storage.objects import Storage

LINES = ("", "\t", "a.wav", "a.wav\t", "\t\t\t", "{}", "[]", "null", "NaN", '{"a":' * 2000, "a,b,c", '"', "x |", "-")


def recording(path: Path, samples: int = 8_000, **settings: Any) -> Path:
    wave = np.random.default_rng(0).normal(0, 0.1, (samples, 2)).clip(-1, 1)
    soundfile.write(path, wave, 16_000, **settings)
    return path


def _write(table: pa.Table, usual: pa.Table, sink: Any) -> None:
    """Write a table as Parquet, or the usual one where Parquet has no such types."""
    try:
        pq.write_table(table, sink, compression="zstd")
    except pa.ArrowNotImplementedError:
        sink.seek(0)
        pq.write_table(usual, sink, compression="zstd")


class Parquet:
    """A manifest of ours."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "m.parquet"
        recording(folder / "a.wav")
        table = pq.read_table(artefacts.speech())
        self.table = table.set_column(table.column_names.index("path"), "path", [["a.wav"] * len(table)])
        pq.write_table(self.table, self.path, compression="zstd")
        self.good = self.path.read_bytes()

    def make(self, random: Random) -> bytes:
        if random.random() < 0.4:
            return torn(self.good, random)
        sink = io.BytesIO()
        _write(other_table(self.table, random), self.table, sink)
        return sink.getvalue()

    def read(self, data: bytes) -> None:
        self.path.write_bytes(data)
        use(Manifest.read(self.path))


def use(manifest: Manifest) -> None:
    """Do with a manifest what `gdist manifest check` and an extraction do."""
    manifest.fingerprint()
    examine(manifest)
    manifest.measured()
    manifest.split(20)


class Text:
    """A text file of another toolkit, next to two recordings."""

    kind, name = "csv", "m.csv"
    beside: ClassVar[dict[str, str]] = {}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("a", "b"):
            recording(folder / f"{name}.wav")
        for name, text in self.beside.items():
            (folder / name).write_text(text)
        self.rows = self.documents()

    def documents(self) -> list[Any]:
        """The rows, as what becomes one line each."""
        header = ["id", "path", "start", "num_samples", "sample_rate", "speaker", "split"]
        return [header, *([i, f"{i}.wav", "0", "8000", "16000", "s", "train"] for i in "ab")]

    def line(self, row: Any) -> str:
        sink = io.StringIO()
        csv.writer(sink).writerow(row if isinstance(row, list) else [row])
        return sink.getvalue()

    def text(self, rows: Any) -> bytes:
        rows = rows if isinstance(rows, list) else [rows]
        return "".join(map(self.line, rows)).encode("utf-8", "surrogatepass")

    def make(self, random: Random) -> bytes:
        kind = random.randrange(6)
        if kind == 0:
            return torn(self.text(self.rows), random)
        if kind == 1:
            lines = self.text(self.rows).decode().splitlines()
            lines.insert(random.randrange(len(lines) + 1), random.choice([*LINES, *TEXTS, str(value(random))]))
            return "\n".join(lines).encode("utf-8", "surrogatepass")
        return self.text(hostile(self.rows, random))

    def read(self, data: bytes) -> None:
        src, out = self.folder / self.name, self.folder / "out" / "m.parquet"
        src.write_bytes(data)
        with silenced():
            for kind in (self.kind, "auto"):
                try:
                    use(build(src, out, kind))
                except GdistError:
                    if kind == "auto":
                        raise


class Tsv(Text):
    name = "m.tsv"

    def line(self, row: Any) -> str:
        return "\t".join(map(str, row)) + "\n" if isinstance(row, list) else f"{row}\n"


class Fairseq(Tsv):
    kind, name, beside = "fairseq", "train.tsv", {"train.wrd": "hello\nthere\n"}

    def documents(self) -> list[Any]:
        return [[str(self.folder)], ["a.wav", "8000"], ["b.wav:100:2000", "8000", "x"]]


class Lhotse(Text):
    kind, name = "lhotse", "cuts.jsonl"

    def documents(self) -> list[Any]:
        def recorded(name: str) -> dict[str, Any]:
            source = {"type": "file", "channels": [0, 1], "source": f"{name}.wav"}
            return {"id": name, "sources": [source], "sampling_rate": 16000, "num_samples": 8000, "duration": 0.5}

        said = {"id": "s", "recording_id": "b", "start": 0.0, "duration": 0.3, "channel": 0, "text": "hello"}
        said |= {"speaker": "x", "custom": {"age": 3}}
        cut = {"id": "c", "start": 0.1, "duration": 0.3, "channel": 0, "supervisions": [said], "type": "MonoCut"}
        return [cut | {"recording": recorded("b")}, cut | {"id": "d", "recording": recorded("a")}]

    def line(self, row: Any) -> str:
        return text_of(row).decode() + "\n"


class LhotseGz(Lhotse):
    name = "cuts.jsonl.gz"

    def make(self, random: Random) -> bytes:
        if random.random() < 0.02:
            return gzip.compress(b'{"id": "' + b"a" * 100_000_000, 1)
        packed = gzip.compress(super().make(random), 1)
        return torn(packed, random) if random.random() < 0.3 else packed


class Recordings(Lhotse):
    name = "recordings.jsonl"

    def documents(self) -> list[Any]:
        return [cut["recording"] for cut in super().documents()]


class Nemo(Lhotse):
    kind, name = "nemo", "manifest.json"

    def documents(self) -> list[Any]:
        return [{"audio_filepath": f"{i}.wav", "offset": 0.1, "duration": 0.2, "text": "hello", "x": 1} for i in "ab"]


class Kaldi(Text):
    """wav.scp, or the other files of its folder."""

    kind, name = "kaldi", "wav.scp"
    beside: ClassVar[dict[str, str]] = {"utt2spk": "u s\nv s\n", "text": "u hello\nv there\n"}

    def documents(self) -> list[Any]:
        return [["a", "a.wav"], ["b", "b.wav:10"]]

    def line(self, row: Any) -> str:
        return " ".join(map(str, row)) + "\n" if isinstance(row, list) else f"{row}\n"


class KaldiSegments(Kaldi):
    name = "segments"
    beside: ClassVar[dict[str, str]] = Kaldi.beside | {"wav.scp": "a a.wav\nb b.wav\n"}

    def documents(self) -> list[Any]:
        return [["u", "a", "0.1", "0.3"], ["v", "b", "0.1", "-1", "A"]]

    def read(self, data: bytes) -> None:
        (self.folder / self.name).write_bytes(data)
        with silenced():
            use(build(self.folder / "wav.scp", self.folder / "out" / "m.parquet", "kaldi"))


class CommonVoice(Tsv):
    kind, name = "commonvoice", "validated.tsv"

    def documents(self) -> list[Any]:
        (self.folder / "clips").mkdir()
        recording(self.folder / "clips" / "a.wav")
        return [["client_id", "path", "sentence", "age", "locale"], ["c", "a.wav", "hello", "3", "en"]]


class SpeechBrain(Text):
    kind, name = "speechbrain", "train.csv"

    def documents(self) -> list[Any]:
        head = ["ID", "duration", "wav", "start", "stop", "spk_id", "wrd"]
        return [
            head,
            ["a", "0.5", "a.wav", "0", "4000", "s", "hello"],
            ["b", "0.5", "b.wav", "0", "8000", "s", "there"],
        ]


class AudioFolder(Text):
    kind, name = "audiofolder", "metadata.csv"

    def documents(self) -> list[Any]:
        return [["file_name", "transcription", "n"], ["a.wav", "hello", "1"], ["b.wav", "there", "2"]]


class Headers:
    """Recordings of every format, damaged in their first bytes, in a folder and in a bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bucket = folder, Storage("memory://fuzzing", create=True)
        self.good = {}
        for suffix, settings in (
            *((".wav", {"subtype": kind}) for kind in ("PCM_16", "FLOAT", "IMA_ADPCM", "GSM610", "ULAW", "PCM_24")),
            *((suffix, {}) for suffix in (".flac", ".ogg", ".mp3", ".aiff", ".au", ".caf", ".w64", ".rf64", ".sph")),
            (".opus", {"format": "OGG", "subtype": "OPUS"}),
        ):
            mono = settings.get("subtype") in ("GSM610",)
            path = folder / f"good{suffix}"
            if suffix == ".sph":
                settings = {"format": "NIST"}
            wave = np.random.default_rng(0).normal(0, 0.1, (8_000, 1 if mono else 2)).clip(-1, 1)
            soundfile.write(path, wave, 16_000, **settings)
            self.good[f"{suffix[1:]}-{settings.get('subtype', '')}"] = path.read_bytes()

    def make(self, random: Random) -> bytes:
        kind = random.choice(sorted(self.good))
        whole = self.good[kind]
        head = whole[: random.choice([44, 100, 512, len(whole)])]
        return json.dumps(kind).encode() + b"\n" + torn(head, random) + whole[len(head) :]

    def read(self, data: bytes) -> None:
        kind, _, content = data.partition(b"\n")
        name = f"a.{json.loads(kind).partition('-')[0]}"
        (self.folder / name).write_bytes(content)
        self.bucket.put(name, content)
        for segment in (
            Segment(str(self.folder / name)),
            Segment(f"memory://fuzzing/{name}"),
            Segment(str(self.folder / name), byte_offset=0, byte_size=len(content)),
        ):
            try:
                header = read_header(segment)
                read_header(segment, thorough=True)
                known = {"num_samples": header.num_samples, "sample_rate": header.sample_rate}
                measure(Segment(segment.path, **known))
                load(Segment(segment.path, **known, gain_bits=1))
            except GdistError:
                continue
