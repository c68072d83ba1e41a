"""Checkpoints of fairseq and of its relatives: HuBERT, wav2vec 2.0, and WavLM as Microsoft's unilm publishes it.

The weights are the same as in transformers' checkpoints, under other names (those of transformers' own conversion
scripts); fairseq is not needed, and no code of the file runs. A fine-tuned checkpoint is its encoder with a head.
Three layouts are read: fairseq's (``cfg`` or ``args``, and ``model``), unilm's (the same, with a flat ``cfg``), and
the one that s3prl converts fairseq's to (``model_cfg``, ``task_cfg``, ``model_weight``).
"""

import argparse
import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from gdist.pipeline.errors import TeacherError
from gdist.stages.teachers.pickled import StandIn, UnreadableError, read_pickled
from gdist.stages.teachers.place import whole

ENDINGS = (".pt", ".pth")

# fairseq's names → transformers'; a name without a match is no part of the encoder.
_LAYER = r"encoder\.layers\.(\d+)\."
_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
        (r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
        (r"layer_norm\.", "feature_projection.layer_norm."),
        (r"post_extract_proj\.", "feature_projection.projection."),
        (r"mask_emb$", "masked_spec_embed"),
        (_LAYER + r"self_attn\.([qkv]|out)_proj\.", r"encoder.layers.\1.attention.\2_proj."),
        (_LAYER + r"self_attn\.grep_linear\.", r"encoder.layers.\1.attention.gru_rel_pos_linear."),
        (_LAYER + r"self_attn\.grep_a$", r"encoder.layers.\1.attention.gru_rel_pos_const"),
        (_LAYER + r"self_attn\.relative_attention_bias\.", r"encoder.layers.\1.attention.rel_attn_embed."),
        (_LAYER + r"self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
        (_LAYER + r"fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
        (_LAYER + r"fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
    )
)
_POSITIONS = {
    False: {"encoder.pos_conv.0.": "encoder.pos_conv_embed.conv."},
    True: {
        "encoder.pos_conv.0.": "encoder.pos_conv_embed.batch_norm.",
        "encoder.pos_conv.1.": "encoder.pos_conv_embed.conv.",
    },
}
_ANCHOR = "post_extract_proj.weight"  # what stands before it stands before every name of the encoder
# Their own name for a model → the family. A fine-tuned one has its encoder's config inside.
_FAMILIES = {"hubert": "hubert", "wav2vec2": "wav2vec2", "wavlm": "wavlm"}
_FINE_TUNED = ("wav2vec_ctc", "hubert_ctc", "wav2vec_seq2seq", "hubert_seq2seq")
# The defaults of fairseq's dataclasses, as far as they shape a model; wav2vec 2.0's convolutions differ.
_DEFAULTS: Mapping[str, Any] = {
    "extractor_mode": "default", "encoder_layers": 12, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12, "activation_fn": "gelu", "layer_norm_first": False, "conv_bias": False,
    "conv_pos": 128, "conv_pos_groups": 16, "conv_pos_batch_norm": False,
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", "num_buckets": 320,
    "max_distance": 1280,
}  # fmt: skip
_WAV2VEC2_CONVOLUTIONS = "[(512, 10, 5), (512, 8, 4)] + [(512, 4, 2)] * 3 + [(512, 1, 1)]"
# Field → the only value with which transformers has the model too.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu", "relu"),
    "extractor_mode": ("default", "layer_norm"),
    "layer_type": (None, "transformer"),
    "pos_conv_depth": (None, 1),
    "quantize_input": (None, False),
    "post_mlp": (None, False),
}
# What these files name beside tensors: configs, dictionaries, meters of training. They become data without code.
_STAND_INS = re.compile(
    r"(?:fairseq|omegaconf)(?:\.\w+)+|argparse\.Namespace|typing\.\w+|numpy(?:\._?core)?\.multiarray\.scalar"
    r"|numpy\.dtype|_?operator\.getitem|collections\.defaultdict|builtins\.(?:dict|list|tuple|str|int|float|bool|type)"
)
MAX_CONVOLUTIONS = 64


@dataclass(frozen=True)
class FairseqFile:
    """One file of fairseq, unilm or s3prl, seen as a checkpoint of transformers."""

    name: str
    path: Path

    def config(self) -> dict[str, Any]:
        """The config.json that transformers' checkpoint of these weights has, as far as it matters."""
        model, _, family, _ = self._read
        for field, allowed in _ONLY.items():
            if (value := model.get(field, allowed[0])) not in allowed:
                raise self._not_this(f"its {field} is {value}, and transformers' {family} has no such form")
        return _config({**_DEFAULTS, **model}, family, self._convolutions(model, family))

    def preprocessor(self) -> dict[str, Any]:
        """What a feature extractor's config says: whether the waveform is normalized, and its rate."""
        _, task, _, _ = self._read
        return {
            "do_normalize": bool(task.get("normalize", False)),
            "sampling_rate": task.get("sample_rate") or 16_000,
        }

    def weights(self) -> dict[str, Tensor]:
        """Every tensor: the encoder's under transformers' names, the others under their own."""
        model, _, _, state = self._read
        anchor = min((key for key in state if f".{key}".endswith(f".{_ANCHOR}")), key=len, default=_ANCHOR)
        prefix = anchor.removesuffix(_ANCHOR)
        positions = _POSITIONS[bool(model.get("conv_pos_batch_norm"))]
        return {
            _renamed(key.removeprefix(prefix), positions) if key.startswith(prefix) else key: tensor
            for key, tensor in state.items()
        }

    @cached_property
    def _read(self) -> tuple[dict[str, Any], dict[str, Any], str, dict[str, Tensor]]:
        """The model's config, the task's, the family, and the weights under fairseq's names."""
        whole(self.path, self.name)
        try:
            found = read_pickled(self.path, self.name, lambda wanted: bool(_STAND_INS.fullmatch(wanted)))
        except UnreadableError as error:
            if not error.wants:
                raise
            raise TeacherError(error.message, _converter("hubert", self.name)) from error
        if not isinstance(found, Mapping):
            raise self._not_this("it holds no checkpoint")
        model, task = _configs(found)
        weights = found.get("model_weight", found.get("model"))
        if not model or not isinstance(weights, Mapping):
            entries = ", ".join(str(key) for key in list(found)[:6])
            raise self._not_this(f"it has neither a config with a model nor its weights (it has: {entries})")
        own = str(model.get("_name") or model.get("arch") or "")
        if own in _FINE_TUNED:
            inner, inner_task = _configs({"cfg": model.get("w2v_args")})
            if not inner:
                raise self._not_this(f"it is a fine-tuned model ({own}) without the config of its encoder", own)
            model, task = inner, inner_task | task
            own = str(model.get("_name") or model.get("arch") or "")
        state = {str(key): value for key, value in weights.items() if isinstance(value, Tensor)}
        if "relative_position_embedding" in model or any(".grep_a" in key for key in state):
            own = "wavlm"  # unilm's configs have no name
            if not (model.get("relative_position_embedding") and model.get("gru_rel_pos")):
                raise self._not_this("it is a WavLM without its gated relative positions, which transformers lacks")
        family = _FAMILIES.get(own.removesuffix("_large").removesuffix("_base"), "")
        if not family:
            raise self._not_this(f"its model is {own!r}, and read are {', '.join(_FAMILIES)}", own)
        if not state:
            raise TeacherError(
                f"{self.name} is a {family} checkpoint of fairseq without weights: its 'model' is empty.",
                "download it again, from the page of fairseq's examples",
            )
        return model, task, family, state

    def _convolutions(self, model: Mapping[str, Any], family: str) -> list[tuple[int, int, int]]:
        usual = _WAV2VEC2_CONVOLUTIONS if family == "wav2vec2" else _DEFAULTS["conv_feature_layers"]
        text = model.get("conv_feature_layers", usual)
        try:
            return convolutions(str(text))
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise self._not_this(f"its conv_feature_layers are {str(text)[:80]!r}") from error

    def _not_this(self, why: str, own: str = "") -> TeacherError:
        return TeacherError(
            f"{self.name} is not a fairseq checkpoint that gdist reads: {why}.", _converter(own, self.name)
        )


def convolutions(text: str) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each layer, from fairseq's ``[(512,10,5)] + [(512,3,2)] * 4``. There it is run as
    Python; here only lists, their sums and their multiples are read.

    Raises:
        ValueError, SyntaxError: it is anything else.
    """

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                found = [value(element) for element in elements]
                return tuple(found) if isinstance(node, ast.Tuple) else found
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                one, other = value(left), value(right)
                if isinstance(one, list) and isinstance(other, list):
                    return one + other
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                one, times = value(left), value(right)
                if isinstance(one, list) and isinstance(times, int) and 0 <= times <= MAX_CONVOLUTIONS:
                    return one * times
        raise ValueError(f"not a list of convolutions: {ast.unparse(node)}")

    layers = value(ast.parse(text, mode="eval").body)
    whole_numbers = isinstance(layers, list) and all(
        isinstance(layer, tuple) and len(layer) == 3 and all(isinstance(n, int) and n > 0 for n in layer)
        for layer in layers
    )
    if not whole_numbers or not 0 < len(layers) <= MAX_CONVOLUTIONS:
        raise ValueError(f"not a list of convolutions: {text}")
    return list(layers)


def _config(model: Mapping[str, Any], family: str, layers: list[tuple[int, int, int]]) -> dict[str, Any]:
    channels, kernels, strides = (list(of_layers) for of_layers in zip(*layers, strict=True))
    config = {
        "model_type": family,
        "hidden_size": model["encoder_embed_dim"],
        "num_hidden_layers": model["encoder_layers"],
        "num_attention_heads": model["encoder_attention_heads"],
        "intermediate_size": model["encoder_ffn_embed_dim"],
        "hidden_act": model["activation_fn"],
        "do_stable_layer_norm": model["layer_norm_first"],
        "feat_extract_norm": "layer" if model["extractor_mode"] == "layer_norm" else "group",
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": model["conv_bias"],
        "num_feat_extract_layers": len(layers),
        "num_conv_pos_embeddings": model["conv_pos"],
        "num_conv_pos_embedding_groups": model["conv_pos_groups"],
    }
    if family == "wavlm":
        config |= {"num_buckets": model["num_buckets"], "max_bucket_distance": model["max_distance"]}
    if family == "hubert":
        config |= {"conv_pos_batch_norm": bool(model["conv_pos_batch_norm"])}
    return config


def _renamed(key: str, positions: Mapping[str, str]) -> str:
    for old, new in positions.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    for pattern, replacement in _NAMES:
        if pattern.match(key):
            return pattern.sub(replacement, key, count=1)
    return key


def _configs(found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs of the model and of its task, in whichever form the file has them; empty if it has none."""
    if "model_cfg" in found:
        model, task = _plain(found["model_cfg"]), _plain(found.get("task_cfg"))
    else:
        cfg = _plain(found.get("cfg"))
        cfg = cfg if isinstance(cfg, dict) and cfg else _plain(found.get("args"))
        if not isinstance(cfg, dict):
            return {}, {}
        nested = isinstance(cfg.get("model"), dict)  # or flat: unilm's, and the arguments of older versions
        model, task = (cfg["model"], cfg.get("task")) if nested else (cfg, cfg)
    return (model if isinstance(model, dict) else {}), (task if isinstance(task, dict) else {})


def _plain(value: Any, depth: int = 0) -> Any:
    """A config as dictionaries and lists: what omegaconf and argparse hold, without them."""
    if depth > 32:
        return None
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, StandIn):
        state = getattr(value, "state", None)
        if not isinstance(state, Mapping):
            return _plain(value.args[0], depth + 1) if value.args else None
        if "_content" in state:
            return _plain(state["_content"], depth + 1)
        return _plain(state["_val"] if "_val" in state else dict(state), depth + 1)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    return value


def _converter(own: str, name: str) -> str:
    """What converts a file of fairseq with fairseq's own code, in an environment that has it."""
    if "data2vec" in own:
        script = "data2vec.convert_data2vec_audio_original_pytorch_checkpoint_to_pytorch"
    else:
        kind = next((kind for kind in ("wavlm", "hubert") if kind in own), "wav2vec2")
        script = f"{kind}.convert_{kind}_original_pytorch_checkpoint_to_pytorch"
    return (
        "if you trust the file, convert it in an environment of its own with fairseq and transformers 4: "
        f"python -m transformers.models.{script} --checkpoint_path {name} --pytorch_dump_folder_path OUT "
        "--not_finetuned (see its --help); then give --teacher OUT"
    )
