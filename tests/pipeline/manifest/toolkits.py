"""Small data sets, written as other toolkits write them."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile


def speech(path: Path, samples: int = 1_600, rate: int = 16_000, channels: int = 1) -> Path:
    """Noise that differs with its length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(samples).normal(0, 0.1, (samples, channels))
    soundfile.write(path, wave[:, 0] if channels == 1 else wave, rate)
    return path


def wav(samples: int = 1_600, rate: int = 16_000) -> bytes:
    """The bytes of a WAV."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(samples).normal(0, 0.1, samples), rate, format="WAV")
    return file.getvalue()


def tar(path: Path, members: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT, mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=kind) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def json_lines(path: Path, *entries: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    return path


def recording(path: Path | str, **more: Any) -> dict[str, Any]:
    """A recording of lhotse: two seconds at 8 kHz."""
    source = {"type": "file", "channels": [0], "source": str(path)}
    lengths = {"sampling_rate": 8_000, "num_samples": 16_000, "duration": 2.0}
    return {"id": "rec", "sources": [source]} | lengths | more
