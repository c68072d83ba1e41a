"""Which language is spoken, with SUPERB's head for utterances. One word is not enough: it needs a second of speech.

Where each language has one voice, as in the bundled prompts, a probe may recognize the voice instead of the language.
"""

from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.evaluate.probes.base import NEW_VOICES
from gdist.stages.evaluate.probes.linear import LinearProbe

LANGUAGE_IDENTIFICATION = LinearProbe(
    name="lid",
    title="language identification",
    label="language",
    min_samples=SAMPLE_RATE,
    split_column=NEW_VOICES,
)
