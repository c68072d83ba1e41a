"""Teachers: large self-supervised speech models, run in batches with the same results as one by one.

To add a family, write one file with a ``Teacher`` subclass and add its row to ``FAMILIES``; the conformance
tests run over the table and compare each family with Hugging Face, utterance by utterance.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from transformers.utils import logging as hf_logging

from gdist.pipeline.errors import ConfigError, TeacherError
from gdist.pipeline.extensions import Registry
from gdist.pipeline.schema import SchemaError
from gdist.stages.device import in_own_memory
from gdist.stages.frontend.interface import Config
from gdist.stages.frontend.kinds import frontend_of
from gdist.stages.frontend.log_mel import WINDOWS
from gdist.stages.teacher_config import CHOSEN, require_config
from gdist.stages.teachers.base import Teacher
from gdist.stages.teachers.checkpoint import check_weights, encoder_weights, require_held
from gdist.stages.teachers.data2vec_audio import Data2VecAudioTeacher
from gdist.stages.teachers.hubert import HubertTeacher
from gdist.stages.teachers.others import what_it_is
from gdist.stages.teachers.place import first_line
from gdist.stages.teachers.precision import check_precision
from gdist.stages.teachers.sew import SEWTeacher
from gdist.stages.teachers.sew_d import SEWDTeacher
from gdist.stages.teachers.source import Checkpoint, open_checkpoint
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
        name_or_path: a Hugging Face id, perhaps with ``@revision``; or a local folder or a file of fairseq's, in
            which case nothing is downloaded.
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
    checkpoint = open_checkpoint(name_or_path)
    config = _described(checkpoint, window)
    do_normalize = config.pop("do_normalize")
    config.pop("final_norm")  # which the teacher adds again, as it was asked for here
    family = FAMILIES[config["model_type"]]
    if config.pop("add_adapter", False):
        logger.warning(
            "%s: the adapter after the encoder is left out; its output is not a hidden state", name_or_path
        )
    empty = empty_model(config)
    expected = [name for name in empty.state_dict() if name.startswith(family.used)]
    with _quiet():
        weights, others = encoder_weights(checkpoint.weights(), expected, family.key_mapping, name_or_path)
        require_held(empty, weights, name_or_path, family.used)
        try:
            model, loading = family.model_class.from_pretrained(
                None,
                config=_transformers_config(config),
                state_dict=weights,
                attn_implementation=family.attention,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # a stranger's weights fail in transformers wherever they are first used
            raise TeacherError(
                f"The weights of {name_or_path} cannot be loaded: {first_line(error)}",
                hint="Expected model.safetensors or pytorch_model.bin next to config.json, complete and matching it.",
            ) from error
    check_weights(model, loading, others, name_or_path, family.used)
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, which would overwrite ours and fill logs, and without its list of every
    weight of a head or a decoder, since ``check_weights`` reports."""
    show_bars, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if show_bars:
            hf_logging.enable_progress_bar()


def read_teacher_config(name_or_path: str, window: str | None = None) -> dict[str, Any]:
    """The checkpoint's config, checked and completed (see :meth:`Teacher.describe`), with ``do_normalize`` from
    its preprocessor config and ``final_norm`` (see :class:`Teacher`) as it is by default; reads no weights.

    Raises:
        TeacherError, ConfigError: as for :func:`load_teacher`, as far as the config shows it.
    """
    return _described(open_checkpoint(name_or_path), window)


def _described(checkpoint: Checkpoint, window: str | None) -> dict[str, Any]:
    name = checkpoint.name
    config = checkpoint.config()
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        what, hint = what_it_is(config, FAMILIES)
        raise TeacherError(f"{name} {what}", hint=hint)
    family = FAMILIES[model_type]
    try:
        require_config(config)
    except SchemaError as error:
        raise TeacherError(f"The config.json of {name} cannot be used: {error}.", _CORRECT) from error
    if window is not None:
        _require_window(family, window, name)
        config["window"] = window
    _require_valid(family, config, name)
    try:
        config = family.describe(config)
        frontend = frontend_of(config)
    except ValueError as error:
        raise TeacherError(f"{name} has a front-end that gdist cannot build: {error}") from error
    preprocessor = checkpoint.preprocessor()
    try:
        family.check_preprocessor(config, preprocessor or {})
    except ValueError as error:
        raise TeacherError(
            f"{name} was trained on other input than gdist's front-end computes: in its preprocessor's "
            f"config, {error}",
            "If the config is what is wrong, correct preprocessor_config.json; else choose another teacher.",
        ) from error
    do_normalize = family.may_normalize and _do_normalize(name, preprocessor, frontend)
    return config | {"do_normalize": do_normalize, "final_norm": family.norm_in_last}


def _require_valid(family: type[Teacher], config: dict[str, Any], name: str) -> None:
    """Raise TeacherError for a config from which transformers cannot build its model."""
    try:
        empty_model(family.describe(config))
    except TeacherError:
        raise
    except Exception as error:  # a stranger's config fails in transformers wherever its fields are first used
        told = " ".join(str(error).split()) or type(error).__name__
        raise TeacherError(
            f"The config.json of {name} is not one that transformers can build a {config['model_type']} of: {told}",
            _CORRECT,
        ) from error


_CORRECT = "Correct that field in config.json, or download the checkpoint again."
_ADDED = ("do_normalize", "final_norm")  # to a checkpoint's config, by ``read_teacher_config``


def empty_model(config: dict[str, Any]) -> Any:
    """The Hugging Face model with this config, from :func:`read_teacher_config`, on the device "meta"."""
    fields = {name: value for name, value in config.items() if name not in (*_ADDED, "add_adapter")}
    with torch.device("meta"):
        return FAMILIES[config["model_type"]].model_class(_transformers_config(fields))


def _transformers_config(fields: dict[str, Any]) -> Any:
    """Its own config of these fields; but how attention is computed is gdist's choice."""
    own = {name: value for name, value in fields.items() if name.lstrip("_") not in CHOSEN}
    return FAMILIES[fields["model_type"]].model_class.config_class.from_dict(own)


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
