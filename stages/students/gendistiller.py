"""GenDistiller: one shared step generates the teacher's layers one after another.

    h_0 = frontend(waveform)
    h_l = skip(h_{l-1}) + out(layer(h_{l-1} + embedding_l)),  l = 1 … L

In arXiv 2406.09444 (2024), a step sees the layer before it; the skip connection and the output layer are from that
paper. In arXiv 2310.13418 (2023), it sees all layers before it (history = all), with attention in two dimensions:
causal over layers and bidirectional in time. The layer embedding and the output layer that starts at zero are ours.
The student then starts as a copy of h_0, which it has to improve on.

Each of several teachers has a chain of its own, with its own steps, in its own width. All chains start from h_0. It
comes from the first teacher's front-end, so the chains of the others start from a linear projection of it, which is
the identity before training.

Axes: B batch, T frames, K predicted layers, L teacher layers, D features.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import initialization as init

from gdist.stages.frontend.limits import is_number, require_flags, require_whole
from gdist.stages.frontend.padding import frame_mask, zero_padding
from gdist.stages.students.base import StepPlan, Student, StudentConfig
from gdist.stages.students.chain import Adapter, Chain, FedBy
from gdist.stages.students.layer import TransformerLayer

FED_BY: tuple[FedBy, ...] = ("student", "teacher", "mixed")


class GenDistillerConfig(StudentConfig):
    """Fields in addition to the common ones.

    Args:
        history: what a step starts from. In the 2024 paper's form, the layer before: the "student"'s own, the
            "teacher"'s cached one, or "mixed", a random choice for each utterance and layer. "all": every layer
            before it, in the 2023 paper's form.
        fed_by: with the history "all", where these layers come from in training: student, teacher or mixed.
        rollout: with the histories "student" and "mixed", how many layers the student walks before it restarts from a
            cached one; 0 means as many as a training step predicts. Teacher forcing is 1.
        mixed_teacher_ratio: the probability of the teacher's layer in the random choice.
        skip: add h_{l-1} to each step's output.
        output_layer: "linear" after the Transformer layers, or "none".
        output_init: how the output layer is initialized, "zero" or "random".
        layer_embedding: add an embedding that identifies which layer the shared step generates.
        adapter_rank: the rank of a low-rank adapter for each generated layer, before the Transformer layers; 0 means
            none.
        num_layers: Transformer layers in a step.
        width: the width inside a step; None means the teacher's.
        distinct_steps: the number of steps with their own weights: 1 shared by all layers, one per predicted layer,
            or a number in between, where each step serves a stretch of neighboring layers.
        final_norm: a LayerNorm after the step that generates layer L, begun from the teacher's. In pre-norm teachers
            whose last hidden state is the one after the final norm (Whisper), no other step has such an output.
    """

    model_type = "gendistiller"
    of_training = StudentConfig.of_training | {"fed_by", "rollout", "mixed_teacher_ratio", "output_init"}

    history: Literal["student", "teacher", "mixed", "all"] = "student"
    fed_by: FedBy = "teacher"
    rollout: int = 0
    mixed_teacher_ratio: float = 0.5
    skip: bool = True
    output_layer: Literal["linear", "none"] = "linear"
    output_init: Literal["zero", "random"] = "zero"
    layer_embedding: bool = True
    adapter_rank: int = 0
    num_layers: int = 1
    width: int | None = None
    distinct_steps: int = 1
    final_norm: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, choices in (
            ("history", (*FED_BY, "all")),
            ("fed_by", FED_BY),
            ("output_layer", ("linear", "none")),
            ("output_init", ("zero", "random")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if not is_number(self.mixed_teacher_ratio) or not 0 <= self.mixed_teacher_ratio <= 1:
            raise ValueError(f"mixed_teacher_ratio is {self.mixed_teacher_ratio!r}; it must be a number from 0 to 1")
        require_flags(self, "skip", "layer_embedding", "final_norm")
        require_whole(self, 0, "rollout", "adapter_rank")
        require_whole(self, 1, "num_layers", "distinct_steps")
        if self.layer_width != self.hidden_size and self.output_layer == "none":
            raise ValueError(
                "output_layer is 'none'; a step whose width differs from the teacher's needs its output layer"
            )
        if self.distinct_steps > len(self.predict_layers or ()):
            raise ValueError(
                f"distinct_steps is {self.distinct_steps}; it must be from 1 to the number of predicted layers"
            )
        if self.distinct_steps > 1 and self.history == "all":
            raise ValueError(
                f"distinct_steps is {self.distinct_steps}; with the history 'all' it must be 1, because layers share "
                "their keys and values"
            )

    @property
    def layer_width(self) -> int:
        return self.hidden_size if self.width is None else self.width

    def in_use(self) -> dict[str, Any]:
        # Whose layers a step sees in training makes no difference in use; how many of them it sees does.
        return super().in_use() | {"history": "all" if self.history == "all" else "the layer before"}


class GenDistillerModel(Chain, Student):
    """The student of both papers, with a config field for each of its parts: a front-end and a chain.

    Attributes:
        chains: those of the other teachers; absent where there is one teacher.
    """

    config_class = GenDistillerConfig
    several_teachers = True

    def __init__(self, config: GenDistillerConfig) -> None:
        super().__init__(config)
        self.make_chain(config)
        if others := self.teachers[1:]:
            self.chains = nn.ModuleList(OtherChain(teacher.config, config.hidden_size) for teacher in others)
        self.post_init()

    @property
    def all_chains(self) -> list[Chain]:
        """One for each teacher."""
        return [self, *getattr(self, "chains", ())]

    @property
    def teacher_ratio(self) -> float:
        return float(self.config.mixed_teacher_ratio) if self.fed_by == "mixed" else 0.0

    def layers(self) -> Iterable[TransformerLayer]:
        return self.chain_layers()

    def layers_of(self, place: int) -> Iterable[TransformerLayer]:
        return self.all_chains[place].chain_layers()

    def plan(self, count: int, rng: np.random.Generator) -> StepPlan:
        """Choose ``count`` layers, in runs of the roll-out's length from cached layers, each layer equally often."""
        if len(self.teachers) == 1:
            return self.plan_chain(count, rng)
        every = self.predicted_layers
        chosen = {every[i] for i in rng.permutation(len(every))[: count or None].tolist()}
        parts: list[StepPlan | None] = []
        answers: list[int] = []
        inputs: set[int] = set()
        for chain, teacher in zip(self.all_chains, self.teachers, strict=True):
            of_it = len(chosen.intersection(teacher.numbers))
            part = chain.plan_chain(of_it, rng) if of_it else None
            parts.append(part)
            if part is not None:
                answers += [teacher.offset + layer for layer in part.answers]
                inputs |= {layer and teacher.offset + layer for layer in part.inputs}  # all start from one layer 0
        return StepPlan(tuple(answers), tuple(sorted(inputs)), parts=tuple(parts))

    def learn(
        self, plan: StepPlan, given: Mapping[int, Tensor], num_frames_B: Tensor, forced_BK: Tensor | None = None
    ) -> Tensor:
        if not plan.runs:  # generation, from layer 0
            return super().learn(plan, given, num_frames_B)
        return torch.stack(self.learn_chain(plan, given, num_frames_B, forced_BK), dim=1)

    def learn_each(
        self, plan: StepPlan, given: Mapping[int, Tensor], num_frames_B: Tensor, forced_BK: Tensor | None = None
    ) -> list[Tensor]:
        if not plan.parts:
            return super().learn_each(plan, given, num_frames_B)
        predicted: list[Tensor] = []
        before = 0
        for place, (chain, teacher, part) in enumerate(zip(self.all_chains, self.teachers, plan.parts, strict=True)):
            if part is not None:
                own = {number - teacher.offset: state for number, state in given.items() if number >= teacher.offset}
                own.pop(0, None)  # of another teacher than the first, it is never the start
                if 0 in part.inputs:
                    own[0] = self._start(place, given[0], num_frames_B)
                forced = None if forced_BK is None else forced_BK[:, before : before + chain.places]
                predicted += chain.learn_chain(part, own, num_frames_B, forced)
            before += chain.places
        return predicted

    def predict(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        return torch.stack(self.predict_each(h0_BTD, num_frames_B, layers or self.first_layers), dim=1)

    def predict_each(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int]) -> list[Tensor]:
        predicted: list[Tensor] = []
        for place, (chain, teacher) in enumerate(zip(self.all_chains, self.teachers, strict=True)):
            if own := [number - teacher.offset for number in layers if number in teacher.numbers]:
                predicted += chain.generate(self._start(place, h0_BTD, num_frames_B), num_frames_B, own)
        return predicted

    def _start(self, place: int, h0_BTD: Tensor, num_frames_B: Tensor) -> Tensor:
        """What the ``place``-th chain starts from."""
        if place == 0:
            return h0_BTD
        mask_BT = frame_mask(num_frames_B, h0_BTD.shape[1], h0_BTD.device)
        start_BTD: Tensor = self.chains[place - 1].enter(h0_BTD).to(h0_BTD.dtype)  # type: ignore[operator]
        return zero_padding(start_BTD, mask_BT)

    def initialize_layers(self, layer_tensors: Mapping[str, Tensor], place: int = 0) -> None:
        super().initialize_layers(layer_tensors, place)
        own = self.all_chains[place].final_norm
        norm = {name: t for name, t in layer_tensors.items() if name.startswith("final_norm.")}
        if own is not None and norm:
            try:
                own.load_state_dict({name.removeprefix("final_norm."): t for name, t in norm.items()})
            except RuntimeError as error:
                raise ValueError(f"the teacher's final norm does not fit this student: {error}") from error

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Adapter):
            init.normal_(module.down_KDR, std=self.config.initializer_range)
            init.zeros_(module.up_KRD)
        elif any(module is chain.enter for chain in getattr(self, "chains", ())):
            init.eye_(module.weight)
        elif self.config.output_init == "zero" and any(module is output for output in self._outputs()):
            init.zeros_(module.weight)

    def _outputs(self) -> Iterable[Any]:
        return (step.output for chain in self.all_chains for step in chain.steps)


class OtherChain(Chain, nn.Module):
    """The chain of a teacher after the first, and what it starts from.

    Args:
        config: that of a student of this teacher alone.
        dim: the features of layer 0, which is another teacher's.
    """

    def __init__(self, config: GenDistillerConfig, dim: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, config.hidden_size, bias=False)
        self.make_chain(config)
