"""Whose voice it is: SUPERB's speaker identification. Every voice is in every split, in different takes."""

from gdist.stages.evaluate.probes.base import KNOWN_VOICES
from gdist.stages.evaluate.probes.linear import LinearProbe

SPEAKER_IDENTIFICATION = LinearProbe(
    name="sid", title="speaker identification", label="speaker", split_column=KNOWN_VOICES
)
