"""Which language is spoken, with SUPERB's head for utterances. A word does not tell: it takes a second of speech.

Where each language has one voice, as in the bundled prompts, voices are told apart as well as languages.
"""

from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.evaluate.probes.linear import LinearProbe

LANGUAGE_IDENTIFICATION = LinearProbe(
    name="lid", title="language identification", label="language", min_samples=SAMPLE_RATE
)
