"""The weights of a Hugging Face checkpoint: which files they are in, and why these cannot be read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gdist.pipeline.cache.schema import CONFIG_BYTES
from gdist.pipeline.console import size
from gdist.pipeline.errors import AGAIN, TeacherError
from gdist.pipeline.files import content_of, reason, regular
from gdist.pipeline.schema import Count, SchemaError, Word, conform, parse
from gdist.stages.teachers.pickled import read_pickled
from gdist.stages.teachers.place import WEIGHTS, Folder, Place, first_line, whole

_EXPECTED = "expected model.safetensors or pytorch_model.bin next to config.json, complete and matching it"
# How the names end of files that hold weights in a form that is not read → what they are, and what to do.
_OTHERS = (
    (
        ("tf_model.h5", "flax_model.msgpack"),
        "weights of TensorFlow or Flax, which transformers no longer reads",
        "convert them with transformers 4: AutoModel.from_pretrained(FOLDER, from_tf=True) (or from_flax=True) and "
        "save_pretrained(OUT)",
    ),
    (
        (".onnx",),
        "an ONNX graph, whose weights have lost their names",
        "give the checkpoint that the graph was exported from",
    ),
    (
        (".gguf", ".ggml"),
        "quantized weights for another runtime",
        "give the checkpoint that it was made from",
    ),
    (
        (".pt", ".pth"),
        "a file of torch, perhaps fairseq's",
        "give the file itself: --teacher FOLDER/FILE.pt",
    ),
    (
        (".nemo", ".ckpt"),
        "a checkpoint of NeMo or Lightning, which is not in Hugging Face's form",
        "save the encoder inside with transformers' save_pretrained, and give that folder",
    ),
    (
        (".safetensors", ".bin"),
        "weights under another name",
        "if they are the model's, call the file model.safetensors (or pytorch_model.bin)",
    ),
)


MAX_HEADER = 100_000_000  # bytes, also safetensors' own limit


class Index(TypedDict):
    """Which file each tensor of a checkpoint in several parts is in."""

    weight_map: Annotated[dict[str, Word], Meta(min_length=1)]


class Stored(TypedDict):
    """A tensor, in the header of a safetensors file."""

    data_offsets: tuple[Count, Count]


def read_weights(place: Place) -> dict[str, Tensor]:
    """Every tensor of the checkpoint, by the name that it has there.

    Raises:
        TeacherError: there are no weights that gdist reads, not all of them are there, or a file is damaged.
    """
    for filename in WEIGHTS:
        if single := place.file(filename):
            return read_tensors(single, place.name)
        if index := place.file(f"{filename}.index.json"):
            return _read_shards(place, index)
    raise _none(place)


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file.

    Args:
        name: of the checkpoint, for messages.

    Raises:
        TeacherError: the file is damaged, or not one of weights alone.
    """
    if path.suffix != ".safetensors":
        found = read_pickled(path, name)
        if not isinstance(found, Mapping):
            raise TeacherError(f"The weights of {name} cannot be loaded: {path.name} holds no weights.", _EXPECTED)
        return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    has, wants = path.stat().st_size, _length(path)
    if wants is not None and has < wants:
        raise TeacherError(
            f"The weights of {name} cannot be loaded: {path.name} has {size(has)} of the {size(wants)} that its "
            "header announces, so it was not downloaded or copied to its end.",
            "download it again; `hf download` goes on where it stopped",
        )
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise TeacherError(
            f"The weights of {name} cannot be loaded: {path.name} is damaged, or not a safetensors file "
            f"({first_line(error)}).",
            "download it again",
        ) from error
    return weights


def _length(path: Path) -> int | None:
    """How long a safetensors file must be by its header; None if the header is no such thing."""
    with regular(path) as file:
        head = int.from_bytes(file.read(8), "little")
        if head > min(path.stat().st_size, MAX_HEADER):
            return None
        try:
            header = parse(file.read(head))
            tensors = {key: tensor for key, tensor in header.items() if key != "__metadata__"}
            ends = [tensor["data_offsets"][1] for tensor in conform(tensors, dict[str, Stored]).values()]
        except (SchemaError, AttributeError):
            return None
    return 8 + head + max(ends, default=0)


def _read_shards(place: Place, index: Path) -> dict[str, Tensor]:
    try:
        listed = conform(parse(content_of(index, CONFIG_BYTES)), Index)
    except (SchemaError, OSError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise TeacherError(
            f"The weights of {place.name} cannot be loaded: {index.name} does not list their files: {why}.",
            "download it again",
        ) from error
    files = sorted(set(listed["weight_map"].values()))
    # The names are a stranger's: only those of this folder are read.
    found = {file: place.file(file) if Path(file).name == file else None for file in files}
    missing = [file for file, path in found.items() if path is None]
    if missing:
        raise TeacherError(
            f"The weights of {place.name} cannot be loaded: {index.name} names {len(files)} files, and "
            f"{len(missing)} of them {'is' if len(missing) == 1 else 'are'} missing: {', '.join(missing[:3])}"
            f"{' …' if len(missing) > 3 else ''}.",
            f"download the rest, for example with `hf download ID --local-dir FOLDER`, and {AGAIN}",
        )
    tensors: dict[str, Tensor] = {}
    for path in found.values():
        assert path is not None
        tensors |= read_tensors(path, place.name)
    return tensors


def _none(place: Place) -> TeacherError:
    beside = sorted(path.name for path in place.path.iterdir()) if isinstance(place, Folder) else ()
    message = f"The weights of {place.name} cannot be loaded: it has neither {' nor '.join(WEIGHTS)}"
    for endings, what, hint in _OTHERS:
        known = next((file for file in beside if file.endswith(endings)), None)
        if known is None and not isinstance(place, Folder):
            known = next((file for file in endings if not file.startswith(".") and place.file(file)), None)
        if known:
            return TeacherError(f"{message}. Its {known} is {what}.", hint)
    return TeacherError(f"{message}.", _EXPECTED)


def refuse_file(path: Path, name: str) -> TeacherError:
    """Why a single file, which is not one of fairseq's, is not a teacher."""
    whole(path, name)
    where = path.parent if str(path.parent) != "." else "."
    if (path.parent / "config.json").is_file():
        return TeacherError(
            f"{name} is one file of a checkpoint, and its config.json, beside it, is needed too.",
            f"give the folder: --teacher {where}",
        )
    _, what, hint = next(
        (row for row in _OTHERS if path.name.endswith(row[0])),
        ((), "not a checkpoint that gdist knows", "give a folder that contains config.json and the weights"),
    )
    if path.suffix in (".safetensors", ".bin"):
        what = "weights without the config.json that says what to do with them"
        hint = "put config.json and preprocessor_config.json of that model beside it, and give the folder"
    return TeacherError(f"{name} is {what}, so it cannot be a teacher.", hint)


def check_usable(config: Mapping[str, Any], name: str) -> None:
    """Raise TeacherError for a config that says that the weights are quantized."""
    quantization = config.get("quantization_config")
    if not quantization:
        return
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    raise TeacherError(
        f"{name} has quantized weights ({method or 'its config.json has a quantization_config'}). Its hidden states "
        "differ from those of the model that it was made from, and gdist computes with floating-point weights only.",
        "give the checkpoint that was quantized; without it, where that method's library runs, "
        "model.dequantize().save_pretrained(OUT) in transformers writes a folder that gdist reads",
    )
