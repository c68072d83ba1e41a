"""The audio of an utterance as a file of its own, with exactly its samples."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from gdist.pipeline.audio.opening import opened
from gdist.pipeline.audio.source import source_of
from gdist.pipeline.errors import AudioError, ManifestError
from gdist.pipeline.manifest.targets.base import Item


def audio_of(item: Item) -> tuple[bytes, str]:
    """Return the bytes of an audio file, and its suffix.

    All of a file is returned byte for byte. Of a segment or a channel, the samples are decoded and written as WAV, in
    the smallest kind of sample that holds each of them exactly.

    Raises:
        ManifestError: the audio cannot be read.
    """
    u = item.utterance
    try:
        if item.whole:
            return source_of(u.segment, header_only=False).data(), ".wav" if u.segment.is_member else Path(
                u.path
            ).suffix
        with opened(u.segment) as audio:
            blocks = audio.blocks(u.start, item.stop, audio.contents(thorough=True), "float64")
            wave_SC = np.concatenate([np.zeros((0, audio.channels)), *blocks])
    except (AudioError, soundfile.SoundFileError) as error:
        raise ManifestError(f"cannot read the audio of {u.id}: {error}", "gdist manifest check M.parquet") from error
    if len(wave_SC) < item.num_samples:
        raise ManifestError(f"{u.path} is truncated: {u.id} needs {item.num_samples} samples from {u.start}")
    if u.channel is not None:
        wave_SC = wave_SC[:, [u.channel]]
    out = io.BytesIO()
    samples, subtype = _exact(wave_SC)
    soundfile.write(out, samples, item.header.sample_rate, format="WAV", subtype=subtype)
    return out.getvalue(), ".wav"


def _exact(wave_SC: NDArray[np.float64]) -> tuple[NDArray[Any], str]:
    """Return samples as WAV stores them. Integers are scaled here: libsndfile would scale by one less."""
    for bits in (16, 24):
        scaled = wave_SC * 2.0 ** (bits - 1)
        if (
            np.all(scaled == np.rint(scaled))
            and np.all(scaled >= -(2.0 ** (bits - 1)))
            and np.all(scaled < 2.0 ** (bits - 1))
        ):
            return (scaled.astype(np.int16), "PCM_16") if bits == 16 else (scaled.astype(np.int32) << 8, "PCM_24")
    narrow = wave_SC.astype(np.float32)
    return (narrow, "FLOAT") if np.array_equal(narrow, wave_SC) else (wave_SC, "DOUBLE")
