"""From recordings to the rows of a manifest: what cannot be used is left out, and counted with its reason.

Axes: S samples, N windows.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from gdist.pipeline.manifest.sources.base import ManifestRow
from gdist.pipeline.staging import replacing
from speech_steps.sources import Recording
from speech_steps.splits import splits

SHORTEST, LONGEST = 0.1, 30.0  # seconds; Whisper's window is 30 s
QUIET = 10 ** (-50 / 20)  # of full scale: recordings whose loudest 25 ms are below it are silent
GSM = {"format": "RAW", "subtype": "GSM610", "channels": 1, "samplerate": 8000}  # a .gsm file has no header
THREADS = 4


@dataclass
class Rows:
    """The rows so far, and for each source how many recordings were left out for which reason."""

    rows: list[ManifestRow] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, source: str, recordings: Iterable[Recording], out: Path) -> None:
        """Listen to a source's recordings, and add the rows of those that can be used.

        Args:
            out: the manifest's folder. Formats without a header are converted into ``out/audio/SOURCE``.
        """
        listed = list(recordings)
        ready = _in_threads([r if r.path.suffix != ".gsm" else (r, out / "audio" / source) for r in listed])
        reasons = self.left_out.setdefault(source, Counter())
        heard: set[bytes] = set()
        for recording, (path, sound) in zip(listed, ready, strict=True):
            reason = recording.refused or (sound if isinstance(sound, str) else sound.reason)
            if not reason and not isinstance(sound, str) and sound.digest in heard:
                reason = "the same samples as another recording"
            if reason or isinstance(sound, str):
                reasons[str(reason)] += 1
                continue
            heard.add(sound.digest)
            self.rows.append(_row(recording, path.relative_to(out).as_posix(), sound))


@dataclass(frozen=True)
class _Sound:
    """What a recording sounds like: its length, a digest of its samples, and why it cannot be used, if so."""

    num_samples: int
    sample_rate: int
    digest: bytes
    reason: str | None


def _row(recording: Recording, path: str, sound: _Sound) -> ManifestRow:
    return {
        "id": recording.id,
        "path": path,
        "start": recording.start,
        "num_samples": sound.num_samples,
        "sample_rate": sound.sample_rate,
        "speaker": recording.speaker,
        "language": recording.language,
        "text": recording.text,
        "digit": recording.digit,
        "condition": recording.condition,
        **splits(recording.speaker, recording.key),
    }


def _in_threads(work: Sequence[Recording | tuple[Recording, Path]]) -> list[tuple[Path, "_Sound | str"]]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_listen, work))


def _listen(work: Recording | tuple[Recording, Path]) -> tuple[Path, "_Sound | str"]:
    """The file to list and what is in it, or why it cannot be read."""
    recording, converted = work if isinstance(work, tuple) else (work, None)
    try:
        if converted is None:
            length = -1 if recording.num_samples is None else recording.num_samples
            wave, rate = soundfile.read(recording.path, length, recording.start, dtype="int16", always_2d=True)
            return recording.path, _heard(wave, rate)
        wave, rate = soundfile.read(recording.path, dtype="int16", always_2d=True, **GSM)
        path = converted / f"{recording.id}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            soundfile.write(file, wave, rate, format="FLAC", subtype="PCM_16")
        return path, _heard(wave, rate)
    except (soundfile.SoundFileError, OSError) as error:
        return recording.path, f"unreadable: {type(error).__name__}"


def _heard(wave_SC: NDArray[np.int16], rate: int) -> _Sound:
    wave_S = wave_SC.astype(np.float64).mean(1) / 32768
    window = max(rate // 40, 1)
    energy_N = np.add.reduceat(wave_S**2, range(0, len(wave_S), window)) / window if len(wave_S) else np.zeros(1)
    reason = None
    if len(wave_S) < SHORTEST * rate:
        reason = f"shorter than {SHORTEST} s"
    elif len(wave_S) > LONGEST * rate:
        reason = f"longer than {LONGEST:.0f} s"
    elif energy_N.max() ** 0.5 < QUIET:
        reason = "silent"
    return _Sound(len(wave_SC), rate, hashlib.sha256(wave_SC.tobytes()).digest(), reason)
