"""Recordings of each kind, made here, and what is done to them out in the world."""

import io
from collections.abc import Callable

import numpy as np
import soundfile

RATE = 16_000


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    wave = np.random.default_rng(seed).normal(0, 0.1, (samples, channels)).clip(-1, 1)
    return wave[:, 0] if channels == 1 else wave


def fading(samples: int, seed: int = 0) -> np.ndarray:
    """Noise whose second half is silent, so that a variable bit rate varies."""
    wave = noise(samples, seed=seed)
    wave[samples // 2 :] = 0
    return wave


def encoded(wave: np.ndarray, format: str, subtype: str | None = None, rate: int = RATE, **options: object) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=format, subtype=subtype, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    wave: np.ndarray = soundfile.read(io.BytesIO(data))[0]
    return wave


def mp3(samples: int, seed: int = 0, mode: str = "VARIABLE") -> bytes:
    """With its header, which names its frames and its bytes."""
    return encoded(fading(samples, seed), "MP3", bitrate_mode=mode)


def without_xing(data: bytes) -> bytes:
    """As a pipe writes it: its first frame is sound."""
    from gdist.pipeline.audio.mpeg import frame_at

    frame = frame_at(data, 0)
    assert frame is not None and data[frame.xing_at : frame.xing_at + 4] in (b"Xing", b"Info")
    return data[frame.size :]


def streamed_flac(samples: int) -> bytes:
    content = bytearray(encoded(noise(samples), "FLAC"))
    content[21] &= 0xF0  # STREAMINFO's 36-bit sample count
    content[22:26] = bytes(4)
    return bytes(content)


def streamed_wav(samples: int) -> bytes:
    content = bytearray(encoded(noise(samples), "WAV"))
    at = content.index(b"data")
    content[4:8] = content[at + 4 : at + 8] = b"\xff" * 4
    return bytes(content)


Maker = Callable[[], bytes]
