"""What a teacher is read from: a Hugging Face checkpoint, or a file of fairseq."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from gdist.pipeline.cache.schema import CONFIG_BYTES
from gdist.pipeline.errors import TeacherError
from gdist.pipeline.files import content_of, reason
from gdist.pipeline.schema import SchemaError, parse
from gdist.stages.teachers.fairseq import ENDINGS, FairseqFile
from gdist.stages.teachers.place import Folder, Place, place_of
from gdist.stages.teachers.weights import check_usable, read_weights, refuse_file

_LOOK = "look at that file and its permissions, or download it again"


class Checkpoint(Protocol):
    """Config and weights, in Hugging Face's form, whatever they were read from."""

    @property
    def name(self) -> str:
        """As it was given."""

    def config(self) -> dict[str, Any]:
        """What config.json says, or would say."""

    def preprocessor(self) -> dict[str, Any] | None:
        """The config of its feature extractor; None if there is none."""

    def weights(self) -> dict[str, Tensor]:
        """Every tensor, by its name in the checkpoint."""


@dataclass(frozen=True)
class HuggingFace:
    """A checkpoint of transformers."""

    place: Place

    @property
    def name(self) -> str:
        """As it was given."""
        return self.place.name

    def config(self) -> dict[str, Any]:
        """What config.json says.

        Raises:
            TeacherError: there is none, it is an adapter of another checkpoint, or its weights are quantized.
        """
        config = self._json("config.json")
        adapter = self._json("adapter_config.json")  # also beside a config: then its change is missing in the weights
        if adapter is not None:
            raise _is_adapter(self.place, adapter)
        if config is None and isinstance(self.place, Folder):
            raise TeacherError(
                f"The folder {self.name} has no config.json, so it is not a Hugging Face checkpoint"
                f"{self._instead()}.",
                "Give the folder that contains config.json and the weights.",
            )
        if config is None:
            raise TeacherError(
                f"{self.name} on the Hugging Face Hub has no config.json, so it is not a checkpoint of transformers.",
                "Give a model of transformers; of another toolkit's, convert the weights first.",
            )
        check_usable(config, self.name)
        return config

    def preprocessor(self) -> dict[str, Any] | None:
        """The config of its feature extractor, which transformers 5 may nest."""
        if (found := self._json("preprocessor_config.json")) is not None:
            return found
        nested = (self._json("processor_config.json") or {}).get("feature_extractor")
        return nested if isinstance(nested, dict) else None

    def weights(self) -> dict[str, Tensor]:
        """Every tensor, by its name in the checkpoint."""
        return read_weights(self.place)

    def _json(self, filename: str) -> dict[str, Any] | None:
        path = self.place.file(filename)
        if path is None:
            return None
        try:
            value = parse(content_of(path, CONFIG_BYTES))
        except SchemaError as error:
            raise TeacherError(
                f"{filename} of {self.name} is not JSON: {error}", "download it again, or correct it"
            ) from error
        except OSError as error:
            raise TeacherError(f"{filename} of {self.name} cannot be read: {reason(error)}", _LOOK) from error
        if not isinstance(value, dict):
            raise TeacherError(f"{filename} of {self.name} does not contain a JSON object", "download it again")
        return value

    def _instead(self) -> str:
        assert isinstance(self.place, Folder)
        files = sorted(path.name for path in self.place.path.iterdir())
        fairseq = next((file for file in files if file.endswith(ENDINGS)), None)
        if fairseq:
            return f"; it has {fairseq}, and a file of fairseq is given by its own path"
        folders = [path.parent.name for path in sorted(self.place.path.glob("*/config.json"))]
        return f"; its folder {folders[0]} has one" if folders else ""


def open_checkpoint(name: str) -> Checkpoint:
    """The checkpoint that a user named: a folder, a model on the Hub, or a file of fairseq.

    Raises:
        TeacherError: the name is of none of these.
    """
    path = Path(name)
    if path.is_file():
        if path.name.endswith(ENDINGS) and not (path.parent / "config.json").is_file():
            return FairseqFile(name, path)
        raise refuse_file(path, name)
    return HuggingFace(place_of(name))


def _is_adapter(place: Place, adapter: Mapping[str, Any]) -> TeacherError:
    base = adapter.get("base_model_name_or_path")
    mapped = adapter.get("auto_mapping")
    kind = mapped.get("base_model_class") if isinstance(mapped, Mapping) else None
    # Both are a stranger's, and the command is to be pasted: a class is a name, and a base is quoted.
    if not (isinstance(kind, str) and re.fullmatch(r"[A-Za-z]\w*", kind)):
        kind = "AutoModel"
    if not (isinstance(base, str) and re.fullmatch(r"[\w./@~+-][\w./@~+ -]*", base)):
        base = "BASE"
    given = str(place.path) if isinstance(place, Folder) else place.repo
    code = (
        f"import transformers, peft; base = {json.dumps(base)}; "
        f"model = transformers.{kind}.from_pretrained(base); "
        f'peft.PeftModel.from_pretrained(model, {json.dumps(given)}).merge_and_unload().save_pretrained("merged"); '
        'transformers.AutoFeatureExtractor.from_pretrained(base).save_pretrained("merged")'
    )
    return TeacherError(
        f"{place.name} is an adapter ({adapter.get('peft_type') or 'PEFT'}), a change to the weights of {base}, and "
        "not a model: it must be merged into that model first.",
        f"pip install peft && python -c {shlex.quote(code)}; then give --teacher merged",
    )
