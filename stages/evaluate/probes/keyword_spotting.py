"""Which word was spoken: SUPERB's keyword spotting, on the ten digits where a manifest has them."""

from gdist.stages.evaluate.probes.base import NEW_VOICES
from gdist.stages.evaluate.probes.linear import LinearProbe

KEYWORD_SPOTTING = LinearProbe(
    name="ks", title="keyword spotting", label="digit", new_voices=True, split_column=NEW_VOICES
)
