"""The teacher contract: a batch of waveforms → every hidden state, as Hugging Face computes it for each alone.

A family is one file with a :class:`Teacher` subclass, and one row in ``gdist.stages.teachers.FAMILIES``. It
names its Hugging Face model and, where the plain layers do not suffice, defines how one layer is run.

Axes: B batch, S samples, T frames, D features.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gdist.pipeline.errors import ConfigError, TeacherError
from gdist.pipeline.framing import WAV2VEC2, Framing
from gdist.stages.frontend.config import FrontendConfig
from gdist.stages.frontend.frontend import Frontend
from gdist.stages.frontend.padding import normalize, zero_padding
from gdist.stages.teachers.casting import cast_weights
from gdist.stages.teachers.packed import can_pack, pack, pack_frontend

# tf32 is float32 whose products a GPU rounds to 10 bits of mantissa.
PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

# Hugging Face's parameter names → the front-end's.
_FRONTEND_NAMES = (
    (re.compile(r"feature_extractor\.conv_layers\.(\d+)\.conv\."), r"convs.\1."),
    (re.compile(r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\."), r"norms.\1."),
    (re.compile(r"feature_projection\.layer_norm\."), "feature_norm."),
    (re.compile(r"feature_projection\.projection\."), "projection."),
    (re.compile(r"encoder\.pos_conv_embed\.conv\."), "positions.0."),
    (re.compile(r"encoder\.pos_conv_embed\.layers\.(\d+)\.conv\."), r"positions.\1."),
    (re.compile(r"encoder\.layer_norm\."), "output_norm."),
)
# The parameters of a plain Transformer layer; position biases and adapters have no counterpart in a student.
_LAYER_NAMES = re.compile(
    r"(attention\.(q|k|v|out)_proj|layer_norm|final_layer_norm|feed_forward\.(intermediate|output)_dense)\."
)
_USED = ("feature_extractor.", "feature_projection.", "encoder.")
# The config fields that change what the teacher computes; together with the weights they are its identity.
_IDENTITY_FIELDS = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "layer_norm_eps", "feat_extract_norm", "feat_extract_activation", "conv_dim", "conv_kernel", "conv_stride",
    "conv_bias", "feat_proj_layer_norm", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups",
    "conv_pos_kernel_size", "conv_pos_batch_norm", "do_stable_layer_norm", "num_buckets", "max_bucket_distance",
    "do_normalize",
)  # fmt: skip


class Teacher:
    """A loaded teacher. Make one with :func:`gdist.stages.teachers.load_teacher`.

    Attributes:
        name: the id or folder that was given.
        family: the key in ``FAMILIES``.
        num_layers: Transformer layers, L; there are L + 1 hidden states.
        dim: features of each hidden state, D.
        framing: how the frames of its hidden states lie on the samples.
        least_samples: samples that it computes for each utterance at least; 0 where it computes the utterance's own.
        do_normalize: whether the waveform is normalized first (see :func:`gdist.stages.frontend.padding.normalize`).
        fingerprint: sha256 (hex) over the weights in use and the config fields that matter.
        config: the Hugging Face config as a JSON-able dictionary, with ``do_normalize`` added.
        device: where it runs.
        num_params: parameters, as ``AutoModel(...).num_parameters()`` counts them.
    """

    model_class: ClassVar[Any]
    attention: ClassVar[str] = "sdpa"
    least_samples: int = 0

    def __init__(
        self, model: Any, *, name: str, do_normalize: bool, precision: str, device: str, final_norm: bool
    ) -> None:
        self.name, self.do_normalize = name, do_normalize
        self.config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
        for field in ("transformers_version", "_name_or_path", "dtype"):
            self.config.pop(field, None)
        self.config["do_normalize"] = do_normalize
        self.family: str = self.config["model_type"]
        self.num_layers: int = model.config.num_hidden_layers
        self.dim: int = model.config.hidden_size
        self.num_params: int = model.num_parameters()
        self.fingerprint = _fingerprint(model, self.config, final_norm)
        config = FrontendConfig.from_teacher_config(self.config)
        self.framing: Framing = Framing(config.hop, config.receptive_field)
        self._frontend = Frontend(config)
        self._frontend.load_state_dict(_frontend_tensors(model, config))
        # What the cache stores of the weights, as it was loaded: those that compute may be cast.
        self._frontend_state = self._frontend.state_dict()
        self._layer_states = [layer.state_dict() for layer in model.encoder.layers]

        stable = self.config.get("do_stable_layer_norm", False)
        self._final_norm: nn.Module | None = model.encoder.layer_norm.to(device) if stable and final_norm else None
        self._frontend.eval().requires_grad_(False).to(device)
        self._layers: Any = model.encoder.layers.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self._dtype, self._tf32 = PRECISIONS[precision], precision == "tf32"
        if can_pack(self.device, self._dtype or torch.float32):
            pack(self._layers, self._dtype or torch.float32, self.config["hidden_act"])
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
            num_samples_B: samples of each utterance, at least 400; best kept on the CPU.
            last_layer: the last layer to compute; L if None.

        Raises:
            ValueError: an utterance is too short for a frame.
        """
        num_samples_B = num_samples_B.cpu()
        if (shortest := int(num_samples_B.min())) < self.framing.fewest:
            raise ValueError(f"an utterance has {shortest} samples, too few for a frame ({self.framing.fewest})")
        assert not self._frontend.training and not self._layers.training, "dropout and layerdrop must be off"
        waveform_BS = waveform_BS.to(self.device, torch.float32)
        if self.do_normalize:
            waveform_BS = normalize(waveform_BS, num_samples_B)
        # The contexts are left before each yield; otherwise they would leak into the code that consumes the layers.
        with self._compute():
            hidden_BTD, mask_BT = self._frontend.with_mask(waveform_BS, num_samples_B)
            shared = self.prepare(hidden_BTD.shape[1], mask_BT)
        yield hidden_BTD
        for i, layer in enumerate(self._layers[:last_layer]):
            with self._compute():
                hidden_BTD = self.run_layer(layer, hidden_BTD, shared)
                if self._final_norm is not None and i + 1 == self.num_layers:
                    hidden_BTD = self._final_norm(hidden_BTD)
            yield zero_padding(hidden_BTD.float(), mask_BT)

    def prepare(self, num_frames: int, mask_BT: Tensor | None) -> Any:
        """What all layers of one batch share; it is passed to :meth:`run_layer`."""
        return None if mask_BT is None else mask_BT[:, None, None, :]

    def run_layer(self, layer: Any, hidden_BTD: Tensor, shared: Any) -> Tensor:
        """One Transformer layer over a batch; frames of padding may contain any finite values."""
        hidden: Tensor = layer(hidden_BTD, attention_mask=shared)
        return hidden

    def frontend_tensors(self) -> dict[str, Tensor]:
        """The state dict of :class:`gdist.stages.frontend.frontend.Frontend`, float32 on the CPU."""
        return {name: tensor.clone() for name, tensor in self._frontend_state.items()}

    def layer_tensors(self, n: int) -> dict[str, Tensor]:
        """The first ``n`` Transformer layers, under a student's names: ``"0.attention.q_proj.weight"`` …

        Float32 on the CPU. WavLM's position bias and its gates are dropped: a student's attention has none.
        """
        if not 0 <= n <= self.num_layers:
            raise ValueError(f"n is {n}, but this teacher has {self.num_layers} layers")
        return {
            f"{i}.{name}": tensor.clone()
            for i in range(n)
            for name, tensor in self._layer_states[i].items()
            if _LAYER_NAMES.match(name)
        }

    @contextlib.contextmanager
    def _compute(self) -> Iterator[None]:
        """Arithmetic in the teacher's precision, with kernels that are chosen by shape and not by a stopwatch."""
        with contextlib.ExitStack() as stack:
            if self._dtype is not None:
                stack.enter_context(torch.autocast(self.device.type, self._dtype))
            if self.device.type == "cuda":
                # cuDNN uses TF32 by default, which is off by 1e-3. Without `enabled`, these flags turn cuDNN off.
                flags = torch.backends.cudnn.flags(
                    enabled=True, benchmark=False, deterministic=True, allow_tf32=self._tf32
                )
                stack.enter_context(flags)
                matmul = torch.backends.cuda.matmul
                stack.callback(setattr, matmul, "allow_tf32", matmul.allow_tf32)
                matmul.allow_tf32 = self._tf32
            yield


def check_precision(precision: str, device: str = "cpu") -> None:
    """Raises ConfigError unless ``precision`` is one of fp32, tf32 (on CUDA only), bf16, fp16."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision == "tf32" and not device.startswith("cuda"):
        raise ConfigError(f"precision tf32 needs a CUDA device, and this is {device}", "--precision fp32")


def check_geometry(config: FrontendConfig, name: str) -> None:
    """Raises TeacherError unless there is one frame of 400 samples every 320, as the cache's arithmetic assumes."""
    if (config.hop, config.receptive_field) != (WAV2VEC2.hop, WAV2VEC2.window):
        raise TeacherError(
            f"{name} produces a frame of {config.receptive_field} samples every {config.hop}; the cache requires "
            f"a frame of {WAV2VEC2.window} samples every {WAV2VEC2.hop}.",
            hint="gdist reads models with wav2vec 2.0's convolutions: 16 kHz in, 50 frames per second out.",
        )


def check_weights(model: Any, loading: dict[str, Any], name: str) -> None:
    """Raises TeacherError unless every weight in use came from the checkpoint and is finite."""
    # masked_spec_embed is used by SpecAugment only, in training.
    missing = sorted(key for key in loading["missing_keys"] if not key.endswith("masked_spec_embed"))
    if missing:
        raise TeacherError(
            f"{name} lacks {len(missing)} of the model's weights, which would be replaced by random ones: "
            f"{_some(missing)}.",
            hint="The checkpoint and its config.json do not belong together; download it again.",
        )
    prefix = f"{model.base_model_prefix}."
    extra = sorted(k for k in loading["unexpected_keys"] if k.removeprefix(prefix).startswith(_USED))
    if extra:
        raise TeacherError(
            f"{name} has {len(extra)} weights in the encoder that its config.json does not describe: {_some(extra)}.",
            hint="The checkpoint and its config.json do not belong together; download it again.",
        )
    broken = [n for n, t in model.state_dict().items() if n.startswith(_USED) and not bool(t.isfinite().all())]
    if broken:
        raise TeacherError(
            f"{name} has weights that are not finite: {_some(broken)}.",
            hint="The file is damaged or its training diverged; use another checkpoint.",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _frontend_tensors(model: Any, config: FrontendConfig) -> dict[str, Tensor]:
    state: dict[str, Tensor] = dict(model.state_dict())
    positions = model.encoder.pos_conv_embed
    if not config.position_norm:
        # The parametrized weight as torch computes it, so that folding changes no number.
        state["encoder.pos_conv_embed.conv.weight"] = positions.conv.weight.detach()
    tensors = {}
    for name, tensor in state.items():
        for pattern, replacement in _FRONTEND_NAMES:
            renamed, hits = pattern.subn(replacement, name)
            if hits and ".parametrizations." not in name:
                tensors[renamed] = tensor
    if not config.output_norm:
        tensors.pop("output_norm.weight"), tensors.pop("output_norm.bias")
    if config.position_scale:
        norm = positions.batch_norm
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        tensors["position_scale.weight"] = scale
        tensors["position_scale.bias"] = norm.bias.detach() - norm.running_mean * scale
    return tensors


def _fingerprint(model: Any, config: dict[str, Any], final_norm: bool) -> str:
    identity = {field: config[field] for field in _IDENTITY_FIELDS if field in config}
    digest = hashlib.sha256(json.dumps(identity | {"final_norm": final_norm}, sort_keys=True).encode())
    # torch renamed the two parts of weight norm; a checkpoint's identity must not change with that.
    renamed = {
        name.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(_USED)
    }
    for name, tensor in sorted(renamed.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
