"""Probes: what a model's frozen hidden states know, measured by small tasks.

To add one, write a file with an object that fits ``Probe`` (base.py) and add its row to ``PROBES``. Names are
SUPERB's (arXiv 2105.01051) where it has the task.
"""

from gdist.stages.evaluate.probes.base import Probe, ProbeResult
from gdist.stages.evaluate.probes.keyword_spotting import KEYWORD_SPOTTING
from gdist.stages.evaluate.probes.language_identification import LANGUAGE_IDENTIFICATION
from gdist.stages.evaluate.probes.query_by_example import QueryByExample
from gdist.stages.evaluate.probes.recognition import Recognition
from gdist.stages.evaluate.probes.speaker_identification import SPEAKER_IDENTIFICATION
from gdist.stages.evaluate.probes.speaker_verification import SpeakerVerification

__all__ = ["PROBES", "Probe", "ProbeResult"]

PROBES: dict[str, Probe] = {
    "ks": KEYWORD_SPOTTING,
    "qbe": QueryByExample(),
    "pr": Recognition(),
    "sid": SPEAKER_IDENTIFICATION,
    "asv": SpeakerVerification(),
    "lid": LANGUAGE_IDENTIFICATION,
}
