"""Probes: small tasks that measure what information a model's frozen hidden states contain.

To add one, write a file with an object that fits ``Probe`` (base.py) and add its row to ``PROBES``. Names are
SUPERB's (arXiv 2105.01051) if it has the task.
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
    """Make a row of ``PROBES`` from an object with a probe's members, or from its class, called without arguments."""
    made = instance(found)
    missing = [member for member in _MEMBERS if not hasattr(made, member)]
    if missing:
        raise TypeError(f"a probe has {', '.join(_MEMBERS)}; this object has no {', '.join(missing)}")
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
    """Return the probes in ``--probes``: a comma-separated list of rows, ``label:COLUMN`` and ``FILE.py:NAME``.

    Raises:
        ConfigError: there is no such probe.
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
