"""Read a cache without gdist, with zarr and pyarrow alone: python read_cache.py CACHE ID LAYER

Written from docs/cache-format.md. CACHE is a folder.
Encodings fp32, fp16, bf16, int8 and int4; tests/test_read_cache.py compares every utterance with what gdist reads.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zarr

Array = np.ndarray[Any, Any]


class Reader:
    """A cache whose rows are found by the index, and whose packs are believed only where their receipts are there."""

    def __init__(self, uri: str) -> None:
        self.group = zarr.open_group(uri, mode="r")
        self.root: dict[str, Any] = dict(self.group.attrs["gdist"])  # type: ignore[arg-type]
        if self.root["format"] != 1:
            raise ValueError(f"{uri} has format {self.root['format']}, and this reads format 1")
        self.identity: dict[str, Any] = dict(self.root["identity"])
        self.uri = uri
        self.index = pq.read_table(f"{uri}/index.parquet")

    def entry(self, name: str) -> dict[str, Any]:
        """The row of the index of one utterance: its rows in the arrays, and its labels."""
        found = self.index.filter(pc.equal(self.index["id"], name)).to_pylist()
        if not found or found[0]["problem"]:
            raise KeyError(f"{name}: {found[0]['problem'] if found else 'the index does not have it'}")
        return dict(found[0])

    def receipt(self, pack: int, layer: int | None) -> dict[str, Any]:
        """What says that a pack has this layer (None: the audio) as a whole. FileNotFoundError: it has not, yet."""
        for number, added in enumerate(self.root["additions"]):
            first, end = added["packs"]
            if first <= pack < end and (added["waveform"] if layer is None else layer in added["layers"]):
                suffix = f"-{number}" if number and not added["waveform"] else ""
                return dict(json.loads(Path(self.uri, "receipts", f"{pack:05}{suffix}.json").read_text()))
        raise KeyError(f"layer {layer} is not in this cache; its layers are {self.identity['layers']}")

    def layer(self, name: str, layer: int) -> Array:
        """One hidden state of one utterance, float32 [frames, features]."""
        entry = self.entry(name)
        if reason := self.receipt(entry["pack"], layer)["quarantine"].get(name):
            raise KeyError(f"{name}: {reason}")
        start, frames, dim = entry["start_frame"], entry["num_frames"], self.identity["dim"]
        stored = np.asarray(self.group[f"layers/{layer:02}"][start : start + frames])  # type: ignore[index]
        encoding = self.identity["encoding"]
        if encoding in ("fp32", "fp16"):
            return stored.astype(np.float32)
        if encoding == "bf16":  # the upper half of a float32's bits
            return (stored.astype(np.uint32) << 16).view(np.float32)
        if encoding == "int4":
            stored = np.stack([stored & 15, stored >> 4], axis=-1).reshape(frames, -1)[:, :dim]
        chunk, zero = self.identity["chunk_frames"], {"int8": 96, "int4": 7}[encoding]
        chunks = slice(start // chunk, -(-(start + frames) // chunk))
        exponents = np.asarray(self.group[f"scales/{layer:02}"][chunks])  # type: ignore[index]
        step = np.exp2(exponents / 4.0 - 36.0).astype(np.float32).repeat(chunk, axis=0)[:frames]
        return (stored.astype(np.float32) - zero) * step

    def audio(self, name: str) -> Array:
        """What the teacher heard: int16 [samples], at 16 kHz."""
        entry, hop = self.entry(name), self.identity["framing"]["hop"]
        if reason := self.receipt(entry["pack"], None)["quarantine"].get(name):
            raise KeyError(f"{name}: {reason}")
        rows = slice(entry["start_frame"], entry["start_frame"] - (-entry["num_samples"] // hop))
        return np.asarray(self.group["waveform"][rows]).reshape(-1)[: entry["num_samples"]]  # type: ignore[index]


if __name__ == "__main__":
    hidden = Reader(sys.argv[1]).layer(sys.argv[2], int(sys.argv[3]))
    sys.stdout.write(f"{hidden.shape[0]} frames of {hidden.shape[1]} features, mean {hidden.mean():.4f}\n")
