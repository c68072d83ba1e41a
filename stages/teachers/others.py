"""Models that are no teachers: what each is, and what to use instead, in words for an error message."""

from collections.abc import Collection, Mapping
from typing import Any

# model_type → what such a model is and why it has no row of hidden states per frame of speech.
_NOT_ENCODERS = {
    "encodec": "a codec: it turns audio into codes and has no Transformer layers to distil",
    "dac": "a codec: it turns audio into codes and has no Transformer layers to distil",
    "mimi": "a codec: it turns audio into codes",
    "xcodec": "a codec: it turns audio into codes",
    "clap": "a model of whole clips and their captions: its states are patches of a spectrogram, not frames",
    "audio-spectrogram-transformer": "a classifier of clips: its states are patches of a spectrogram, not frames",
}
# The tasks of transformers' own tables (its auto classes) → what a model with such a row is; the first that fits.
_TASKS = (
    ("SPEECH_SEQ_2_SEQ", "a speech recognizer or translator, whose encoder gdist does not read yet"),
    ("CTC", "a speech encoder that gdist does not read yet"),
    ("TEXT_TO_WAVEFORM", "a model that produces audio"),
    ("TEXT_TO_SPECTROGRAM", "a model that produces speech"),
    ("AUDIO_CLASSIFICATION", "an audio model that gdist does not read yet"),
    ("MULTIMODAL_LM", "a language model with further inputs"),
    ("IMAGE_TEXT_TO_TEXT", "a model of images and text"),
    ("IMAGE_CLASSIFICATION", "a vision model"),
    ("OBJECT_DETECTION", "a vision model"),
    ("IMAGE", "a vision model"),
    ("VIDEO_CLASSIFICATION", "a vision model"),
    ("MASKED_LM", "a text model"),
    ("CAUSAL_LM", "a text model"),
    ("SEQ_TO_SEQ_CAUSAL_LM", "a text model"),
    ("TEXT_ENCODING", "a text model"),
)


def what_it_is(config: Mapping[str, Any], families: Collection[str]) -> tuple[str, str]:
    """What a checkpoint is whose ``model_type`` is none of ``families``, and what to do about it.

    Returns:
        The end of a sentence that begins with the checkpoint's name, and a hint.
    """
    known = f"The families are {', '.join(families)}; name one of your own with --use FILE.py:CLASS."
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return "has no model_type in its config.json, so it is not a checkpoint of transformers.", known
    parts = {name: fields.get("model_type") for name, fields in config.items() if isinstance(fields, Mapping)}
    inside = [(name, family) for name, family in parts.items() if isinstance(family, str) and family in families]
    if inside:
        part, family = inside[0]
        return (
            f"is of type {model_type!r}, which no family of gdist reads, but its {part} is of type {family!r}.",
            f"Save this part of it as a checkpoint of its own with transformers, and give that folder. {known}",
        )
    return f"is of type {model_type!r}, which is not a family that gdist reads{_described(model_type)}.", known


def _described(model_type: str) -> str:
    if model_type in _NOT_ENCODERS:
        return f". It is {_NOT_ENCODERS[model_type]}"
    from transformers.models.auto import modeling_auto as tables

    for task, words in _TASKS:
        if model_type in getattr(tables, f"MODEL_FOR_{task}_MAPPING_NAMES", {}):
            return f". It is {words}"
    return "" if model_type in tables.MODEL_MAPPING_NAMES else ", nor one that transformers has"
