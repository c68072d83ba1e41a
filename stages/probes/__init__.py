"""Probes: what a model's frozen hidden states know, measured by small tasks.

To add one, write a file with a class that fits ``Probe`` (base.py) and add its row to ``PROBES``.
"""

from gdist.stages.probes.base import Probe, ProbeResult
from gdist.stages.probes.digits import Digits

__all__ = ["PROBES", "Probe", "ProbeResult"]

PROBES: dict[str, Probe] = {"digits": Digits()}
