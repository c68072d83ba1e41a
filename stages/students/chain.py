"""The chain of a GenDistiller: the steps from layer 0 to one teacher's layers, one after another.

Places number the states of the chain: 0 is h_0, and place k is the k-th predicted layer. Training walks *runs* of
places (first, last): each run starts from the given state at ``first`` and continues on its own up to ``last``. One
run over the whole chain is self-feeding, and runs of one step are teacher forcing; in between are roll-outs from
cached layers. Runs advance in parallel, as one batch.

Axes: B batch, N utterances times places, T frames, K predicted layers, D features.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gdist.stages.frontend.padding import frame_mask, zero_padding
from gdist.stages.students.base import StepPlan
from gdist.stages.students.layer import Memory, TransformerLayer, chunked

FedBy = Literal["student", "teacher", "mixed"]


class Chain:
    """What a GenDistiller is made of beside its front-end. A module that inherits from it calls :meth:`make_chain`.

    Attributes:
        chain: the config of a student of this teacher alone.
    """

    chain: Any

    def make_chain(self, config: Any) -> None:
        """Make the modules; their names are those of the module that this is a part of."""
        self.chain = config
        dim, count = config.hidden_size, len(config.predict_layers)
        self.embedding = nn.Embedding(count, dim) if config.layer_embedding else None
        self.adapter = Adapter(count, dim, config.adapter_rank) if config.adapter_rank else None
        self.steps = nn.ModuleList(Step(config) for _ in range(config.distinct_steps))
        has_norm = config.final_norm and config.predict_layers[-1] == config.num_teacher_layers
        self.final_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps) if has_norm else None

    @property
    def places(self) -> int:
        """The last place."""
        return len(self.chain.predict_layers)

    @property
    def fed_by(self) -> FedBy:
        """Where the states that training steps start from come from."""
        history: FedBy = self.chain.fed_by if self.chain.history == "all" else self.chain.history
        return history

    def chain_layers(self) -> list[TransformerLayer]:
        """Return the Transformer layers of all steps."""
        return [layer for step in self.steps for layer in step.layers]  # type: ignore[union-attr]

    # --- what a training step does ------------------------------------------------------------------------------

    def plan_chain(self, count: int, rng: np.random.Generator) -> StepPlan:
        """Choose ``count`` layers, in runs of the roll-out's length from cached layers, each layer equally often."""
        chain = (0, *self.chain.predict_layers)
        places = len(chain) - 1
        count = min(count, places) or places
        length = 1 if self.fed_by == "teacher" else min(self.chain.rollout or count, places)
        runs = _runs(places, count, length, rng)
        answers = tuple(chain[place] for first, last in runs for place in range(first + 1, last + 1))
        starts = [first for first, _ in runs]
        known = range(max(starts) + 1) if self.chain.history == "all" else starts
        return StepPlan(answers, tuple(chain[place] for place in known), runs)

    def learn_chain(
        self, plan: StepPlan, given: Mapping[int, Tensor], num_frames_B: Tensor, forced_BK: Tensor | None
    ) -> list[Tensor]:
        """Walk the runs of a plan. Returns ``prediction_BTD`` of each of its answers."""
        chain = (0, *self.chain.predict_layers)
        states = {place: given[layer] for place, layer in enumerate(chain) if layer in given}
        predicted = self._walk(plan.runs, states, num_frames_B, forced_BK)
        return [predicted[chain.index(layer)] for layer in plan.answers]

    def generate(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Walk from layer 0 as far as needed. Returns ``prediction_BTD`` of each layer."""
        places = [self.chain.predict_layers.index(layer) + 1 for layer in layers]
        predicted = self._walk(((0, max(places)),), {0: h0_BTD}, num_frames_B, None)
        return [predicted[place] for place in places]

    def _walk(
        self,
        runs: Sequence[tuple[int, int]],
        given: Mapping[int, Tensor],
        num_frames_B: Tensor,
        forced_BK: Tensor | None,
    ) -> dict[int, Tensor]:
        """Return the predicted state [B, T, D] at every place that a run reaches."""
        state_BTD = next(iter(given.values()))
        given = {place: given_BTD.to(state_BTD.dtype) for place, given_BTD in given.items()}
        mask_BT = frame_mask(num_frames_B, state_BTD.shape[1], state_BTD.device)

        def start_from(place: int, own_BTD: Tensor) -> Tensor:
            if forced_BK is None:
                return own_BTD
            return torch.where(forced_BK[:, place, None, None], given[place], own_BTD)

        walk = self._walk_with_memory if self.chain.history == "all" else self._walk_from_the_last
        predicted = walk(runs, given, Shared.of(self, mask_BT), start_from)
        last = self.places
        if self.final_norm is not None and last in predicted:  # nothing starts from there
            normed_BTD = self.final_norm(predicted[last]).to(state_BTD.dtype)
            predicted[last] = zero_padding(normed_BTD, mask_BT)
        return predicted

    def _walk_from_the_last(
        self, runs: Sequence[tuple[int, int]], given: Mapping[int, Tensor], shared: "Shared", start_from: Any
    ) -> dict[int, Tensor]:
        """Walk all runs in parallel: their n-th steps are one batch."""
        predicted: dict[int, Tensor] = {}
        for walked in range(max(last - first for first, last in runs)):
            places = [first + walked for first, last in runs if first + walked < last]
            states = [start_from(place, predicted[place]) if walked else given[place] for place in places]
            predicted |= zip((place + 1 for place in places), self._take(states, places, shared), strict=True)
        return predicted

    def _walk_with_memory(
        self, runs: Sequence[tuple[int, int]], given: Mapping[int, Tensor], shared: "Shared", start_from: Any
    ) -> dict[int, Tensor]:
        """Take the first steps of all runs as one batch over the given states; then each run keeps its own memory."""
        predicted: dict[int, Tensor] = {}
        starts = [first for first, _ in runs]
        known = list(range(max(starts) + 1))
        memories = [Memory() for _ in range(self.chain.num_layers)]
        firsts = self._take([given[place] for place in known], known, shared, memories, starts)
        for (first, last), state_BTD in zip(runs, firsts, strict=True):
            predicted[first + 1] = state_BTD
            own = [memory.fork(first) for memory in memories]
            for place in range(first + 1, last):
                states = [start_from(place, predicted[place])]
                (predicted[place + 1],) = self._take(states, [place], shared, own, [place])
        return predicted

    def _take(
        self,
        states: Sequence[Tensor],
        places: Sequence[int],
        shared: "Shared",
        memories: Sequence[Memory] = (),
        only: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Take one step from each state [B, T, D] at its place.

        With ``memories``, states also attend to what is remembered, and only the places ``only`` get an output.
        """
        outputs: list[Tensor] = []
        count, distinct = self.places, self.chain.distinct_steps
        for step, members in groupby(range(len(places)), key=lambda i: places[i] * distinct // count):
            chosen = list(members)
            at = [places[i] for i in chosen]
            wanted = at if only is None else list(only)
            previous_NTD = torch.cat([states[i] for i in chosen])
            input_NTD = previous_NTD
            if shared.embedding_D:
                embedding_KD = _stacked(shared.embedding_D, at)
                embedding_ND = embedding_KD[:, None].expand(-1, states[0].shape[0], -1).flatten(0, 1)
                input_NTD = input_NTD + embedding_ND[:, None, :]
            if shared.down_DR:
                input_NTD = adapted(input_NTD, _stacked(shared.down_DR, at), _stacked(shared.up_RD, at))
            hidden_NTD = self.steps[step](input_NTD, shared.mask_BT, memories, at, wanted)
            # The residual stream keeps its precision under autocast.
            hidden_NTD = hidden_NTD.to(previous_NTD.dtype)
            if self.chain.skip:
                if wanted != at:
                    previous_NTD = torch.cat([states[at.index(place)] for place in wanted])
                hidden_NTD = hidden_NTD + previous_NTD
            outputs += chunked(zero_padding(hidden_NTD, _repeat(shared.mask_BT, len(wanted))), len(wanted))
        return outputs


class Shared(NamedTuple):
    """What all steps of a walk share: the mask, and the weights of each place.

    The weights are taken apart once and not indexed in each step. Indexing would copy the index to a GPU, which waits
    for it, and would make a gradient of the whole parameter for each step.
    """

    mask_BT: Tensor | None
    embedding_D: Sequence[Tensor] = ()
    down_DR: Sequence[Tensor] = ()
    up_RD: Sequence[Tensor] = ()

    @classmethod
    def of(cls, chain: Chain, mask_BT: Tensor | None) -> "Shared":
        embedding, adapter = chain.embedding, chain.adapter
        return cls(
            mask_BT,
            () if embedding is None else embedding.weight.unbind(),
            () if adapter is None else adapter.down_KDR.unbind(),
            () if adapter is None else adapter.up_KRD.unbind(),
        )


class Step(nn.Module):
    """The step that is applied repeatedly: (narrow →) Transformer layers → output layer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        dim, width = config.hidden_size, config.layer_width
        self.narrow = nn.Linear(dim, width) if width != dim else None
        self.layers = nn.ModuleList(TransformerLayer(**config.layer_shape) for _ in range(config.num_layers))
        self.output = nn.Linear(width, dim) if config.output_layer == "linear" else None

    def forward(
        self,
        hidden_NTD: Tensor,
        mask_BT: Tensor | None,
        memories: Sequence[Memory],
        places: Sequence[int],
        wanted: Sequence[int],
    ) -> Tensor:
        """[places · B, T, D] → [wanted · B, T, D]."""
        if self.narrow is not None:
            hidden_NTD = self.narrow(hidden_NTD)
        if memories:
            for layer, memory in zip(self.layers, memories, strict=True):
                last = layer is self.layers[-1]
                outputs = wanted if last else places
                hidden_NTD = layer.with_memory(hidden_NTD, mask_BT, memory, places, outputs)  # type: ignore[operator]
        else:
            mask_NT = _repeat(mask_BT, len(places))
            for layer in self.layers:
                hidden_NTD = layer(hidden_NTD, mask_NT)
        return hidden_NTD if self.output is None else self.output(hidden_NTD)


class Adapter(nn.Module):
    """A low-rank correction of the step's input for each of K layers: 2·D·rank parameters each, initially zero."""

    def __init__(self, count: int, dim: int, rank: int) -> None:
        super().__init__()
        self.down_KDR = nn.Parameter(torch.zeros(count, dim, rank))
        self.up_KRD = nn.Parameter(torch.zeros(count, rank, dim))


def adapted(hidden_NTD: Tensor, down_KDR: Tensor, up_KRD: Tensor) -> Tensor:
    """Correct the states of K places, each with its place's matrices."""
    flat = hidden_NTD.reshape(len(down_KDR), -1, hidden_NTD.shape[-1])
    low = torch.bmm(flat.to(down_KDR.dtype), down_KDR)
    return hidden_NTD + torch.bmm(low, up_KRD.to(low.dtype)).view_as(hidden_NTD)


def _runs(places: int, count: int, length: int, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """Choose ``count`` of ``places`` steps in runs of ``length`` at random, each step with the same probability.

    The chain is closed to a circle and cut starting at a random place, so that its ends are as likely as its middle.
    A run across the circle's seam becomes two runs.
    """
    if length >= places:
        return ((0, places),)
    offset = int(rng.integers(places))
    cuts = [(at, min(at + length, places)) for at in range(0, places, length)]
    taken: list[tuple[int, int]] = []
    left = count
    for i in rng.permutation(len(cuts)):
        first, last = cuts[i]
        last = min(last, first + left)
        left -= last - first
        taken.append((first + offset, last + offset))
        if not left:
            break
    runs = []
    for first, last in taken:
        if first < places < last:
            runs += [(first, places), (0, last - places)]
        else:
            runs.append((first % places, (last - 1) % places + 1))
    return tuple(sorted(runs))


def _stacked(rows: Sequence[Tensor], places: Sequence[int]) -> Tensor:
    """The rows at ``places`` along a new first axis; a single row needs no copy."""
    return rows[places[0]][None] if len(places) == 1 else torch.stack([rows[place] for place in places])


def _repeat(mask_BT: Tensor | None, times: int) -> Tensor | None:
    return mask_BT if mask_BT is None or times == 1 else mask_BT.repeat(times, 1)
