"""The teacher's input audio: int16, mono, 16 kHz.

Axes: S samples, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gdist.pipeline.audio.bounds import too_long
from gdist.pipeline.audio.containers import WHOLE, Contents
from gdist.pipeline.audio.headers import unlike
from gdist.pipeline.audio.interface import Audio
from gdist.pipeline.audio.levels import FULL_SCALE, PEAK, Meter, Signal
from gdist.pipeline.audio.opening import opened
from gdist.pipeline.audio.resampling import Resampler
from gdist.pipeline.audio.segment import Segment
from gdist.pipeline.errors import AudioError
from gdist.pipeline.framing import SAMPLE_RATE

_AGAIN = "build the manifest again without its num_samples, with --thorough"
_PADDING = 2048  # samples by which an encoder fills up its last frame

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Loaded:
    """A segment as it is stored, ``[S]`` int16 at 16 kHz, and what its signal was before."""

    samples_S: NDArray[np.int16]
    signal: Signal


def load_utterance(segment: Segment) -> NDArray[np.int16]:
    """Decode one segment, as :func:`load` does, without its report."""
    return load(segment).samples_S


def load(segment: Segment) -> Loaded:
    """Decode one segment to int16 mono at 16 kHz.

    Values are multiplied by 2 to the power of ``gain_bits``, rounded half to even and clipped to ±32,767. 16-bit mono
    at 16 kHz is preserved bit for bit, except that −32,768 becomes −32,767.

    Args:
        segment: its length and its rate are known; another rate in the file is an error.

    Returns:
        ``[resampled_length(num_samples, sample_rate)]`` samples.

    Raises:
        AudioError: something is wrong with the file, with what the manifest says about it, or with its level.
        CacheError: the object store could not be reached.
    """
    pieces: list[NDArray[np.int16]] = []
    resampler = Resampler(_rate(segment)) if segment.sample_rate != SAMPLE_RATE else None

    def keep(wave_S: NDArray[Any]) -> None:
        if wave_S.dtype == np.int16:
            pieces.append(np.maximum(wave_S, -PEAK))
        elif resampler is None:
            pieces.append(_rounded(wave_S))
        else:
            pieces.extend(map(_rounded, resampler.push(wave_S)))

    signal = _heard(segment, keep)
    if signal.refusal:
        raise AudioError(f"{signal.refusal}: {segment}")
    if resampler is not None:
        pieces.extend(map(_rounded, resampler.end()))
    return Loaded(np.concatenate([np.zeros(0, np.int16), *pieces]), signal)


def measure(segment: Segment) -> Signal:
    """Decode one segment and report its signal, whatever its level is; none of it is kept. Raises as :func:`load`
    does otherwise."""
    return _heard(segment, lambda wave_S: None)


def to_float(samples_S: NDArray[np.int16]) -> "Tensor":
    """int16 samples → float32 in [−1, 1), as soundfile scales them: the input of teachers and students."""
    import torch

    return torch.from_numpy(samples_S).float() / FULL_SCALE


def _rounded(wave_S: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.clip(np.rint(wave_S * FULL_SCALE), -PEAK, PEAK).astype(np.int16)


def _rate(segment: Segment) -> int:
    assert segment.sample_rate is not None, "measured before"
    return segment.sample_rate


def _heard(segment: Segment, keep: Callable[[NDArray[Any]], None]) -> Signal:
    """Give ``keep`` the segment at the file's own rate, some samples at a time, one channel or the mean of all:
    float64 where full scale is 1, or int16 where the file has just that. Return its signal."""
    assert segment.num_samples is not None, "measured before"
    if (why := too_long(segment.num_samples, _rate(segment))) is not None:
        raise AudioError(f"{why}: {segment}")
    with opened(segment) as audio:
        if (why := unlike(segment, audio.sample_rate, audio.channels)) is not None:
            raise AudioError(f"{why}: {segment}")
        found = _contents(audio, segment, segment.start + segment.num_samples)
        as_stored = segment.sample_rate == SAMPLE_RATE and not segment.gain_bits and audio.format.endswith(" PCM_16")
        as_stored &= audio.channels == 1 or segment.channel is not None
        meter = Meter(FULL_SCALE if as_stored else 1)
        _read(audio, found, segment, "int16" if as_stored else "float64", meter, keep)
        said = tuple(audio.messages)
    if meter.bad:
        noun = "sample" if meter.bad == 1 else "samples"
        first = segment.start + meter.first_bad
        raise AudioError(f"{meter.bad} non-finite {noun}, the first at sample {first} of {segment}")
    mixed = audio.channels if segment.channel is None else 1
    return Signal(meter.peak, meter.clipped, mixed, meter.mix_energy, said, segment.gain_bits)


def _contents(audio: Audio, segment: Segment, stop: int) -> Contents:
    """What the file holds, examined where the segment reaches the end that its header claims, so that neither a file
    that was cut short nor a part of a longer one is taken for all of it; and where seeking may go to another stream
    of a FLAC, or an MP3's header may be wrong about its beginning."""
    inside = audio.claimed is not None and stop < audio.claimed
    if inside and not audio.format.startswith("MP3") and not (segment.start and audio.format.startswith("FLAC")):
        return WHOLE
    found = audio.contents(thorough=True)
    if inside and not found.parts:
        return found
    *inner, total = audio.ends(found)
    if found.cut and stop >= total:
        raise AudioError(f"truncated: {found.cut}: {segment}")
    if stop > total:
        if stop == audio.claimed:
            raise AudioError(
                f"its header estimates {stop} samples, as the manifest says, but {total} decode; {_AGAIN}: {segment}"
            )
        raise AudioError(f"truncated: holds {total} samples, the manifest promises {stop}: {segment}")
    # A lossy codec's padding at its end may or may not be in a header.
    is_part = stop in inner or (stop == audio.claimed and total - stop > _PADDING)
    if is_part and not segment.start:
        streams = f"{len(inner) + 1} streams one after another" if inner else "more than its header estimates"
        raise AudioError(
            f"holds {streams}, {total} samples in all, of which the manifest says {stop}; {_AGAIN}: {segment}"
        )
    return found


def _read(
    audio: Audio,
    found: Contents,
    segment: Segment,
    dtype: str,
    meter: Meter,
    keep: Callable[[NDArray[Any]], None],
) -> None:
    """Read ``num_samples``, some at a time."""
    import soundfile

    channel, wanted = segment.channel, segment.num_samples or 0
    missing = wanted
    blocks = audio.blocks(segment.start, segment.start + wanted, found, dtype)
    try:
        while missing and (block_SC := next(blocks, None)) is not None:
            missing -= len(block_SC)
            if audio.channels == 1 or channel is not None:
                wave_S = block_SC[:, channel or 0]
            else:
                wave_S = block_SC.mean(axis=1)
                meter.mix(wave_S, block_SC)
            if segment.gain_bits:
                wave_S = wave_S * 2.0**segment.gain_bits
            meter.hear(wave_S)
            keep(wave_S)
    except soundfile.SoundFileError as error:
        # A FLAC that was cut short keeps its full length in the header and fails only here.
        raise AudioError(f"truncated or damaged: {_reason(error)}: {segment}") from error
    finally:
        blocks.close()
    if missing:
        raise AudioError(f"truncated: {wanted - missing} of {wanted} samples decode: {segment}")


def _reason(error: Exception) -> str:
    """Return libsndfile's own text, without its prefix and final period."""
    return str(error).strip().removeprefix("Error : ").rstrip(".")
