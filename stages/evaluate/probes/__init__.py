"""Probes: what a model's frozen hidden states know, measured by small tasks.

To add one, write a file with an object that fits ``Probe`` (base.py) and add its row to ``PROBES``. Names are
SUPERB's (arXiv 2105.01051) where it has the task.
"""

from typing import Any, cast

from gdist.pipeline.extensions import Registry, instance
from gdist.stages.evaluate.probes.base import Probe, ProbeResult
from gdist.stages.evaluate.probes.keyword_spotting import KEYWORD_SPOTTING
from gdist.stages.evaluate.probes.language_identification import LANGUAGE_IDENTIFICATION
from gdist.stages.evaluate.probes.linear import LinearProbe
from gdist.stages.evaluate.probes.query_by_example import QueryByExample
from gdist.stages.evaluate.probes.recognition import Recognition
from gdist.stages.evaluate.probes.speaker_identification import SPEAKER_IDENTIFICATION
from gdist.stages.evaluate.probes.speaker_verification import SpeakerVerification

__all__ = ["PROBES", "Probe", "ProbeResult", "probes_named"]

LABEL = "label:"  # label:COLUMN is the probe for the classes of any label column

_MEMBERS = ("name", "title", "label", "metric", "higher_is_better", "wants_frames", "choose", "run")


def _accept(found: Any) -> Probe:
    """A row of ``PROBES``: an object with a probe's members, or a class that makes one without arguments."""
    made = instance(found)
    lacking = [member for member in _MEMBERS if not hasattr(made, member)]
    if lacking:
        raise TypeError(f"a probe has {', '.join(_MEMBERS)}, and this lacks {', '.join(lacking)}")
    return cast(Probe, made)


PROBES: Registry[Probe] = Registry(
    "probe",
    "gdist.probes",
    {
        "ks": KEYWORD_SPOTTING,
        "qbe": QueryByExample(),
        "pr": Recognition(),
        "sid": SPEAKER_IDENTIFICATION,
        "asv": SpeakerVerification(),
        "lid": LANGUAGE_IDENTIFICATION,
    },
    _accept,
)


def probes_named(text: str) -> dict[str, Probe]:
    """What ``--probes`` asks for: a comma-separated list of rows, of ``label:COLUMN`` and of ``FILE.py:NAME``.

    Raises:
        ConfigError: one of them is not there.
    """
    if text in ("all", "none"):
        return dict(PROBES) if text == "all" else {}
    found: dict[str, Probe] = {}
    for typed in map(str.strip, text.split(",")):
        column = typed.removeprefix(LABEL)
        if typed.startswith(LABEL) and column:
            found[typed] = LinearProbe(name=typed, title=column, label=column)
        else:
            name = PROBES.use(typed)
            found[name] = PROBES.find(name, f"--probes {text}")
    return found
