"""The teacher contract: a batch of waveforms → every hidden state, as Hugging Face computes it for each alone.

A family is one file with a :class:`Teacher` subclass, and one row in ``gdist.stages.teachers.FAMILIES``. It
names its Hugging Face model and, where the plain layers do not suffice, defines how one layer is run.

Axes: B batch, S samples, T frames, D features.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gdist.pipeline.framing import SAMPLE_RATE, Framing
from gdist.stages.frontend.interface import AudioFrontend, Config
from gdist.stages.frontend.kinds import build_frontend, frontend_of
from gdist.stages.frontend.padding import normalize, zero_padding
from gdist.stages.teachers.casting import cast_weights
from gdist.stages.teachers.checkpoint import fingerprint
from gdist.stages.teachers.packed import can_pack, pack, pack_frontend
from gdist.stages.teachers.precision import PRECISIONS, arithmetic

Names = Sequence[tuple[re.Pattern[str], str]]
"""Patterns of Hugging Face's parameter names, and what replaces them; parameters without a match are left out."""

_FRONTEND_NAMES: Names = (
    (re.compile(r"feature_extractor\.conv_layers\.(\d+)\.conv\."), r"convs.\1."),
    (re.compile(r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\."), r"norms.\1."),
    (re.compile(r"feature_projection\.layer_norm\."), "feature_norm."),
    (re.compile(r"feature_projection\.projection\."), "projection."),
    (re.compile(r"encoder\.pos_conv_embed\.conv\."), "positions.0."),
    (re.compile(r"encoder\.pos_conv_embed\.layers\.(\d+)\.conv\."), r"positions.\1."),
    (re.compile(r"encoder\.layer_norm\."), "output_norm."),
)
# The parameters of a plain Transformer layer; position biases and adapters have no counterpart in a student.
_LAYER_NAMES: Names = (
    (
        re.compile(
            r"((?:attention\.(?:q|k|v|out)_proj|layer_norm|final_layer_norm|feed_forward\.(?:intermediate|output)_dense)\.)"
        ),
        r"\1",
    ),
)
WAVEFORMS = "Wav2Vec2FeatureExtractor"  # the feature extractor that passes waveforms on
# The config fields that change what a teacher of wav2vec 2.0's kind computes; with the weights they are its identity.
_IDENTITY_FIELDS = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "layer_norm_eps", "feat_extract_norm", "feat_extract_activation", "conv_dim", "conv_kernel", "conv_stride",
    "conv_bias", "feat_proj_layer_norm", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups",
    "conv_pos_kernel_size", "conv_pos_batch_norm", "do_stable_layer_norm", "num_buckets", "max_bucket_distance",
    "do_normalize",
)  # fmt: skip


class Teacher:
    """A loaded teacher. Make one with :func:`gdist.stages.teachers.load_teacher`.

    The class attributes and the first methods are what a family may define; their defaults are those of wav2vec 2.0.

    Attributes:
        model_class: the Hugging Face model that is loaded.
        attention: the implementation of attention that it is loaded with.
        key_mapping: patterns of a checkpoint's parameter names → the model's, where these differ.
        used: how the names of the parameters begin that a teacher uses. Others, such as a decoder's, are left out.
        identity_fields: the config fields that change what is computed. With the weights they are the identity.
        frontend_names, layer_names: the model's parameters → a front-end's; a layer's parameters → those of a
            student's :class:`gdist.stages.students.layer.TransformerLayer`, with none for layers of another kind.
        may_normalize: whether the family has checkpoints that want a normalized waveform.
        norm_in_last: whether Hugging Face's last hidden state always is the one after the final norm.

        name: the id or folder that was given.
        family: the key in ``FAMILIES``.
        num_layers: Transformer layers, L; there are L + 1 hidden states.
        dim: features of each hidden state, D.
        framing: how its frames lie on the samples.
        least_samples: each utterance costs at least as much as one of so many samples.
        do_normalize: whether the waveform is normalized first (see :func:`gdist.stages.frontend.padding.normalize`).
        fingerprint: sha256 (hex) over the weights in use and the config fields that matter.
        config: the Hugging Face config as a JSON-able dictionary, as :meth:`describe` completes it, with
            ``do_normalize`` added, and ``final_norm``: whether layer L is the one after the final norm.
        device: where it runs.
        num_params: parameters, as the Hugging Face model's ``num_parameters()`` counts them.
    """

    model_class: ClassVar[Any]
    attention: ClassVar[str] = "sdpa"
    key_mapping: ClassVar[Mapping[str, str]] = {}
    used: ClassVar[tuple[str, ...]] = ("feature_extractor.conv_layers.", "feature_projection.", "encoder.")
    identity_fields: ClassVar[tuple[str, ...]] = _IDENTITY_FIELDS
    frontend_names: ClassVar[Names] = _FRONTEND_NAMES
    layer_names: ClassVar[Names] = _LAYER_NAMES
    may_normalize: ClassVar[bool] = True
    norm_in_last: ClassVar[bool] = False
    least_samples: int = 0

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's config with the fields that gdist reads of every family: hidden_size, num_hidden_layers,
        num_attention_heads, intermediate_size and do_stable_layer_norm (whether layers are pre-norm).

        Raises:
            TeacherError: the checkpoint is a form of the family that gdist cannot run.
        """
        return config

    @classmethod
    def check_preprocessor(cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> None:
        """Raise ValueError if the checkpoint's feature extractor computes anything that the front-end would not."""
        expected = {"sampling_rate": SAMPLE_RATE, "feature_size": 1, "feature_extractor_type": WAVEFORMS}
        for field, value in expected.items():
            if (found := preprocessor.get(field, value)) != value:
                raise ValueError(f"{field} is {found}; it must be {value}")

    @classmethod
    def blocks(cls, model: Any) -> tuple[Any, Any]:
        """The Transformer layers, and the norm after the last one, which post-norm Transformers do not have."""
        stable = getattr(model.config, "do_stable_layer_norm", False)
        return model.encoder.layers, model.encoder.layer_norm if stable else None

    @classmethod
    def frontend_state(cls, model: Any, config: Config) -> dict[str, Tensor]:
        """The front-end's state dict."""
        return _convolutional_state(
            dict(model.state_dict()), model.encoder.pos_conv_embed, config, cls.frontend_names
        )

    def encode(self, waveform_BS: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """The first layer's input ``[B, T', D]``, and the mask ``[B, T]`` of the frames that are each utterance's
        own; None if all T' are. Frames from T on belong to no utterance."""
        return self._frontend.with_mask(waveform_BS, num_samples_B)

    def prepare(self, num_frames: int, mask_BT: Tensor | None) -> Any:
        """What all layers of one batch share; it is passed to :meth:`run_layer`."""
        return None if mask_BT is None else mask_BT[:, None, None, :]

    def run_layer(self, layer: Any, hidden_BTD: Tensor, shared: Any) -> Tensor:
        """One Transformer layer over a batch; frames of padding may contain any finite values."""
        hidden: Tensor = layer(hidden_BTD, attention_mask=shared)
        return hidden

    # --- what is the same for all families ------------------------------------------------------------------------

    def __init__(
        self, model: Any, *, name: str, do_normalize: bool, precision: str, device: str, final_norm: bool
    ) -> None:
        self.name, self.do_normalize = name, do_normalize
        config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
        for field in ("transformers_version", "_name_or_path", "dtype"):
            config.pop(field, None)
        self.config = self.describe(config) | {"do_normalize": do_normalize}
        self.family: str = self.config["model_type"]
        self.num_layers: int = self.config["num_hidden_layers"]
        self.dim: int = self.config["hidden_size"]
        self.num_params: int = model.num_parameters()
        self.fingerprint = fingerprint(model, self.config, self.identity_fields, self.used, final_norm)
        frontend = frontend_of(self.config)
        self.framing: Framing = frontend.framing
        self._frontend: AudioFrontend = build_frontend(frontend)
        self._frontend.load_state_dict(self.frontend_state(model, frontend))
        layers, norm = self.blocks(model)
        # What the cache stores of the weights, as it was loaded: those that compute may be cast.
        self._frontend_state = self._frontend.state_dict()
        self._layer_states = [layer.state_dict() for layer in layers]

        keep_norm = norm is not None and (final_norm or self.norm_in_last)
        self.config["final_norm"] = keep_norm
        self._norm_state = norm.state_dict() if keep_norm else {}
        self._final_norm: nn.Module | None = norm.eval().requires_grad_(False).to(device) if keep_norm else None
        self._frontend.eval().requires_grad_(False).to(device)
        self._layers: Any = layers.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self._dtype, self._tf32 = PRECISIONS[precision], precision == "tf32"
        if can_pack(self.device, self._dtype or torch.float32):
            pack(self._layers, self._dtype or torch.float32, self.config.get("hidden_act"))
            pack_frontend(self._frontend, self._dtype or torch.float32)
        if self.device.type == "cuda":
            cast_weights(self._layers, self._frontend, self._dtype)

    @torch.inference_mode()
    def hidden_states(
        self, waveform_BS: Tensor, num_samples_B: Tensor, last_layer: int | None = None
    ) -> Iterator[Tensor]:
        """Yields layers 0 … L, each ``[B, T, D]`` in float32 with padding at zero.

        Layer 0 is the first Transformer layer's input. In fp32 each utterance's rows are within 1e-4 of
        ``AutoModel(...)(...).hidden_states`` for that utterance alone.

        The same batch gives the same bits every time: on a CPU with the same number of threads, and on the same kind
        of GPU with the same libraries, where only backward passes add in an order that changes. In another batch, or
        on other hardware, an utterance's last bits may differ, most of all on a GPU, which chooses its kernels by the
        shapes of the whole batch.

        Args:
            waveform_BS: float samples at 16 kHz in [-1, 1), padded at the end with any values.
            num_samples_B: samples of each utterance, from ``framing.fewest`` to ``framing.longest``; best kept on the
                CPU.
            last_layer: the last layer to compute; L if None.

        Raises:
            ValueError: an utterance is too short for a frame, or too long for this teacher.
        """
        num_samples_B = num_samples_B.cpu()
        shortest, longest = int(num_samples_B.min()), int(num_samples_B.max())
        if shortest < self.framing.fewest:
            raise ValueError(f"an utterance has {shortest} samples, too few for a frame ({self.framing.fewest})")
        if self.framing.longest and longest > self.framing.longest:
            raise ValueError(f"an utterance has {longest} samples; this teacher takes {self.framing.longest}")
        assert not self._frontend.training and not self._layers.training, "dropout and layerdrop must be off"
        waveform_BS = waveform_BS.to(self.device, torch.float32)
        if self.do_normalize:
            waveform_BS = normalize(waveform_BS, num_samples_B)
        # The contexts are left before each yield; otherwise they would leak into the code that consumes the layers.
        with self._compute():
            hidden_BTD, mask_BT = self.encode(waveform_BS, num_samples_B)
            shared = self.prepare(hidden_BTD.shape[1], mask_BT)
        frames = hidden_BTD.shape[1] if mask_BT is None else mask_BT.shape[1]
        # A front-end's output is zero in padding, unless there is something to attend to there.
        yield zero_padding(hidden_BTD[:, :frames], mask_BT) if self.least_samples else hidden_BTD
        for i, layer in enumerate(self._layers[:last_layer]):
            with self._compute():
                hidden_BTD = self.run_layer(layer, hidden_BTD, shared)
                if self._final_norm is not None and i + 1 == self.num_layers:
                    hidden_BTD = self._final_norm(hidden_BTD)
            yield zero_padding(hidden_BTD[:, :frames].float(), mask_BT)

    def layer_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One layer's parameters under a student's names."""
        return {name: tensor.clone() for name, tensor in renamed(state, self.layer_names).items()}

    def frontend_tensors(self) -> dict[str, Tensor]:
        """The state dict of the front-end, float32 on the CPU."""
        return {name: tensor.clone() for name, tensor in self._frontend_state.items()}

    def layer_tensors(self, n: int) -> dict[str, Tensor]:
        """The first ``n`` Transformer layers, under a student's names: ``"0.attention.q_proj.weight"`` …

        Float32 on the CPU. WavLM's position bias and its gates are dropped: a student's attention has none. Nothing
        is returned for layers of another kind, such as conformers'.
        """
        if not 0 <= n <= self.num_layers:
            raise ValueError(f"n is {n}, but this teacher has {self.num_layers} layers")
        return {
            f"{i}.{name}": tensor
            for i in range(n)
            for name, tensor in self.layer_state(self._layer_states[i]).items()
        }

    def norm_tensors(self) -> dict[str, Tensor]:
        """The norm that layer L comes out of, ``"final_norm.weight"`` and ``"final_norm.bias"``, if there is one.

        Float32 on the CPU.
        """
        return {f"final_norm.{name}": tensor.clone() for name, tensor in self._norm_state.items()}

    def _compute(self) -> contextlib.AbstractContextManager[None]:
        return arithmetic(self.device, self._dtype, self._tf32)


def renamed(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """The tensors whose names match a pattern from their beginning, under the names that replace it."""
    tensors = {}
    for name, tensor in state.items():
        for pattern, replacement in names:
            if pattern.match(name):
                tensors[pattern.sub(replacement, name, count=1)] = tensor
    return tensors


def _convolutional_state(state: dict[str, Tensor], positions: Any, config: Any, names: Names) -> dict[str, Tensor]:
    if not config.position_norm:
        # The parametrized weight as torch computes it, so that folding changes no number.
        state["encoder.pos_conv_embed.conv.weight"] = positions.conv.weight.detach()
    plain = {name: tensor for name, tensor in state.items() if ".parametrizations." not in name}
    tensors = renamed(plain, names)
    if not config.output_norm:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("output_norm.")}
    if config.position_scale:
        norm = positions.batch_norm
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        tensors["position_scale.weight"] = scale
        tensors["position_scale.bias"] = norm.bias.detach() - norm.running_mean * scale
    return tensors
