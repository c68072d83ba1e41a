"""What a manifest is written as: the manifests of other toolkits.

To add a form, write one file with a subclass of :class:`Target` and add its row to ``TARGETS``; `--to` follows from
the table. Each form is read back by the source of the same toolkit, to the same samples.
"""

from typing import Any

from gdist.pipeline.extensions import Registry, instance
from gdist.pipeline.manifest.targets.base import Item, Target
from gdist.pipeline.manifest.targets.hugging_face import HuggingFace
from gdist.pipeline.manifest.targets.kaldi import Kaldi
from gdist.pipeline.manifest.targets.lhotse import Lhotse
from gdist.pipeline.manifest.targets.nemo import Nemo

__all__ = ["TARGETS", "Item", "Target"]


def _accept(found: Any) -> Target:
    """Make a row of ``TARGETS`` from a target, or from a class that makes one without arguments."""
    made = instance(found, Target)
    if not isinstance(made, Target):
        raise TypeError("a form of manifest must be a subclass of gdist.pipeline.manifest.targets.Target")
    return made


TARGETS: Registry[Target] = Registry(
    "form of manifest",
    "gdist.manifest_targets",
    {made.name: made for made in (Kaldi(), Nemo(), Lhotse(), HuggingFace())},
    _accept,
)
