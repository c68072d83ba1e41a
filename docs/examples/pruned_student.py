"""A student of your own that begins as its teacher, without most of the teacher's heads and feed-forward units.

All of the teacher's layers are there, each with the heads and units whose weights are largest; distillation repairs
what is missing. A cache keeps only the teacher's first two layers, so all of them are written to a file first:

python -c "import safetensors.torch as s, gdist.stages.teachers as g; t = g.load_teacher('TEACHER'); \
s.save_file(t.layer_tensors(t.num_layers) | t.norm_tensors(), 'layers.safetensors')"
gdist train --cache CACHE --out runs/pruned --student pruned_student.py:PrunedStudent \
--set student.weights=layers.safetensors --set student.keep=0.25

It is for teachers with plain attention, such as HuBERT and wav2vec 2.0. Of WavLM, the position bias is left out.
DPHuBERT (arXiv 2305.17651) learns what to leave out instead, together with the distillation.

Axes: B batch, T frames, K predicted layers, D features, H heads, E features of a head, U units.
"""

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from gdist.stages.frontend.norms import LayerNorm
from gdist.stages.frontend.padding import frame_mask, zero_padding
from gdist.stages.students.base import Student, StudentConfig
from gdist.stages.students.layer import TransformerLayer, tensors_of


class PrunedConfig(StudentConfig):
    """This student's own fields, in addition to those of every student; `--set student.FIELD=VALUE` sets them."""

    model_type = "pruned-student"

    # The share of each layer's heads, and of its feed-forward units, that is kept; 1 is the teacher.
    keep: float = 0.25
    # The file with the teacher's layers; empty for random weights. It is forgotten once it has been read.
    weights: str = ""
    # Whether the teacher's last layer comes out of a final norm; it follows from the teacher.
    final_norm: bool = False

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}; it must be above 0 and at most 1")

    def kept(self, count: int) -> int:
        """How many of ``count`` heads or units are kept."""
        return max(1, round(self.keep * count))


class PrunedStudent(Student):
    """Front-end → the teacher's layers, narrower inside and as wide as before between them."""

    config_class = PrunedConfig

    def __init__(self, config: PrunedConfig) -> None:
        super().__init__(config)
        dim, self.head_size = config.hidden_size, config.hidden_size // config.num_attention_heads
        shape = {**config.layer_shape, "intermediate_size": config.kept(config.intermediate_size)}
        self.blocks = nn.ModuleList(TransformerLayer(**shape) for _ in range(self.predicted_layers[-1]))
        for block in self.blocks:
            attention = block.attention
            attention.num_heads = config.kept(config.num_attention_heads)
            width = attention.num_heads * self.head_size
            attention.q_proj, attention.k_proj, attention.v_proj = (nn.Linear(dim, width) for _ in range(3))
            attention.out_proj = nn.Linear(width, dim)
        ends = config.final_norm and len(self.blocks) == config.num_teacher_layers
        self.final_norm = LayerNorm(dim, eps=config.layer_norm_eps) if ends else None
        self.post_init()

    def predict(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """The requested layers, each the output of its own block."""
        mask_BT = frame_mask(num_frames_B, h0_BTD.shape[1], h0_BTD.device)
        wanted, states = list(layers or self.predicted_layers), [h0_BTD]
        for block in self.blocks[: wanted[-1]]:
            states.append(block(states[-1], mask_BT).to(h0_BTD.dtype))
        if self.final_norm is not None and len(states) == len(self.blocks) + 1:
            states[-1] = self.final_norm(states[-1])
        return torch.stack([zero_padding(states[layer], mask_BT) for layer in wanted], dim=1)

    def initialize_from_teacher(
        self, frontend_tensors: dict[str, Tensor], layer_tensors: dict[str, Tensor] | None = None
    ) -> None:
        """Copy the front-end from the cache, and from the file what is kept of the layers."""
        super().initialize_from_teacher(frontend_tensors, layer_tensors)
        if not self.config.weights:
            return
        try:
            found = safetensors.torch.load_file(Path(self.config.weights).expanduser())
            for place, block in enumerate(self.blocks):
                block.load_state_dict(self._pruned(tensors_of(found, place)))
            if self.final_norm is not None:
                names = ("weight", "bias")
                self.final_norm.load_state_dict({name: found[f"final_norm.{name}"] for name in names})
        except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
            raise ValueError(
                f"student.weights = {self.config.weights}: not this teacher's layers: {error}"
            ) from error
        self.config.weights = ""  # a path of this machine, which nobody else needs

    def _pruned(self, layer: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is kept of a layer: the heads and units through which the largest weights lead, in their order."""
        value_HED = layer["attention.v_proj.weight"].unflatten(0, (-1, self.head_size))
        output_DHE = layer["attention.out_proj.weight"].unflatten(1, (-1, self.head_size))
        heads = _largest(value_HED.norm(dim=(1, 2)) * output_DHE.norm(dim=(0, 2)), self.config)
        rows = (heads[:, None] * self.head_size + torch.arange(self.head_size)).flatten()
        into_UD, out_of_DU = (layer[f"feed_forward.{end}_dense.weight"] for end in ("intermediate", "output"))
        units = _largest(into_UD.norm(dim=1) * out_of_DU.norm(dim=0), self.config)
        kept = dict(layer)
        narrower = {f"attention.{part}_proj": rows for part in "qkv"} | {"feed_forward.intermediate_dense": units}
        for part, of in narrower.items():
            kept |= {name: layer[name][of] for name in (f"{part}.weight", f"{part}.bias")}
        kept["attention.out_proj.weight"] = layer["attention.out_proj.weight"][:, rows]
        kept["feed_forward.output_dense.weight"] = out_of_DU[:, units]
        return kept


def _largest(score: Tensor, config: PrunedConfig) -> Tensor:
    return score.topk(config.kept(len(score))).indices.sort().values
