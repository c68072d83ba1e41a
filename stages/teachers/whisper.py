"""Whisper's encoder, tiny to large-v3-turbo (arXiv 2212.04356), in two ways.

- ``exact``: what Hugging Face computes. An utterance is followed by silence up to 30 seconds, to which every frame
  attends, and which costs as much as speech. Only the utterance's own frames are kept.
- ``short``: the same weights over the utterance's own length, which is several times cheaper for short utterances.
  Its hidden states differ, so it is another teacher, and has another fingerprint.

Axes: B batch, S samples, T frames, D features.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.frontend.interface import Config
from gdist.stages.frontend.log_mel import MEL_HOP, WINDOW, LogMelConfig
from gdist.stages.frontend.padding import frame_mask
from gdist.stages.teachers.base import Names, Teacher, renamed

# What WhisperFeatureExtractor computes with, and gdist's front-end too.
EXTRACTOR: Mapping[str, Any] = {
    "sampling_rate": SAMPLE_RATE,
    "n_fft": WINDOW,
    "hop_length": MEL_HOP,
    "dither": 0.0,
}


class WhisperTeacher(Teacher):
    """Hugging Face's own layers over a window of silence, or over the utterance alone."""

    model_class = WhisperEncoder
    # From whole models and from those with a classifier; the decoder is not read.
    key_mapping: ClassVar[Mapping[str, str]] = {r"^(model\.)?encoder\.": ""}
    used = ("conv1.", "conv2.", "embed_positions.", "layers.", "layer_norm.")
    identity_fields = (
        "model_type", "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim",
        "activation_function", "num_mel_bins", "max_source_positions", "window",
    )  # fmt: skip
    frontend_names: ClassVar[Names] = (
        (re.compile(r"(conv[12]\.)"), r"\1"),
        (re.compile(r"embed_positions\.weight"), "positions"),
    )
    layer_names: ClassVar[Names] = (
        (re.compile(r"self_attn\.(q|k|v|out)_proj\."), r"attention.\1_proj."),
        (re.compile(r"self_attn_layer_norm\."), "layer_norm."),
        (re.compile(r"final_layer_norm\."), "final_layer_norm."),
        (re.compile(r"fc1\."), "feed_forward.intermediate_dense."),
        (re.compile(r"fc2\."), "feed_forward.output_dense."),
    )
    may_normalize = False
    norm_in_last = True

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        full = WhisperConfig.from_dict(config).to_dict()  # a config.json may leave defaults out
        names = {
            "hidden_size": "d_model",
            "num_hidden_layers": "encoder_layers",
            "num_attention_heads": "encoder_attention_heads",
            "intermediate_size": "encoder_ffn_dim",
            "hidden_act": "activation_function",
        }
        usual = {name: full[own] for name, own in names.items()}
        return {
            "window": LogMelConfig.window,
            **config,
            **usual,
            "do_stable_layer_norm": True,
            "layer_norm_eps": 1e-5,
        }

    @classmethod
    def check_preprocessor(cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> None:
        expected = {**EXTRACTOR, "feature_size": config.get("num_mel_bins", 80)}
        for field, value in expected.items():
            if (found := preprocessor.get(field, value)) != value:
                raise ValueError(f"{field} is {found}; it must be {value}")

    @classmethod
    def blocks(cls, model: Any) -> tuple[Any, Any]:
        return model.layers, model.layer_norm

    @classmethod
    def frontend_state(cls, model: Any, config: Config) -> dict[str, Tensor]:
        return renamed(model.state_dict(), cls.frontend_names)

    def layer_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With a bias of zero for the keys, which Whisper lacks: it would change no attention weight."""
        tensors = super().layer_state(state)
        tensors["attention.k_proj.bias"] = torch.zeros(self.dim)
        return tensors

    @property
    def least_samples(self) -> int:  # type: ignore[override]
        """A whole window for every utterance, if there is one."""
        return self.framing.longest if self.config["window"] == "exact" else 0

    def encode(self, waveform_BS: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.config["window"] == "short":
            return super().encode(waveform_BS, num_samples_B)
        frames_B = self.framing.num_frames(num_samples_B)
        frames = int(frames_B.max())
        mask_BT = torch.arange(frames, device=waveform_BS.device) < frames_B.to(waveform_BS.device)[:, None]
        own_BS = frame_mask(num_samples_B, waveform_BS.shape[1], waveform_BS.device)
        if own_BS is not None:
            waveform_BS = waveform_BS.masked_fill(~own_BS, 0)
        window = self.framing.longest
        waveform_BS = F.pad(waveform_BS, (0, window - waveform_BS.shape[1]))
        hidden_BTD = self._frontend(waveform_BS, torch.full_like(num_samples_B, window))
        return hidden_BTD, mask_BT

    def prepare(self, num_frames: int, mask_BT: Tensor | None) -> Any:
        return None if self.config["window"] == "exact" else super().prepare(num_frames, mask_BT)
