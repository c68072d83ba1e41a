"""Noise, other speakers' speech and reverberation in a student's input audio, while the cached targets stay clean.

A cached frame belongs to given samples. So only augmentations that leave every sound in its place are here: an onset
is at the same sample before and after. Fields that would move sounds are refused by name (``MISALIGNING``).

Each row has its own generators, one per kind. So an utterance is augmented in the same way whatever else is in the
batch and however far it is padded, and enabling one kind does not change what another kind draws.

Axes: B batch, K kinds, S samples.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Generator, Tensor

from gdist.pipeline.config import require
from gdist.pipeline.errors import ConfigError
from gdist.stages.train.acoustics import Recordings, below, colored_noise, convolve, gain, room_response, uniform

KINDS = ("speech", "reverb", "noise")  # in the order they are applied: two people talk, in a room, with noise
COLORS = (0, 1, 2)  # exponents of white, pink and brown noise
MISALIGNING = ("speed", "tempo", "pitch", "stretch", "shift", "warp", "roll", "delay", "trim")


@dataclass(frozen=True)
class AugmentConfig:
    """The [augment] table: shares of the utterances. Each kind is drawn independently, and all are off by default.

    Speed, tempo, pitch, time stretching, time shifting and similar changes are not available: the cached targets
    belong to given frames, and these changes would put other sounds there.

    Attributes:
        noise, speech, reverb: the share of the utterances that each is applied to, 0 to 1.
        noise_snr_db: uniform range; the clean utterance's power over the noise's, in dB.
        noise_manifest: a manifest of recordings (such as MUSAN's noise). Without one: white, pink and brown noise.
        speech_snr_db: uniform range; own over other power, in dB, where both speak. The default is that of WavLM's
            utterance mixing (arXiv 2110.13900, algorithm 1), which compares whole utterances.
        speech_share: the other speech, a part of one utterance of the batch, covers at most this share of the
            utterance (WavLM: half). It is another speaker's where the labels name the speakers.
        reverb_rt60: uniform range of the time in which the sound falls by 60 dB, in seconds.
        reverb_drr_db: uniform range; the direct sound's energy over that of the tail, in dB.
        reverb_manifest: a manifest of room impulse responses, each cut at its peak so that frames stay aligned.
            Without one: a direct sound and exponentially decaying noise, as given by the two fields above.
    """

    noise: float = 0.0
    noise_snr_db: tuple[float, ...] = (0.0, 20.0)
    noise_manifest: str = ""
    speech: float = 0.0
    speech_snr_db: tuple[float, ...] = (-5.0, 5.0)
    speech_share: float = 0.5
    reverb: float = 0.0
    reverb_rt60: tuple[float, ...] = (0.1, 0.5)
    reverb_drr_db: tuple[float, ...] = (0.0, 10.0)
    reverb_manifest: str = ""

    def __post_init__(self) -> None:
        for name in KINDS:
            require(
                0 <= getattr(self, name) <= 1, f"augment.{name} = {getattr(self, name)}: must be a share from 0 to 1"
            )
        require(
            0 < self.speech_share <= 1, f"augment.speech_share = {self.speech_share}: must be more than 0, at most 1"
        )
        for name in ("noise_snr_db", "speech_snr_db", "reverb_rt60", "reverb_drr_db"):
            bounds = getattr(self, name)
            ordered = len(bounds) == 2 and all(map(math.isfinite, bounds)) and bounds[0] <= bounds[1]
            require(ordered, f"augment.{name} = {list(bounds)}: must be [lowest, highest]")
        require(self.reverb_rt60[0] > 0, f"augment.reverb_rt60 = {list(self.reverb_rt60)}: must be more than 0 s")

    @property
    def enabled(self) -> bool:
        """Whether any utterance may be changed."""
        return any(getattr(self, kind) > 0 for kind in KINDS)


def refuse_misaligning(table: Iterable[str]) -> None:
    """Refuse, by name, fields of an [augment] table that would move frames relative to the cached targets.

    Raises:
        ConfigError: there is such a field; the message says why it is refused and what is available. Other unknown
            fields are left to ``config.build``.
    """
    known = [field.name for field in fields(AugmentConfig)]
    for name in table:
        if name not in known and any(word in name.lower() for word in MISALIGNING):
            raise ConfigError(
                f"augment.{name}: would move frames relative to the cached targets, which do not move",
                f"these keep frames in place: {', '.join(f'augment.{kind}' for kind in KINDS)}",
            )


class Augment:
    """Applies an ``AugmentConfig`` to batches, without state between them: equal generators give equal results."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    @cached_property
    def noises(self) -> Recordings | None:
        """Recordings of noise; None if the noise is synthetic."""
        path = self.config.noise_manifest if self.config.noise else ""
        return Recordings(path, "augment.noise_manifest") if path else None

    @cached_property
    def rooms(self) -> Recordings | None:
        """Recorded impulse responses; None if they are synthetic."""
        path = self.config.reverb_manifest if self.config.reverb else ""
        return Recordings(path, "augment.reverb_manifest") if path else None

    def prepare(self) -> None:
        """Read the manifests now, so that a bad one is refused before training starts and not at the first batch."""
        _ = self.noises, self.rooms

    def __call__(
        self,
        waveform_BS: Tensor,
        num_samples_B: Tensor,
        generator: Generator,
        speakers: Sequence[str | None] | None = None,
    ) -> Tensor:
        """The augmented batch: a copy of the same length, with its padding unchanged. Levels are not renormalized.

        Silence stays silent, and an utterance gets no speech where the batch contains no other speaker.

        Args:
            generator: on the CPU; every config advances it by the same draws.
            speakers: the speaker of each row; None if unknown: such a row may be mixed with any other.

        Raises:
            ManifestError: a manifest cannot be read.
            AudioError: a recording cannot be used.
        """
        self.prepare()
        mixed_BS, lengths = waveform_BS.clone(), num_samples_B.tolist()
        seeds_BK = torch.randint(2**63 - 1, (len(lengths), len(KINDS)), generator=generator)
        for row, seeds in enumerate(seeds_BK.tolist()):
            clean_S, mixed_S = waveform_BS[row, : lengths[row]], mixed_BS[row, : lengths[row]]
            for kind, seed in zip(KINDS, seeds, strict=True):
                draw = Generator().manual_seed(seed)
                if uniform((0, 1), draw) >= getattr(self.config, kind) or not len(mixed_S):
                    continue
                if kind == "speech":
                    if others := others_of(row, lengths, speakers):
                        other = others[below(len(others), draw)]
                        self._add_speech(mixed_S, waveform_BS[other, : lengths[other]], draw)
                elif kind == "reverb":
                    wet_S = convolve(mixed_S, self._response(draw)[: len(mixed_S)].to(mixed_S))
                    mixed_S.copy_(wet_S * gain(mixed_S, wet_S, 0.0))
                else:
                    noise_S = self._noise(len(mixed_S), draw).to(mixed_S)
                    mixed_S += noise_S * gain(clean_S, noise_S, uniform(self.config.noise_snr_db, draw))
        return mixed_BS

    def _add_speech(self, mixed_S: Tensor, other_S: Tensor, draw: Generator) -> None:
        """Add a part of ``other_S``, of a random allowed length and place, to ``mixed_S`` in place."""
        snr_db = uniform(self.config.speech_snr_db, draw)
        longest = min(int(self.config.speech_share * len(mixed_S)), len(other_S))
        length = 1 + below(longest, draw) if longest else 0
        start, start_other = below(len(mixed_S) - length + 1, draw), below(len(other_S) - length + 1, draw)
        covered_S, added_S = mixed_S[start : start + length], other_S[start_other : start_other + length]
        covered_S += added_S * gain(covered_S, added_S, snr_db)

    def _response(self, draw: Generator) -> Tensor:
        if self.rooms is not None:
            return self.rooms.response(below(len(self.rooms), draw))
        rt60, drr_db = uniform(self.config.reverb_rt60, draw), uniform(self.config.reverb_drr_db, draw)
        return room_response(rt60, drr_db, draw)

    def _noise(self, length: int, draw: Generator) -> Tensor:
        if self.noises is not None:
            return self.noises.excerpt(length, draw)
        return colored_noise(length, COLORS[below(len(COLORS), draw)], draw)


def others_of(row: int, lengths: Sequence[int], speakers: Sequence[str | None] | None = None) -> list[int]:
    """The rows that may be mixed into ``row``: not itself, empty rows or rows known to be of the same speaker."""
    speaker = speakers[row] if speakers else None
    return [
        other
        for other, length in enumerate(lengths)
        if other != row and length and (speaker is None or not speakers or speakers[other] != speaker)
    ]
