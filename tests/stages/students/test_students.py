"""Students: their sizes, their steps, and the contract that training, and code written for the teacher, rely on.

Axes: B batch, S samples, T frames, K predicted layers, L teacher layers, D features.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import WavLMConfig

from gdist.pipeline.errors import ConfigError
from gdist.stages.students import STUDENTS, Student, student_config, student_sizes
from gdist.stages.students.layer import Attention, drop
from gdist.stages.testing import StudentSuite
from gdist.stages.testing.student import sound, tiny_teachers
from gdist.stages.testing.suite import disturb

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other

L = 6
TEACHERS = tiny_teachers(L)


def make(name: str, teacher: str = "base", **overrides: Any) -> Student:
    torch.manual_seed(0)
    config = student_config(name, TEACHERS[teacher], **overrides)
    model: Student = STUDENTS[name](config).eval()
    disturb(model)
    return model


def layer_0(model: Student, lengths: list[int]) -> tuple[Tensor, Tensor]:
    waveform_BS, num_samples_B = sound(lengths)
    return model.frontend(waveform_BS, num_samples_B), model.frontend.num_frames(num_samples_B)


def given_to(model: Student, h0_BTD: Tensor) -> dict[int, Tensor]:
    """Layer 0, and random hidden states for the teacher's other layers."""
    generator = torch.Generator().manual_seed(2)
    return {0: h0_BTD} | {layer: torch.randn(h0_BTD.shape, generator=generator) for layer in range(1, L + 1)}


class TestEveryStudent(StudentSuite):
    teachers = TEACHERS
    formats = ("hf", "s3prl")  # ONNX takes its time: tests/stages/export/test_export_onnx.py has two of them

    @pytest.fixture(autouse=True, params=STUDENTS.own)
    def row(self, request: pytest.FixtureRequest) -> None:
        self.student = STUDENTS.own[request.param]

    def takes_layers(self, model: Student) -> bool:
        return self.student is not STUDENTS.own["armhubert"]  # blocks of a group share their queries and keys

    def test_the_last_layer_is_predicted(self, teacher: str) -> None:
        model = self.make(teacher)
        assert model.predicted_layers[-1] == L and len(model.predicted_layers) > 2

    def test_one_that_never_called_post_init_is_refused(self) -> None:
        begin = self.student.__init__

        class Forgetful(self.student):  # type: ignore[name-defined,misc]
            def __init__(self, config: Any) -> None:
                begin(self, config)
                self.more = nn.Linear(3, 3)

        with pytest.raises(TypeError, match=r"must end with self.post_init\(\).*more.weight and 1"):
            Forgetful(self.make("base").config).require_post_init()


def test_sizes_with_wavlm_base_as_the_teacher() -> None:
    gen, distil, *_ = student_sizes()
    assert (gen["name"], gen["teacher"], gen["teacher_params"]) == ("gendistiller", "WavLM Base", 94_381_936)
    assert abs(gen["params"] - 16.99e6) < 0.02e6 and gen["params"] == gen["params_with_heads"]
    assert round(gen["reduction"], 2) == 0.82
    assert abs(distil["params_with_heads"] - 25.26e6) < 0.03e6 and abs(distil["params"] - 23.49e6) < 0.03e6
    # The abstract's figures: 82 % fewer than the teacher, 33 % fewer than the baseline.
    assert round(1 - gen["params_with_heads"] / distil["params_with_heads"], 2) == 0.33


HISTORIES: dict[str, dict[str, Any]] = {
    "student": {},
    "teacher": {"history": "teacher"},
    "mixed": {"history": "mixed"},
    "roll-outs": {"rollout": 2},
    "all, forced": {"history": "all"},
    "all, free": {"history": "all", "fed_by": "student"},
    "all, mixed, two layers": {"history": "all", "fed_by": "mixed", "num_layers": 2},
}
PARTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "no skip": {"skip": False},
    "no output layer": {"output_layer": "none", "layer_embedding": False},
    "adapters": {"adapter_rank": 3},
    "narrow and deep": {"width": 16, "num_layers": 2, "intermediate_size": 24},
    "some layers": {"predict_layers": [2, 5, 6]},
    "three steps": {"distinct_steps": 3},
}


class TestGenDistiller:
    def ready(self, **overrides: Any) -> tuple[Any, dict[int, Tensor], Tensor]:
        model: Any = make("gendistiller", **overrides)
        with torch.no_grad():
            h0_BTD, frames_B = layer_0(model, [2000, 4000])
        return model, given_to(model, h0_BTD), frames_B

    def by_hand(self, model: Any, states: list[Tensor], frames_B: Tensor) -> Tensor:
        """The next state after ``states``, all from h_0 on: written out from the definition, without any batching.

        With the history "all", a Transformer layer's query is the newest state, its keys and values all of them, one
        after another as one long utterance, and nothing is remembered.
        """
        config, place = model.config, len(states) - 1
        step = model.steps[place * config.distinct_steps // len(model.predicted_layers)]
        mask_BT = torch.arange(states[0].shape[1]) < frames_B[:, None]
        inputs = []
        for at, state_BTD in enumerate(states):
            hidden_BTD = state_BTD + (model.embedding.weight[at] if config.layer_embedding else 0)
            if config.adapter_rank:
                hidden_BTD = hidden_BTD + hidden_BTD @ model.adapter.down_KDR[at] @ model.adapter.up_KRD[at]
            inputs.append(hidden_BTD if step.narrow is None else step.narrow(hidden_BTD))
        for layer in step.layers:
            if config.history == "all":
                inputs = [self.attend_to_all(layer, inputs[: at + 1], mask_BT) for at in range(len(inputs))]
            else:
                inputs = [layer(hidden_BTD, mask_BT) for hidden_BTD in inputs]
        hidden_BTD = inputs[-1] if step.output is None else step.output(inputs[-1])
        if config.skip:
            hidden_BTD = hidden_BTD + states[-1]
        masked_BTD: Tensor = hidden_BTD * mask_BT[:, :, None]
        return masked_BTD

    def attend_to_all(self, layer: Any, inputs: list[Tensor], mask_BT: Tensor) -> Tensor:
        attention, heads = layer.attention, layer.attention.num_heads
        seen_BSD = torch.cat(inputs, dim=1)

        def split(features: Tensor) -> Tensor:
            return features.view(*features.shape[:2], heads, -1).transpose(1, 2)

        query, key = split(attention.q_proj(inputs[-1])), split(attention.k_proj(seen_BSD))
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask_BT.repeat(1, len(inputs))[:, None, None, :], float("-inf"))
        attended = (scores.softmax(-1) @ split(attention.v_proj(seen_BSD))).transpose(1, 2).flatten(2)
        hidden = layer.layer_norm(inputs[-1] + attention.out_proj(attended))
        normed: Tensor = layer.final_layer_norm(hidden + layer.feed_forward(hidden))
        return normed

    @pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
    @pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
    @torch.no_grad()
    def test_every_form_equals_its_steps_by_hand(self, history: dict[str, Any], parts: dict[str, Any]) -> None:
        if history.get("history") == "all" and "distinct_steps" in parts:
            pytest.skip("refused: see TestConfig")
        model, given, frames_B = self.ready(**(history | parts))
        chain = (0, *model.predicted_layers)
        forced_BK = torch.rand(2, len(chain) - 1, generator=torch.Generator().manual_seed(7)) < 0.5
        assert forced_BK[:, 1:].any() and not forced_BK[:, 1:].all()
        for count, forced in ((0, None), (2, None), (0, forced_BK), (3, forced_BK)):
            plan = model.plan(count, np.random.default_rng(3))
            wanted = set(plan.inputs) | (set(plan.answers) if forced is not None else set())
            prediction_BKTD = model.learn(plan, {layer: given[layer] for layer in wanted}, frames_B, forced)
            for first, last in plan.runs:
                states = [given[layer] for layer in chain[: first + 1]]
                for place in range(first, last):
                    own_BTD = self.by_hand(model, states, frames_B)
                    answer = plan.answers.index(chain[place + 1])
                    torch.testing.assert_close(prediction_BKTD[:, answer], own_BTD, atol=2e-5, rtol=1e-4)
                    if forced is not None and place + 1 < len(chain) - 1:
                        own_BTD = torch.where(forced[:, place + 1, None, None], given[chain[place + 1]], own_BTD)
                    states.append(own_BTD)

    @pytest.mark.parametrize(
        "history", [{"history": "teacher"}, {"history": "all"}, {"history": "all", "num_layers": 2}]
    )
    @torch.no_grad()
    def test_causality(self, history: dict[str, Any]) -> None:
        """Disturbing layer l of what is given never changes a prediction up to l, and does change the next."""
        model, given, frames_B = self.ready(**history)
        plan = model.plan(0, np.random.default_rng(0))
        before = model.learn(plan, given, frames_B)
        for layer in range(1, L):
            disturbed = given | {layer: given[layer] + torch.randn_like(given[layer])}
            after = model.learn(plan, disturbed, frames_B)
            assert torch.equal(after[:, :layer], before[:, :layer])
            later = (after[:, layer:] != before[:, layer:]).flatten(2).any(2).all(0)
            sees_all = history["history"] == "all"
            assert (
                later.tolist() == [True] * len(later)
                if sees_all
                else later.tolist() == [True] + [False] * (L - layer - 1)
            )

    @torch.no_grad()
    def test_time_is_seen_in_both_directions(self) -> None:
        model, given, frames_B = self.ready(history="all")
        plan = model.plan(0, np.random.default_rng(0))
        before = model.learn(plan, given, frames_B)
        for frame in (0, int(frames_B[0]) - 1):
            disturbed = given[2].clone()
            disturbed[0, frame] += 1
            after = model.learn(plan, given | {2: disturbed}, frames_B)
            changed = (after[0, 5] != before[0, 5]).any(-1)
            assert changed[: int(frames_B[0])].all() and torch.equal(after[1], before[1])

    @pytest.mark.parametrize("fields", [{"history": "all"}, {"history": "all", "num_layers": 2}])
    @torch.no_grad()
    def test_nothing_is_computed_twice(self, fields: dict[str, Any]) -> None:
        """Generation makes each state's keys once; teacher forcing makes all of them in one call per layer."""
        model, given, frames_B = self.ready(**fields)
        rows: list[int] = []
        for layer in model.layers():
            layer.attention.k_proj.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
        model.predict(given[0], frames_B)
        assert rows == [2] * L * model.config.num_layers
        rows.clear()
        model.learn(model.plan(0, np.random.default_rng(0)), given, frames_B)
        assert rows == [2 * L] * model.config.num_layers

    def test_plans(self) -> None:
        """What each history reads and walks: (history, layers per step) → runs and inputs."""

        def plan(count: int, **fields: Any) -> Any:
            return make("gendistiller", **fields).plan(count, np.random.default_rng(5))

        assert plan(0).runs == ((0, L),) and plan(0).inputs == (0,)
        assert plan(L + 3).runs == ((0, L),)
        forced = plan(0, history="teacher")
        assert forced.runs == tuple((place, place + 1) for place in range(L)) and forced.inputs == tuple(range(L))
        everything = plan(2, history="all")
        assert everything.inputs == tuple(range(max(first for first, _ in everything.runs) + 1))
        assert all(last - first == 1 for first, last in everything.runs)
        for _ in range(20):
            walked = plan(3)
            assert sum(last - first for first, last in walked.runs) == 3
            assert walked.inputs == tuple(first for first, _ in walked.runs)
            # One stretch, or two if it crosses the chain's end.
            assert len(walked.runs) == 1 or (walked.runs[0][0], walked.runs[-1][1]) == (0, L)
        outs = plan(0, rollout=2)
        assert outs.answers == tuple(range(1, L + 1)) and max(last - first for first, last in outs.runs) == 2

    def test_a_step_that_starts_from_the_cache_needs_no_front_end(self) -> None:
        model, given, frames_B = self.ready()
        rng = np.random.default_rng(0)
        plans = [model.plan(2, rng) for _ in range(60)]
        cached = next(plan for plan in plans if 0 not in plan.inputs)
        model.learn(cached, {layer: given[layer] for layer in cached.inputs}, frames_B)
        assert 0.15 < sum(0 in plan.inputs for plan in plans) / 60 < 0.55  # 2 of 6 steps touch h_0

    @torch.no_grad()
    def test_starts_as_a_copy_of_h0(self) -> None:
        waveform_BS, _ = sound([3000])
        forms: list[dict[str, Any]] = [{}, {"adapter_rank": 2}, {"history": "all"}, {"width": 16}]
        for fields in forms:
            config = student_config("gendistiller", TEACHERS["base"], **fields)
            first, *others = (
                STUDENTS["gendistiller"](config).eval()(waveform_BS, output_hidden_states=True).hidden_states
            )
            assert all(torch.equal(first, other) for other in others)
        config = student_config("gendistiller", TEACHERS["base"], output_init="random")
        first, *others = STUDENTS["gendistiller"](config).eval()(waveform_BS, output_hidden_states=True).hidden_states
        assert not any(torch.equal(first, other) for other in others)

    def test_adapters_have_a_few_thousand_parameters_per_layer(self) -> None:
        with torch.device("meta"):
            configs = [student_config("gendistiller", WavLMConfig().to_dict(), adapter_rank=rank) for rank in (0, 4)]
            sizes = [STUDENTS["gendistiller"](config).num_parameters() for config in configs]
        assert sizes[1] - sizes[0] == 12 * 2 * 768 * 4

    def test_every_adapter_learns(self) -> None:
        model, given, frames_B = self.ready(adapter_rank=2, history="teacher")
        model.learn(model.plan(0, np.random.default_rng(0)), given, frames_B).square().sum().backward()
        for gradient in (model.adapter.up_KRD.grad, model.adapter.down_KDR.grad):
            assert gradient.flatten(1).any(1).all()

    def test_teacher_forcing_teaches_the_front_end_only_by_the_first_layer(self) -> None:
        model, given, frames_B = self.ready(history="teacher")
        h0_BTD, frames_B = layer_0(model, [2000, 4000])
        plan = model.plan(0, np.random.default_rng(0))
        prediction_BKTD = model.learn(plan, given | {0: h0_BTD}, frames_B)
        prediction_BKTD[:, 0].sum().backward(retain_graph=True)
        assert model.frontend.convs[0].weight.grad.any()
        model.zero_grad()
        prediction_BKTD[:, 1:].sum().backward()
        assert not model.frontend.convs[0].weight.grad.any()

    def test_mixed_states_its_share(self) -> None:
        ratios = {name: self.ready(**fields)[0].teacher_ratio for name, fields in HISTORIES.items()}
        assert ratios == {name: 0.5 * ("mixed" in name) for name in HISTORIES}


class TestDistilHubert:
    def test_heads_are_thirds_of_the_teacher_and_are_not_counted(self) -> None:
        model = make("distilhubert")
        assert model.config.predict_layers == [2, 4, 6]
        assert model.num_parameters_with_heads() - model.num_parameters() == 3 * (32 * 32 + 32)
        wide = student_config("distilhubert", WavLMConfig().to_dict())
        assert wide.predict_layers == [4, 8, 12]
        one = student_config("distilhubert", WavLMConfig(num_hidden_layers=2).to_dict())
        assert one.predict_layers == [1, 2]

    @torch.no_grad()
    def test_the_nearest_head_is_used_and_the_lower_of_two(self) -> None:
        model = make("distilhubert", predict_layers=[1, 3, 6])
        waveform_BS, num_samples_B = sound([2000])
        states = model(waveform_BS, output_hidden_states=True).hidden_states
        frames_B = model.frontend.num_frames(num_samples_B)
        prediction_BKTD = model.predict(states[0], frames_B)
        assert model.predicted_layers == (1, 3, 6)
        for layer, head in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)):
            torch.testing.assert_close(states[layer], prediction_BKTD[:, head])


class TestConfig:
    def test_fields_follow_the_teacher(self) -> None:
        config = student_config("gendistiller", TEACHERS["large"], intermediate_size=64)
        assert (config.hidden_size, config.num_teacher_layers, config.intermediate_size) == (32, 6, 64)
        assert config.pre_norm and config.do_normalize and not config.frontend["output_norm"]
        assert not student_config("gendistiller", TEACHERS["base"]).do_normalize
        assert student_config("gendistiller", TEACHERS["base"] | {"do_normalize": True}).do_normalize

    @pytest.mark.parametrize(
        ("name", "overrides", "says"),
        [
            ("gendistilller", {}, "did you mean `gendistiller`"),
            ("gendistiller", {"histroy": "teacher"}, "did you mean `history`"),
            ("distilhubert", {"skip": False}, "no field 'skip'"),
            ("gendistiller", {"history": "everyone"}, "student, teacher, mixed, all"),
            ("gendistiller", {"history": "all", "fed_by": "all"}, "student, teacher, mixed"),
            ("gendistiller", {"rollout": -1}, "at least 0"),
            ("gendistiller", {"width": 30}, "must divide the layers' width, 30"),
            ("gendistiller", {"width": 16, "output_layer": "none"}, "needs its output layer"),
            ("gendistiller", {"distinct_steps": 7}, "from 1 to"),
            ("gendistiller", {"distinct_steps": 2, "history": "all"}, "must be 1"),
            ("gendistiller", {"predict_layers": [3, 3]}, "must increase"),
            ("gendistiller", {"output_layer": "mlp"}, "linear, none"),
            ("gendistiller", {"output_init": "one"}, "zero, random"),
            ("gendistiller", {"mixed_teacher_ratio": 1.5}, "from 0 to 1"),
            ("gendistiller", {"dropout": 1.0}, "below 1"),
            ("gendistiller", {"num_attention_heads": 5}, "must divide"),
            ("gendistiller", {"hidden_size": 64}, "follows from the teacher"),
            ("distilhubert", {"predict_layers": [4, 2]}, "must increase"),
            ("distilhubert", {"predict_layers": [7]}, "between 1 and 6"),
            ("distilhubert", {"num_layers": 0}, "at least 1"),
        ],
    )
    def test_mistakes_are_explained(self, name: str, overrides: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            student_config(name, TEACHERS["base"], **overrides)


class TestDropout:
    def test_each_value_is_dropped_at_random_and_the_mean_stays(self) -> None:
        ones = torch.ones(1000, 1001)
        torch.manual_seed(0)
        dropped = drop(ones, 0.1)
        share = float((dropped == 0).float().mean())
        assert abs(share - 0.1) < 5 * (0.09 / ones.numel()) ** 0.5
        assert dropped[dropped != 0].unique() == pytest.approx(1 / 0.9, rel=1e-4)  # type: ignore[no-untyped-call]
        assert float(dropped.mean()) == pytest.approx(1, abs=2e-3)
        # No pattern along rows or columns, nor from one draw to the next.
        assert (dropped == 0).float().mean(0).std() < 1.2 * (0.09 / 1000) ** 0.5
        torch.manual_seed(0)
        assert torch.equal(drop(ones, 0.1), dropped) and not torch.equal(drop(ones, 0.1), dropped)

    def test_gradients_go_where_values_went(self) -> None:
        hidden = torch.randn(3, 7, requires_grad=True)
        dropped = drop(hidden, 0.5)
        (gradient,) = torch.autograd.grad(dropped.sum(), hidden)
        assert torch.equal(gradient, torch.where(dropped == 0, 0.0, 2.0))

    @pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
    def test_it_is_off_in_eval_mode_and_at_zero(self, precision: torch.dtype) -> None:
        hidden = torch.randn(4, 5).to(precision)
        assert torch.equal(drop(hidden, 0.0), hidden) and drop(hidden, 0.3).dtype == precision

    def test_attention_without_any_is_that_with_almost_none(self) -> None:
        """The written-out attention of training against the operator, masks included."""
        torch.manual_seed(0)
        attention = Attention(32, 4, 1e-9).train()
        hidden_BTD, mask_BT = torch.randn(2, 9, 32), torch.arange(9) < torch.tensor([[9], [4]])
        torch.testing.assert_close(attention(hidden_BTD, mask_BT), attention.eval()(hidden_BTD, mask_BT))
