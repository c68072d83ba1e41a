"""Teachers: large self-supervised speech models, run in batches with the same results as one by one.

To add a family, write one file with a ``Teacher`` subclass and add its row to ``FAMILIES``; the conformance
tests run over the table and compare each family with Hugging Face, utterance by utterance.
"""

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from gdist.pipeline.errors import ConfigError, TeacherError
from gdist.pipeline.extensions import Registry
from gdist.stages.device import in_own_memory
from gdist.stages.frontend.interface import Config
from gdist.stages.frontend.kinds import frontend_of
from gdist.stages.frontend.log_mel import WINDOWS
from gdist.stages.teachers.base import Teacher
from gdist.stages.teachers.checkpoint import check_weights
from gdist.stages.teachers.data2vec_audio import Data2VecAudioTeacher
from gdist.stages.teachers.hubert import HubertTeacher
from gdist.stages.teachers.others import what_it_is
from gdist.stages.teachers.precision import check_precision
from gdist.stages.teachers.sew import SEWTeacher
from gdist.stages.teachers.sew_d import SEWDTeacher
from gdist.stages.teachers.unispeech_sat import UniSpeechSatTeacher
from gdist.stages.teachers.wav2vec2 import Wav2Vec2Teacher
from gdist.stages.teachers.wav2vec2_bert import Wav2Vec2BertTeacher
from gdist.stages.teachers.wav2vec2_conformer import Wav2Vec2ConformerTeacher
from gdist.stages.teachers.wavlm import WavLMTeacher
from gdist.stages.teachers.whisper import WhisperTeacher

__all__ = ["FAMILIES", "Teacher", "empty_model", "load_teacher", "num_params", "read_teacher_config"]

logger = logging.getLogger(__name__)


def _accept(found: Any) -> type[Teacher]:
    """A row of ``FAMILIES``."""
    if not (isinstance(found, type) and issubclass(found, Teacher)) or not hasattr(found, "model_class"):
        raise TypeError("a teacher is a subclass of gdist.stages.teachers.base.Teacher, with a model_class")
    return found


FAMILIES: Registry[type[Teacher]] = Registry(
    "family of teachers",
    "gdist.teachers",
    {
        "wavlm": WavLMTeacher,
        "hubert": HubertTeacher,
        "wav2vec2": Wav2Vec2Teacher,
        "data2vec-audio": Data2VecAudioTeacher,
        "unispeech-sat": UniSpeechSatTeacher,
        "sew": SEWTeacher,
        "sew-d": SEWDTeacher,
        "wav2vec2-conformer": Wav2Vec2ConformerTeacher,
        "whisper": WhisperTeacher,
        "wav2vec2-bert": Wav2Vec2BertTeacher,
    },
    _accept,
    key=lambda family: str(family.model_class.config_class.model_type),
)


def load_teacher(
    name_or_path: str,
    *,
    precision: str = "fp32",
    device: str = "cpu",
    final_norm: bool = False,
    window: str | None = None,
) -> Teacher:
    """Loads a checkpoint of a supported family, in eval mode.

    Args:
        name_or_path: a Hugging Face id, or a local folder, in which case nothing is downloaded.
        precision: fp32, tf32 (CUDA only), or bf16 or fp16 by autocast; hidden states are always float32.
        device: "cpu", "cuda", "cuda:1" …
        final_norm: Large models (pre-norm) end in one more LayerNorm. By default the last hidden state is the one
            before it, as in transformers 5; True gives the one after it, as in transformers 4 and s3prl. It
            changes the fingerprint; it changes no hidden state of Base models.
        window: for Whisper, "exact" (the default) or "short"; see :mod:`gdist.stages.teachers.whisper`.

    Raises:
        TeacherError: the checkpoint cannot be found or read, is of another family, lacks weights, or has weights
            that are not finite.
        ConfigError: an unknown precision, or a window that this family does not have.
    """
    check_precision(precision, device)
    config = read_teacher_config(name_or_path, window)
    do_normalize = config.pop("do_normalize")
    config.pop("final_norm")  # which the teacher adds again, as it was asked for here
    family = FAMILIES[config["model_type"]]
    if config.pop("add_adapter", False):
        logger.warning(
            "%s: the adapter after the encoder is left out; its output is not a hidden state", name_or_path
        )
    show_bars, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()  # it would overwrite our progress bars, and fill logs
    hf_logging.set_verbosity_error()  # it would list every weight of a head or a decoder; `check_weights` reports
    try:
        model, loading = family.model_class.from_pretrained(
            name_or_path,
            config=family.model_class.config_class.from_dict(config),
            attn_implementation=family.attention,
            dtype=torch.float32,
            key_mapping=dict(family.key_mapping) or None,
            local_files_only=Path(name_or_path).is_dir(),
            weights_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise TeacherError(
            f"The weights of {name_or_path} cannot be loaded: {_first_line(error)}",
            hint="Expected model.safetensors or pytorch_model.bin next to config.json, complete and matching it.",
        ) from error
    finally:
        hf_logging.set_verbosity(verbosity)
        if show_bars:
            hf_logging.enable_progress_bar()
    check_weights(model, loading, name_or_path, family.used)
    if any(".adapter_layer." in weight for weight in model.state_dict()):
        logger.warning(
            "%s: the adapters in its layers are applied as its weights contain them, for one language (MMS: English)",
            name_or_path,
        )
    return family(
        in_own_memory(model),  # the same weights have the same fingerprint, and answer alike from whatever file
        name=name_or_path,
        do_normalize=do_normalize,
        precision=precision,
        device=device,
        final_norm=final_norm,
    )


def read_teacher_config(name_or_path: str, window: str | None = None) -> dict[str, Any]:
    """The checkpoint's config.json, checked and completed (see :meth:`Teacher.describe`), with ``do_normalize`` from
    its preprocessor config and ``final_norm`` (see :class:`Teacher`) as it is by default; reads no weights.

    Raises:
        TeacherError, ConfigError: as for :func:`load_teacher`, as far as the config shows it.
    """
    config = _read_json(name_or_path, "config.json")
    if config is None:
        if Path(name_or_path).is_dir():
            message = f"The folder {name_or_path} has no config.json, so it is not a Hugging Face checkpoint."
            raise TeacherError(message, hint="Give the folder that contains config.json and the weights.")
        raise TeacherError(
            f"No teacher {name_or_path}: there is no such folder here, and no such model could be downloaded.",
            hint="Check the spelling and the network, or give a folder that contains config.json and the weights.",
        )
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        what, hint = what_it_is(config, FAMILIES)
        raise TeacherError(f"{name_or_path} {what}", hint=hint)
    family = FAMILIES[model_type]
    if window is not None:
        _require_window(family, window, name_or_path)
        config["window"] = window
    try:
        config = family.describe(config)
        frontend = frontend_of(config)
    except ValueError as error:
        raise TeacherError(f"{name_or_path} has a front-end that gdist cannot build: {error}") from error
    preprocessor = _preprocessor(name_or_path)
    try:
        family.check_preprocessor(config, preprocessor or {})
    except ValueError as error:
        raise TeacherError(
            f"{name_or_path} was trained on other input than gdist's front-end computes: in its preprocessor's "
            f"config, {error}"
        ) from error
    do_normalize = family.may_normalize and _do_normalize(name_or_path, preprocessor, frontend)
    return config | {"do_normalize": do_normalize, "final_norm": family.norm_in_last}


_ADDED = ("do_normalize", "final_norm")  # to a checkpoint's config, by ``read_teacher_config``


def empty_model(config: dict[str, Any]) -> Any:
    """The Hugging Face model with this config, from :func:`read_teacher_config`, on the device "meta"."""
    model_class = FAMILIES[config["model_type"]].model_class
    fields = {name: value for name, value in config.items() if name not in (*_ADDED, "add_adapter")}
    with torch.device("meta"):
        return model_class(model_class.config_class.from_dict(fields))


def num_params(config: dict[str, Any]) -> int:
    """Parameters of the teacher with this config, from :func:`read_teacher_config`; allocates no weights."""
    return int(empty_model(config).num_parameters())


def _require_window(family: type[Teacher], window: str, name: str) -> None:
    if window not in WINDOWS:
        raise ConfigError(f"--window {window} is not one of {', '.join(WINDOWS)}")
    if not issubclass(family, WhisperTeacher):
        raise ConfigError(
            f"--window {window}: only Whisper has windows, and {name} is of another family", "leave --window out"
        )


def _do_normalize(name_or_path: str, preprocessor: dict[str, Any] | None, frontend: Config) -> bool:
    if preprocessor is None:
        guess = getattr(frontend, "conv_norm", None) == "layer"
        logger.warning(
            "%s has no preprocessor_config.json; assuming do_normalize = %s, as is usual for its front-end",
            name_or_path,
            guess,
        )
        return guess
    return bool(preprocessor.get("do_normalize", True))  # Wav2Vec2FeatureExtractor's default


def _preprocessor(name_or_path: str) -> dict[str, Any] | None:
    """The config of the checkpoint's feature extractor, which transformers 5 may nest."""
    found = _read_json(name_or_path, "preprocessor_config.json")
    if found is not None:
        return found
    nested = (_read_json(name_or_path, "processor_config.json") or {}).get("feature_extractor")
    return nested if isinstance(nested, dict) else None


def _read_json(name_or_path: str, filename: str) -> dict[str, Any] | None:
    local = Path(name_or_path).is_dir()
    try:
        path = cached_file(
            name_or_path,
            filename,
            local_files_only=local,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        value = None if path is None else json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        # For a name that is neither a folder nor an id, Hugging Face raises OSError; for a broken file, ValueError.
        if isinstance(error, json.JSONDecodeError):
            raise TeacherError(f"{filename} of {name_or_path} is not JSON: {error}") from error
        return None
    if value is not None and not isinstance(value, dict):
        raise TeacherError(f"{filename} of {name_or_path} does not contain a JSON object")
    return value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
