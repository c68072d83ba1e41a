"""What extraction would quarantine, and what a manifest's audio is like, utterance by utterance."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from gdist.pipeline.audio import FULL_SCALE, Signal, decibels, measure, mismatch, too_long
from gdist.pipeline.errors import AudioError
from gdist.pipeline.framing import WAV2VEC2, resampled_length
from gdist.pipeline.manifest.utterance import Problem, Progress, Utterance, header_of, in_threads

if TYPE_CHECKING:
    from gdist.pipeline.manifest.table import Manifest


_LEAST_DB = -200.0  # instead of −∞, which JSON lacks


@dataclass(frozen=True)
class Report:
    """What is known of one utterance. Fields are None where the file could not be read, or was not decoded.

    Attributes:
        format: container and coding.
        channels: those of the file.
        mixed_down: whether several channels are mixed, as the manifest names none.
        header_samples: the file's length as its header alone says or estimates it.
        file_samples: the file's length in samples that decode.
        num_samples: the utterance's length; with ``audio``, all of it decoded.
        peak_dbfs: its largest sample in dB, where full scale is 0; None for silence.
        clipped: the share of its samples at full scale or beyond it.
        levels: how many levels of 16 bits its peak reaches.
        mix_db: the energy of the mix over the mean energy of the channels.
        remarks: what should be known, though it can be used.
        problem: why extraction would quarantine it.
    """

    id: str
    path: str
    format: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    mixed_down: bool = False
    header_samples: int | None = None
    file_samples: int | None = None
    num_samples: int | None = None
    seconds: float | None = None
    peak_dbfs: float | None = None
    clipped: float | None = None
    levels: int | None = None
    mix_db: float | None = None
    remarks: dict[str, str] = field(default_factory=dict)
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As one row of a table: the remarks in one cell."""
        return asdict(self) | {"remarks": "; ".join(self.remarks.values()) or None}


def check(manifest: "Manifest", *, audio: bool = False, progress: Progress | None = None) -> list[Problem]:
    """Find what extraction would quarantine, from the headers, and with ``audio`` by decoding every utterance."""
    reports = examine(manifest, audio=audio, progress=progress)
    return [Problem(report.id, report.problem) for report in reports if report.problem]


def examine(manifest: "Manifest", *, audio: bool = False, progress: Progress | None = None) -> list[Report]:
    """Report every utterance, from the headers, and with ``audio`` by decoding it."""
    header = cache(header_of)

    def report(u: Utterance) -> Report:
        known, found = header(u.segment.file), Report(u.id, u.segment.name)
        if isinstance(known, str):
            return replace(found, problem=known)
        if u.start + (u.num_samples or 0) > known.num_samples:  # of streams in a row, its header may show one only
            thorough = header(u.segment.file, True)
            known = known if isinstance(thorough, str) else thorough
        rate = u.sample_rate or known.sample_rate
        length = max(known.num_samples - u.start, 0) if u.num_samples is None else u.num_samples
        segment = replace(u.segment, num_samples=length, sample_rate=rate)
        found = replace(
            found,
            format=known.format,
            sample_rate=known.sample_rate,
            channels=known.channels,
            mixed_down=known.channels > 1 and u.channel is None,
            header_samples=known.claimed,
            file_samples=known.num_samples,
            num_samples=length,
            seconds=round(length / rate, 3),
        )
        if (why := mismatch(replace(segment, num_samples=u.num_samples), known)) is not None:
            return replace(found, problem=why)
        if (samples := resampled_length(length, rate)) < WAV2VEC2.fewest:
            why = f"too short: {samples} samples at 16 kHz, and most teachers need {WAV2VEC2.fewest}"
            return replace(found, problem=why)
        if (why := too_long(length, rate)) is not None:
            return replace(found, problem=why)
        try:
            return _with_signal(found, measure(segment)) if audio else found
        except AudioError as error:
            return replace(found, problem=error.message)

    return in_threads(report, manifest.utterances(), progress)


def best_gains(utterances: Sequence[Utterance], progress: Progress | None) -> list[int]:
    """The gain for each utterance in bits, see :attr:`gdist.pipeline.audio.Signal.best_gain`; 0 where it cannot be
    read."""

    def gain(u: Utterance) -> int:
        if u.num_samples is None or u.sample_rate is None:
            return 0
        try:
            return measure(u.segment).best_gain
        except AudioError:
            return 0

    return in_threads(gain, utterances, progress)


def _with_signal(report: Report, signal: Signal) -> Report:
    return replace(
        report,
        peak_dbfs=round(signal.peak_dbfs, 1) if signal.peak else None,
        clipped=signal.clipped,
        levels=min(2 * int(signal.peak * FULL_SCALE) + 1, 2 * FULL_SCALE - 1),
        mix_db=round(max(decibels(signal.mix_energy), _LEAST_DB), 1) if report.mixed_down else None,
        remarks={} if signal.refusal else signal.remarks,
        problem=signal.refusal,
    )
