"""What a target of manifests is: another toolkit's form of the same utterances."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

from gdist.pipeline.audio import Header
from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.utterance import Utterance
from gdist.pipeline.staging import replacing


@dataclass(frozen=True)
class Item:
    """An utterance whose file is known: its length and rate are never None.

    Attributes:
        whole: whether it is all of its file, and no single channel of several.
    """

    utterance: Utterance
    header: Header
    num_samples: int

    @property
    def whole(self) -> bool:
        u = self.utterance
        return not u.start and self.num_samples == self.header.num_samples and u.channel is None

    @property
    def stop(self) -> int:
        """The first sample after it, at the rate of the file."""
        return self.utterance.start + self.num_samples


class Target(ABC):
    """One form in which a manifest can be written.

    Attributes:
        name: the value of ``gdist manifest export --to``.
        summary: what it is, for ``--help``.
        channels: whether it can say which channel of a file is meant.
        ranges: whether it can say that the audio is a range of the bytes of a file.
        uris: whether its audio may be in a bucket.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    channels: ClassVar[bool] = False
    ranges: ClassVar[bool] = False
    uris: ClassVar[bool] = False

    @abstractmethod
    def write(self, items: Sequence[Item], out: Path) -> list[str]:
        """Write the files into ``out``, which is an empty folder.

        Returns:
            what this form cannot say and is therefore left out, in sentences for the user.

        Raises:
            ManifestError: it cannot express what would change the audio.
        """


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise ManifestError(f"cannot write {path}: {error.strerror or error}") from error


def left_out(items: Sequence[Item], kept: Sequence[str]) -> list[str]:
    """Say which labels are not among those that are ``kept``."""
    names = dict.fromkeys(name for item in items for name in item.utterance.labels)
    if lost := [name for name in names if name not in kept]:
        return [f"left out the labels {', '.join(lost)}: this form has no place for them"]
    return []
