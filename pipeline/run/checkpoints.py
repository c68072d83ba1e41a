"""The checkpoints of a run: each is written to a temporary folder, which is then renamed, so that one that has its
final name is complete."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from gdist.pipeline.console import say
from gdist.pipeline.errors import RunError
from gdist.pipeline.files import content_of, regular, require_size, sha256_of
from gdist.pipeline.folder import OwnFolder
from gdist.pipeline.run.documents import text_of, unsealed
from gdist.pipeline.run.schema import DOCUMENT_BYTES, TENSOR_BYTES, Digests
from gdist.pipeline.schema import conform
from gdist.pipeline.staging import write_atomically

CHECKPOINT_FILES = r"(model|optimizer|average)\.safetensors|state\.json"
HEADER_BYTES = 1 << 24  # what a file of tensors has besides them, at most
STEP = re.compile(r"step-(\d{7,})")


class Checkpoints(OwnFolder):
    """A run's folder, as far as its checkpoints go.

    Attributes:
        checkpoints: the folder of all of them.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.checkpoints = folder / "checkpoints"

    def steps(self) -> list[int]:
        """List the steps that have a complete checkpoint, ascending."""
        if not self.own(self.checkpoints).is_dir():
            return []
        found = (STEP.fullmatch(path.name) for path in self.checkpoints.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def save(
        self, step: int, files: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any], keep: int, every: int = 0
    ) -> None:
        """Write a checkpoint whole or not at all, then delete all except the newest ``keep`` and every ``every``-th
        step. A checkpoint that contains other people's files is not deleted.

        Args:
            files: name → tensors; each becomes ``name.safetensors``.
            state: what else :meth:`load` returns; JSON-serializable.
            keep: how many of the newest checkpoints stay.
            every: checkpoints at multiples of this step stay too; 0 for none.
        """
        self.require_room(nbytes(*files.values()), f"the checkpoint of step {step}")
        with self.replacing(self.checkpoint(step), CHECKPOINT_FILES) as staged:
            for name, tensors in files.items():
                ours = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
                safetensors.torch.save_file(ours, staged / f"{name}.safetensors")
            digests = {f"{name}.safetensors": sha256_of(staged / f"{name}.safetensors") for name in files}
            known = state | {"step": step, "sha256": digests}
            write_atomically(staged / "state.json", text_of("state.json", known, Digests))
        self.prune(step, keep, every)

    def prune(self, step: int, keep: int, every: int = 0) -> None:
        """Delete what :meth:`save` deletes after it has saved ``step``."""
        # Of a later step, there is one only if it is damaged: this run comes from one before it.
        for old in [other for other in self.steps() if other <= step][:-keep]:
            if not every or old % every:
                try:
                    self.remove(self.checkpoint(old), CHECKPOINT_FILES)
                except RunError as error:
                    say(f"kept an old checkpoint: {error.message}", style="yellow")

    def load(self, step: int, largest: int = TENSOR_BYTES) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Load (files, state) of the checkpoint at ``step``, as they were saved.

        Args:
            largest: bytes of tensors in a file; one that has more is not read.

        Raises:
            RunError: the checkpoint cannot be read.
        """
        folder = self.own(self.checkpoint(step))
        try:
            files = {}
            for path in sorted(folder.glob("*.safetensors")):
                files[path.stem] = load_tensors(self.own(path), largest)
            path = self.own(folder / "state.json")
            state: dict[str, Any] = unsealed(content_of(path, DOCUMENT_BYTES))
            conform(state, Digests)
            for name, digest in state.pop("sha256", {}).items():  # older ones have none
                path = folder / name
                if Path(name).name == name and path.exists() and sha256_of(path) != digest:
                    raise ValueError("its bytes are not those that were saved")
            return files, state
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise RunError(f"cannot read the checkpoint {folder}: {path.name}: {error}") from error

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.checkpoints / f"step-{step:07d}"


def nbytes(*files: Mapping[str, Tensor]) -> int:
    """How many bytes the tensors have."""
    return sum(tensor.nbytes for tensors in files for tensor in tensors.values())


def load_tensors(path: Path, largest: int) -> dict[str, Tensor]:
    """Read a file of tensors, of at most so many bytes.

    Raises:
        OSError: it cannot be read, is no file, or is larger.
        SafetensorError: it is damaged.
    """
    with regular(path) as file:
        require_size(os.fstat(file.fileno()).st_size, largest + HEADER_BYTES)
    found: dict[str, Tensor] = safetensors.torch.load_file(path)
    return found
