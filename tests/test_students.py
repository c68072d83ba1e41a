"""Students: their sizes, their steps, and the contract that training and every user of the teacher relies on.

Axes: B batch, S samples, T frames, K predicted layers, L teacher layers, D features.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Data2VecAudioConfig, HubertConfig, WavLMConfig

from gdist.pipeline import framing
from gdist.pipeline.errors import ConfigError
from gdist.stages.students import STUDENTS, Student, student_config, student_sizes

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
TEACHERS = {
    "base": WavLMConfig(**SMALL).to_dict(),
    "large": HubertConfig(**SMALL, feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True).to_dict(),
    "data2vec": Data2VecAudioConfig(**(SMALL | {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5})).to_dict(),
}
L = 6


def make(name: str, teacher: str = "base", **overrides: Any) -> Student:
    torch.manual_seed(0)
    config = student_config(name, TEACHERS[teacher], **overrides)
    model: Student = STUDENTS[name][1](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # as after some training: nothing is zero or one by chance
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def sound(lengths: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    waveform_BS = torch.randn(len(lengths), max(lengths), generator=generator) * 0.1
    samples_B = torch.tensor(lengths)
    return waveform_BS * (torch.arange(max(lengths)) < samples_B[:, None]), samples_B


def targets_for(model: Student, h0_BTD: Tensor) -> Tensor:
    batch, frames, dim = h0_BTD.shape
    return torch.randn(batch, L, frames, dim, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("name", STUDENTS)
class TestEveryStudent:
    def test_answers_in_the_teachers_shapes(self, name: str, teacher: str) -> None:
        model = make(name, teacher)
        waveform_BS, _ = sound([2000, 2000])
        with torch.no_grad():
            output = model(waveform_BS)
            last, states = model(waveform_BS, return_dict=False)
            assert model(waveform_BS, output_hidden_states=False).hidden_states is None
        assert len(output.hidden_states) == L + 1 == model.config.num_hidden_layers + 1
        assert all(h.shape == (2, framing.num_frames(2000), 32) for h in output.hidden_states)
        assert torch.equal(output.last_hidden_state, output.hidden_states[-1])
        assert torch.equal(last, output.last_hidden_state) and torch.equal(states[0], output.hidden_states[0])

    def test_a_batch_equals_its_utterances_alone(self, name: str, teacher: str) -> None:
        model = make(name, teacher)
        waveform_BS, num_samples_B = sound([400, 719, 720, 5000])
        longer_BS = torch.nn.functional.pad(waveform_BS, (0, 1000))  # a batch may be padded beyond its longest
        mask_BS = (torch.arange(6000) < num_samples_B[:, None]).long()
        with torch.no_grad():
            together = model(longer_BS, mask_BS).hidden_states
            for row, samples in enumerate(num_samples_B.tolist()):
                alone = model(waveform_BS[row : row + 1, :samples]).hidden_states
                for hidden_BTD, alone_1TD in zip(together, alone, strict=True):
                    frames = alone_1TD.shape[1]
                    torch.testing.assert_close(hidden_BTD[row, :frames], alone_1TD[0], atol=1e-5, rtol=1e-5)
                    assert hidden_BTD.shape[1] == framing.num_frames(6000) and not hidden_BTD[row, frames:].any()

    def test_comes_back_from_disk_bit_for_bit(self, name: str, teacher: str, tmp_path: Path) -> None:
        model = make(name, teacher, dropout=0.3)
        model.save_pretrained(tmp_path)
        again, loading = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        ours, theirs = model.state_dict(), again.state_dict()
        assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
        same = {"_name_or_path": "", "dtype": None}
        assert again.config.to_dict() | same == model.config.to_dict() | same
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == model.config.model_type
        waveform_BS, _ = sound([3000])
        with torch.no_grad():
            assert torch.equal(again.eval()(waveform_BS)[0], model(waveform_BS)[0])

    @pytest.mark.parametrize("history", ["student", "teacher", "mixed"])
    def test_predicts_named_layers_and_trains_every_parameter(self, name: str, teacher: str, history: Any) -> None:
        model = make(name, teacher).train()
        waveform_BS, num_samples_B = sound([1500, 3000])
        h0_BTD = model.frontend(waveform_BS, num_samples_B)
        frames_B = model.frontend.num_frames(num_samples_B)
        prediction_BKTD, layers = model.predict(h0_BTD, frames_B, targets_for(model, h0_BTD), history)
        assert prediction_BKTD.shape == (2, len(layers), *h0_BTD.shape[1:])
        assert layers == model.predicted_layers == tuple(sorted(set(layers))) and layers[-1] == L
        assert not prediction_BKTD[0, :, int(frames_B[0]) :].any()
        prediction_BKTD.square().sum().backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), parameter_name

    def test_bf16_autocast_gives_float32_and_stays_close(self, name: str, teacher: str) -> None:
        model = make(name, teacher)
        waveform_BS, _ = sound([4000, 4000])
        with torch.no_grad():
            exact = model(waveform_BS).last_hidden_state
            with torch.autocast("cpu", torch.bfloat16):
                rough = model(waveform_BS).last_hidden_state
        assert rough.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.995

    def test_refuses_weights_that_do_not_fit(self, name: str, teacher: str) -> None:
        model = make(name, teacher)
        tensors = model.frontend.state_dict()
        model.initialize_from_teacher(tensors)
        with pytest.raises(ValueError, match="do not fit"):
            model.initialize_from_teacher(tensors, {"0.attention.q_proj.weight": torch.zeros(1)})


def test_sizes_with_wavlm_base_as_the_teacher() -> None:
    gen, distil = student_sizes()
    assert (gen["name"], gen["teacher"], gen["teacher_params"]) == ("gendistiller", "WavLM Base", 94_381_936)
    assert abs(gen["params"] - 16.99e6) < 0.02e6 and gen["params"] == gen["params_with_heads"]
    assert round(gen["reduction"], 2) == 0.82
    assert abs(distil["params_with_heads"] - 25.26e6) < 0.03e6 and abs(distil["params"] - 23.49e6) < 0.03e6
    # The abstract's figures: 82 % fewer than the teacher, 33 % fewer than the baseline.
    assert round(1 - gen["params_with_heads"] / distil["params_with_heads"], 2) == 0.33


class TestGenDistiller:
    def ready(self, **overrides: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
        model: Any = make("gendistiller", **overrides)
        waveform_BS, num_samples_B = sound([2000, 4000])
        with torch.no_grad():
            h0_BTD = model.frontend(waveform_BS, num_samples_B)
        return model, h0_BTD, model.frontend.num_frames(num_samples_B), targets_for(model, h0_BTD)

    def by_hand(self, model: Any, previous_BTD: Tensor, frames_B: Tensor, layer: int) -> Tensor:
        """h_l = skip(h_{l-1}) + out(layer(h_{l-1} + embedding_l)), written out."""
        mask_BT = torch.arange(previous_BTD.shape[1]) < frames_B[:, None]
        hidden_BTD = previous_BTD
        if model.config.layer_embedding:
            hidden_BTD = hidden_BTD + model.layer_embedding.weight[layer - 1]
        hidden_BTD = model.layer(hidden_BTD, mask_BT)
        if model.config.output_layer == "linear":
            hidden_BTD = model.output(hidden_BTD)
        if model.config.skip:
            hidden_BTD = hidden_BTD + previous_BTD
        masked_BTD: Tensor = hidden_BTD * mask_BT[:, :, None]
        return masked_BTD

    @pytest.mark.parametrize("overrides", [{}, {"skip": False}, {"output_layer": "none", "layer_embedding": False}])
    @torch.no_grad()
    def test_each_history_equals_its_steps_by_hand(self, overrides: dict[str, Any]) -> None:
        model, h0_BTD, frames_B, targets_BLTD = self.ready(**overrides)
        free, layers = model.predict(h0_BTD, frames_B, history="student")
        forced, _ = model.predict(h0_BTD, frames_B, targets_BLTD, history="teacher")
        mixed, _ = model.predict(
            h0_BTD, frames_B, targets_BLTD, history="mixed", generator=torch.Generator().manual_seed(7)
        )
        assert layers == tuple(range(1, L + 1))
        coins_BL = torch.rand(2, L, generator=torch.Generator().manual_seed(7)) < 0.5
        assert coins_BL[:, 1:].any() and not coins_BL[:, 1:].all()
        own_BTD = ours_BTD = h0_BTD
        for i in range(L):
            own_BTD = self.by_hand(model, own_BTD, frames_B, i + 1)
            torch.testing.assert_close(free[:, i], own_BTD, atol=1e-5, rtol=1e-5)
            cached_BTD = targets_BLTD[:, i - 1] if i else h0_BTD
            forced_BTD = self.by_hand(model, cached_BTD, frames_B, i + 1)
            torch.testing.assert_close(forced[:, i], forced_BTD, atol=1e-5, rtol=1e-5)
            if i:
                ours_BTD = torch.where(coins_BL[:, i, None, None], cached_BTD, ours_BTD)
            ours_BTD = self.by_hand(model, ours_BTD, frames_B, i + 1)
            torch.testing.assert_close(mixed[:, i], ours_BTD, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_some_layers_equal_those_of_all(self) -> None:
        model, h0_BTD, frames_B, targets_BLTD = self.ready()
        forced, _ = model.predict(h0_BTD, frames_B, targets_BLTD, history="teacher")
        previous_BKTD = torch.stack([targets_BLTD[:, 3], h0_BTD], dim=1)
        some = model.predict_from(previous_BKTD, frames_B, [5, 1])
        torch.testing.assert_close(some, forced[:, [4, 0]], atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_begins_as_the_copy_of_h0(self) -> None:
        waveform_BS, _ = sound([3000])
        config = student_config("gendistiller", TEACHERS["base"])
        first, *others = STUDENTS["gendistiller"][1](config).eval()(waveform_BS).hidden_states
        assert all(torch.equal(first, other) for other in others)
        config = student_config("gendistiller", TEACHERS["base"], output_init="random")
        first, *others = STUDENTS["gendistiller"][1](config).eval()(waveform_BS).hidden_states
        assert not any(torch.equal(first, other) for other in others)

    def test_the_history_is_the_configs_unless_given(self) -> None:
        model, h0_BTD, frames_B, targets_BLTD = self.ready(history="teacher")
        default, _ = model.predict(h0_BTD, frames_B, targets_BLTD)
        forced, _ = model.predict(h0_BTD, frames_B, targets_BLTD, history="teacher")
        assert torch.equal(default, forced)
        with pytest.raises(ValueError, match="needs the teacher's layers"):
            model.predict(h0_BTD, frames_B)

    def test_teacher_forcing_teaches_the_front_end(self) -> None:
        model, _, _, _ = self.ready()
        waveform_BS, num_samples_B = sound([2000])
        h0_BTD = model.frontend(waveform_BS, num_samples_B)
        prediction_BKTD, _ = model.predict(
            h0_BTD, model.frontend.num_frames(num_samples_B), targets_for(model, h0_BTD), "teacher"
        )
        prediction_BKTD[:, 0].sum().backward(retain_graph=True)
        assert model.frontend.convs[0].weight.grad.any()
        model.zero_grad()
        prediction_BKTD[:, 1:].sum().backward()
        assert not model.frontend.convs[0].weight.grad.any()

    def test_mixed_ratios_of_one_and_zero_are_teacher_and_student(self) -> None:
        for ratio, history in ((1.0, "teacher"), (0.0, "student")):
            model, h0_BTD, frames_B, targets_BLTD = self.ready(mixed_teacher_ratio=ratio)
            mixed, _ = model.predict(h0_BTD, frames_B, targets_BLTD, history="mixed")
            pure, _ = model.predict(h0_BTD, frames_B, targets_BLTD, history=history)
            torch.testing.assert_close(mixed, pure, atol=1e-5, rtol=1e-5)


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
    def test_the_nearest_head_answers_and_the_lower_of_two(self) -> None:
        model = make("distilhubert", predict_layers=[1, 3, 6])
        waveform_BS, num_samples_B = sound([2000])
        states = model(waveform_BS).hidden_states
        frames_B = model.frontend.num_frames(num_samples_B)
        prediction_BKTD, layers = model.predict(states[0], frames_B)
        assert layers == (1, 3, 6)
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
            ("gendistiller", {"history": "everyone"}, "student, teacher, mixed"),
            ("gendistiller", {"output_layer": "mlp"}, "linear, none"),
            ("gendistiller", {"output_init": "one"}, "zero, random"),
            ("gendistiller", {"mixed_teacher_ratio": 1.5}, "from 0 to 1"),
            ("gendistiller", {"dropout": 1.0}, "below 1"),
            ("gendistiller", {"num_attention_heads": 5}, "no divisor"),
            ("gendistiller", {"hidden_size": 64}, "follows from the teacher"),
            ("distilhubert", {"predict_layers": [4, 2]}, "must increase"),
            ("distilhubert", {"predict_layers": [7]}, "from 1 to 6"),
            ("distilhubert", {"num_layers": 0}, "at least 1"),
        ],
    )
    def test_mistakes_are_explained(self, name: str, overrides: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            student_config(name, TEACHERS["base"], **overrides)
