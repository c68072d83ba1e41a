"""The thin students: which block predicts which layer, which maps are shared, and what is computed.

Axes: B batch, S samples, T frames, K predicted layers, L teacher layers, D features, H heads, W features of a block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WavLMConfig

from gdist.pipeline.errors import ConfigError
from gdist.stages.students import STUDENTS, load_student, student_config, student_fields, student_sizes
from gdist.stages.testing.student import tiny_teachers
from gdist.stages.testing.suite import disturb

THIN = ("fithubert", "armhubert")
HEADS, L, D = 2, 6, 32
TEACHERS = {name: tiny_teachers(L)[name] | {"num_attention_heads": HEADS} for name in ("base", "large")}


def make(name: str, teacher: str = "base", **overrides: Any) -> Any:
    torch.manual_seed(0)
    model = STUDENTS[name](student_config(name, TEACHERS[teacher], **overrides)).eval()
    disturb(model)
    return model


def layer_0(frames: list[int]) -> tuple[Tensor, Tensor]:
    """Layer 0 of some utterances, zero where padded, and their lengths."""
    h0_BTD = torch.randn(len(frames), max(frames), D, generator=torch.Generator().manual_seed(1))
    frames_B = torch.tensor(frames)
    return h0_BTD * (torch.arange(max(frames)) < frames_B[:, None])[:, :, None], frames_B


@contextmanager
def calls_counted(modules: dict[str, nn.Module]) -> Iterator[list[str]]:
    """The names of the modules whose ``forward`` was called, in order."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name)) for name, module in modules.items()
    ]
    yield called
    for hook in hooks:
        hook.remove()


@contextmanager
def maps_kept(model: Any) -> Iterator[list[tuple[int, Tensor]]]:
    """For each block's attention, in order, its place and the map that it applied."""
    kept: list[tuple[int, Tensor]] = []
    originals = [block.attention.apply_map for block in model.blocks]
    for place, block in enumerate(model.blocks):

        def apply_map(hidden_BTW: Tensor, map_BHTS: Tensor, place: int = place) -> Any:
            kept.append((place, map_BHTS))
            return originals[place](hidden_BTW, map_BHTS)

        block.attention.apply_map = apply_map
    yield kept
    for block in model.blocks:
        del block.attention.apply_map


@pytest.mark.parametrize("name", THIN)
class TestThinStudents:
    @pytest.mark.parametrize("teacher", TEACHERS)
    @torch.no_grad()
    def test_padding_never_leaks(self, name: str, teacher: str) -> None:
        model = make(name, teacher)
        h0_BTD, frames_B = layer_0([1, 5, 12, 12])
        together = model.predict(h0_BTD, frames_B)
        louder_BTD = h0_BTD + 100 * (torch.arange(12) >= frames_B[:, None])[:, :, None]  # whatever padding contains
        torch.testing.assert_close(model.predict(louder_BTD, frames_B), together, atol=1e-5, rtol=1e-5)
        for row, frames in enumerate(frames_B.tolist()):
            alone = model.predict(h0_BTD[row : row + 1, :frames], frames_B[row : row + 1])
            torch.testing.assert_close(together[row, :, :frames], alone[0], atol=1e-5, rtol=1e-5)
            assert not together[row, :, frames:].any()

    @torch.no_grad()
    def test_some_layers_are_the_slice_of_all_and_run_no_block_behind_theirs(self, name: str) -> None:
        model = make(name)
        h0_BTD, frames_B = layer_0([7, 9])
        everything = model.predict(h0_BTD, frames_B)
        assert everything.shape == (2, L, 9, D)
        modules = {f"block {i}": block for i, block in enumerate(model.blocks, 1)}
        modules |= {f"head {i}": head for i, head in enumerate(model.heads, 1)}
        for layers in ([2], [1, 4], [L]):
            with calls_counted(modules) as called:
                some = model.predict(h0_BTD, frames_B, layers)
            assert torch.equal(some, everything[:, [layer - 1 for layer in layers]])
            blocks = [f"block {i}" for i in range(1, layers[-1] + 1)]
            assert called == blocks + [f"head {layer}" for layer in layers]

    @torch.no_grad()
    def test_each_layer_is_its_blocks_and_its_heads(self, name: str) -> None:
        """Changing block 2 (of 3, for 6 layers) changes only layers 3 to 6, and changing head 2 only layer 2."""
        model = make(name, num_layers=3)
        assert len(model.blocks) == 3 and len(model.heads) == L
        h0_BTD, frames_B = layer_0([9])
        before = model.predict(h0_BTD, frames_B)

        def moved() -> list[int]:
            changed = (model.predict(h0_BTD, frames_B) != before).flatten(2).any(2)[0]
            return [layer + 1 for layer in changed.nonzero()[:, 0].tolist()]

        model.blocks[1].feed_forward.output_dense.bias += 1
        assert moved() == [3, 4, 5, 6]
        before = model.predict(h0_BTD, frames_B)
        model.heads[1].bias += 1
        assert moved() == [2]

    @pytest.mark.parametrize("depth", [1, 4, 6, 9])
    def test_blocks_cover_stretches_of_the_teacher(self, name: str, depth: int) -> None:
        config: Any = student_config(name, TEACHERS["base"], num_layers=depth)
        expected = {
            1: [1, 1, 1, 1, 1, 1],
            4: [1, 2, 2, 3, 4, 4],
            6: [1, 2, 3, 4, 5, 6],
            9: [2, 3, 5, 6, 8, 9],
        }
        assert [config.block_of(layer) for layer in range(1, L + 1)] == expected[depth]

    def test_heads_are_for_the_predicted_layers_and_blocks_for_the_last_of_them(self, name: str) -> None:
        model = make(name, predict_layers=[2, 4])
        assert model.predicted_layers == (2, 4) and len(model.heads) == 2 and len(model.blocks) == 4
        h0_BTD, frames_B = layer_0([9])
        assert model.predict(h0_BTD, frames_B).shape == (1, 2, 9, D)
        assert sum(p.numel() for p in model.throwaway()) == 2 * (20 * D + D)

    @pytest.mark.parametrize("teacher", TEACHERS)
    def test_every_parameter_learns(self, name: str, teacher: str) -> None:
        model = make(name, teacher).train()
        h0_BTD, frames_B = layer_0([12, 20])
        torch.manual_seed(3)
        model.predict(h0_BTD, frames_B).square().sum().backward()
        for parameter_name, parameter in model.named_parameters():
            if not parameter_name.startswith("frontend."):
                assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), parameter_name
                # A key's bias adds the same to every frame's score, which softmax cancels.
                assert parameter.grad.any() or parameter_name.endswith("k_proj.bias"), parameter_name

    def test_gradients_reach_the_front_end(self, name: str) -> None:
        model = make(name).train()
        waveform_BS = torch.randn(1, 2000, generator=torch.Generator().manual_seed(1))
        model(waveform_BS).last_hidden_state.sum().backward()
        assert model.frontend.convs[0].weight.grad.any()

    @pytest.mark.parametrize("teacher", TEACHERS)
    @torch.no_grad()
    def test_bf16_autocast_gives_float32_and_stays_close(self, name: str, teacher: str) -> None:
        model = make(name, teacher)
        h0_BTD, frames_B = layer_0([20, 30])
        exact = model.predict(h0_BTD, frames_B)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.predict(h0_BTD, frames_B)
        assert rough.dtype == torch.float32
        assert not rough[0, :, 20:].any()
        assert F.cosine_similarity(exact, rough, dim=-1)[:, :, :20].min() > 0.99

    def test_comes_back_from_disk_bit_for_bit(self, name: str, tmp_path: Path) -> None:
        model = make(name, num_layers=3, width=24, predict_layers=[1, 6])
        model.save_pretrained(tmp_path)
        again, loading = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert (again.config.width, again.config.num_layers, again.config.predict_layers) == (24, 3, [1, 6])
        assert again.config.intermediate_size == model.config.intermediate_size == {"f": 24, "a": 43}[name[0]]
        waveform_BS = torch.randn(1, 3000, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = model(waveform_BS)[0]
            assert torch.equal(load_student(tmp_path).eval()(waveform_BS)[0], expected)
            torch.testing.assert_close(again.eval()(waveform_BS)[0], expected, atol=1e-6, rtol=1e-6)

    def test_takes_the_teachers_front_end_but_not_its_layers(self, name: str) -> None:
        model, other = make(name), make(name)
        with torch.no_grad():
            other.frontend.projection.weight.zero_()
        model.initialize_from_teacher(other.frontend.state_dict())
        assert not model.frontend.projection.weight.any()
        wide = make("distilhubert")
        layers = {f"0.{key}": tensor for key, tensor in wide.blocks[0].state_dict().items()}
        with pytest.raises(ValueError, match="do not fit this student: they are 32 wide, but its blocks are 20"):
            model.initialize_from_teacher(other.frontend.state_dict(), layers)

    def test_shapes_follow_the_teachers_width_and_heads(self, name: str) -> None:
        ratio = {"fithubert": 1.0, "armhubert": 1.8}[name]
        for dim, heads, width in ((768, 12, 480), (1024, 16, 640), (192, 6, 120), (32, 2, 20), (8, 8, 8)):
            teacher = WavLMConfig(
                hidden_size=dim, num_attention_heads=heads, num_conv_pos_embedding_groups=8
            ).to_dict()
            config: Any = student_config(name, teacher)
            assert (config.width, config.num_attention_heads) == (width, heads)
            assert config.intermediate_size == round(width * ratio)
        chosen: Any = student_config(name, WavLMConfig().to_dict(), width=430, num_attention_heads=10)
        assert (chosen.width, chosen.num_attention_heads) == (430, 10)  # 10 does not divide 768, and need not
        assert chosen.intermediate_size == round(430 * ratio)
        assert student_config(name, WavLMConfig().to_dict(), intermediate_size=64).intermediate_size == 64

    @pytest.mark.parametrize(
        ("overrides", "says"),
        [
            ({"width": 21}, "num_attention_heads is 2; it must divide the layers' width, 21"),
            ({"width": 0}, "student.width is 0; it must be at least 1"),
            ({"num_attention_heads": 0}, "student.num_attention_heads is 0; it must be at least 1"),
            ({"num_layers": 0}, "at least 1"),
            ({"predict_layers": [7]}, "between 1 and 6"),
            ({"with": 20}, "did you mean `width`"),
        ],
    )
    def test_mistakes_are_explained(self, name: str, overrides: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            student_config(name, TEACHERS["base"], **overrides)


class TestArmHubert:
    @torch.no_grad()
    def test_every_block_of_a_group_applies_one_map(self) -> None:
        model = make("armhubert", num_layers=5, reuse=2)
        h0_BTD, frames_B = layer_0([7, 9])
        with maps_kept(model) as kept:
            before = model.predict(h0_BTD, frames_B)
            maps = dict(kept)
            assert [place for place, _ in kept] == [0, 1, 2, 3, 4]
            assert maps[0] is maps[1] and maps[2] is maps[3]
            assert not any(torch.allclose(maps[i], maps[j]) for i, j in ((0, 2), (2, 4), (0, 4)))
            kept.clear()
            for parameter in model.blocks[1].parameters():
                parameter += 1.0
            after = model.predict(h0_BTD, frames_B)
            perturbed = dict(kept)
        assert not torch.allclose(after[:, 1], before[:, 1])
        assert torch.equal(perturbed[1], maps[1])  # it does not compute the map that it applies
        assert not torch.equal(perturbed[2], maps[2])  # the next is made from its output

    @torch.no_grad()
    def test_maps_are_distributions_over_the_utterance(self) -> None:
        model = make("armhubert")
        h0_BTD, frames_B = layer_0([4, 9])
        with maps_kept(model) as kept:
            model.predict(h0_BTD, frames_B)
        for _, map_BHTS in kept:
            assert map_BHTS.shape == (2, HEADS, 9, 9) and not map_BHTS[0, :, :, 4:].any()
            torch.testing.assert_close(map_BHTS.sum(-1), torch.ones(2, HEADS, 9))

    @pytest.mark.parametrize(("reuse", "makers"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4]), (4, [0, 4]), (9, [0])])
    def test_only_makers_have_queries_and_keys(self, reuse: int, makers: list[int]) -> None:
        model = make("armhubert", reuse=reuse)
        for projection in ("q_proj", "k_proj"):
            assert [i for i, block in enumerate(model.blocks) if hasattr(block.attention, projection)] == makers
        queries = {f"{i}": model.blocks[i].attention.q_proj for i in makers}
        h0_BTD, frames_B = layer_0([5])
        with calls_counted(queries) as called:
            model.predict(h0_BTD, frames_B)
        assert called == [str(i) for i in makers]

    @pytest.mark.parametrize("teacher", TEACHERS)
    @torch.no_grad()
    def test_without_reuse_it_is_fithubert(self, teacher: str) -> None:
        arm = make("armhubert", teacher, reuse=1, intermediate_size=24)
        fit = make("fithubert", teacher, intermediate_size=24)
        fit.load_state_dict(arm.state_dict())
        h0_BTD, frames_B = layer_0([4, 9])
        torch.testing.assert_close(arm.predict(h0_BTD, frames_B), fit.predict(h0_BTD, frames_B), atol=1e-5, rtol=1e-5)

    def test_drops_from_the_map_once_for_all_blocks_that_share_it(self) -> None:
        model = make("armhubert", dropout=0.5).train()
        h0_BTD, frames_B = layer_0([20])
        with maps_kept(model) as kept:
            model.predict(h0_BTD, frames_B)
        maps = dict(kept)
        assert maps[0] is maps[1] and 0.3 < float((maps[0] == 0).float().mean()) < 0.7

    def test_reuse_must_be_positive(self) -> None:
        with pytest.raises(ConfigError, match="reuse is 0; it must be at least 1"):
            student_config("armhubert", TEACHERS["base"], reuse=0)


def test_sizes_with_wavlm_base_as_the_teacher() -> None:
    """Exact. The blocks are the published ones, and what is before them is the teacher's, unthinned.

    Published are 22.49 M (FitHuBERT), 26.45 M (ARMHuBERT) and 22.39 M (its S model), and these are what the shapes in
    their repositories add up to:

                       before the blocks   blocks       heads       halving frames   together
        FitHuBERT              4,092,416   16,646,400     369,408        1,383,840   22,492,064
        ARMHuBERT              3,711,424   18,304,128   4,432,896                0   26,448,448
        ARMHuBERT-S            3,173,536   15,230,016   3,990,528                0   22,394,080

    FitHuBERT's figure counts one of its twelve heads, ARMHuBERT's all. Ours have 9,316,352 + 369,120 before the
    blocks, the front-end and what narrows it; ``params`` counts no head and ``params_with_heads`` all twelve.
    """
    sizes = {row["name"]: row for row in student_sizes()}
    fit, arm = sizes["fithubert"], sizes["armhubert"]
    assert (fit["params"], fit["params_with_heads"]) == (26_331_872, 30_764_768)
    assert (arm["params"], arm["params_with_heads"]) == (27_989_600, 32_422_496)
    shapes: list[tuple[str, dict[str, int], int]] = [
        ("fithubert", {}, 16_646_400),
        ("armhubert", {}, 18_304_128),
        ("armhubert", {"width": 432, "intermediate_size": 816}, 15_230_016),
    ]
    for name, overrides, expected in shapes:
        with torch.device("meta"):
            model: Any = STUDENTS[name](student_config(name, WavLMConfig().to_dict(), **overrides))
        assert sum(p.numel() for p in model.blocks.parameters()) == expected


def test_a_subclass_of_a_config_shows_its_inherited_fields() -> None:
    fit, arm = student_fields("fithubert"), student_fields("armhubert")
    assert {"width", "num_layers", "predict_layers", "intermediate_size", "dropout"} <= set(fit)
    assert set(arm) - set(fit) == {"reuse"}
    assert fit["intermediate_size"] is None and student_fields("gendistiller")["intermediate_size"] == 3072
