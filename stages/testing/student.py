"""What training, and code written for the teacher, rely on in a student.

Axes: B batch, S samples, T frames, K predicted layers, L teacher layers, D features.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import Data2VecAudioConfig, HubertConfig, WavLMConfig

from gdist.pipeline.config import TomlTables
from gdist.pipeline.run import Run
from gdist.pipeline.run.snapshot import Snapshot
from gdist.stages.export.export import write_and_compare
from gdist.stages.export.formats import format_named, onnx_library
from gdist.stages.export.formats.base import Export
from gdist.stages.students import STUDENTS, Student, load_student, student_config
from gdist.stages.students.layer import TransformerLayer
from gdist.stages.testing.suite import Suite, disturb, refused, skip
from gdist.stages.train.student_store import save_student_to


def tiny_teachers(layers: int) -> dict[str, dict[str, Any]]:
    """Configs of the three layouts of teachers: their front-ends, norms and normalization differ."""
    small: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    large = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
    positions = {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}
    return {
        "base": WavLMConfig(**small).to_dict(),
        "large": HubertConfig(**small, **large).to_dict(),
        "data2vec": Data2VecAudioConfig(**(small | positions)).to_dict(),
    }


def sound(lengths: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    waveform_BS = torch.randn(len(lengths), max(lengths), generator=generator) * 0.1
    samples_B = torch.tensor(lengths)
    return waveform_BS * (torch.arange(max(lengths)) < samples_B[:, None]), samples_B


class StudentSuite(Suite):
    """A student outputs the teacher's shapes, the same in any batch and after reloading, and every part of it learns.

    Attributes:
        student: its class.
        fields: of its config, for these tests.
        teachers: label → a teacher's config, with 12 layers unless a subclass says otherwise.
        formats: the formats of ``gdist export`` that it supports; each is written, loaded back and compared. ONNX
            takes longer than all other tests together, up to a minute.
    """

    student: type[Student]
    fields: Mapping[str, Any] = {}
    teachers: ClassVar[Mapping[str, dict[str, Any]]] = tiny_teachers(12)
    formats: ClassVar[tuple[str, ...]] = ("hf", "s3prl", "onnx")

    def cases(self) -> Mapping[str, Iterable[Any]]:
        dtypes = (torch.bfloat16, torch.float16)
        return {"teacher": self.teachers, "form": self.formats, "dtype": dtypes}

    def fresh(self, teacher: str, **fields: Any) -> Student:
        """Build the student as training does."""
        torch.manual_seed(0)
        with STUDENTS.lent(self.student.__name__, self.student) as row:
            return row(student_config(row.__name__, self.teachers[teacher], **{**self.fields, **fields}))

    def make(self, teacher: str, **fields: Any) -> Student:
        """Build the student in eval mode, with weights as after some training."""
        model: Student = self.fresh(teacher, **fields).eval()
        disturb(model)
        return model

    def layer_0(self, model: Student, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Return layer 0 of some utterances, and their numbers of frames."""
        waveform_BS, num_samples_B = sound(lengths)
        return model.frontend(waveform_BS, num_samples_B), model.frontend.num_frames(num_samples_B)

    def given_to(self, model: Student, h0_BTD: Tensor) -> dict[int, Tensor]:
        """Return layer 0 and random hidden states for the teacher's other layers."""
        generator = torch.Generator().manual_seed(2)
        layers = range(1, model.config.num_teacher_layers + 1)
        return {0: h0_BTD} | {layer: torch.randn(h0_BTD.shape, generator=generator) for layer in layers}

    def test_gdist_can_build_it(self, teacher: str) -> None:
        model = self.fresh(teacher)
        model.require_post_init()
        layers = model.predicted_layers
        assert layers == tuple(sorted(set(layers))) and 1 <= layers[0] <= layers[-1] <= self.depth(model)
        own, thrown = {id(p) for p in model.parameters()}, {id(p) for p in model.throwaway()}
        assert thrown < own, "throwaway() must return parameters of the model, but not all of them"
        assert 0 < model.num_parameters() <= model.num_parameters_with_heads()
        with torch.device("meta"):  # as `gdist students` sizes it
            assert self.fresh(teacher).num_parameters() == model.num_parameters()

    def test_outputs_the_teachers_shapes(self, teacher: str) -> None:
        model = self.make(teacher)
        waveform_BS, _ = sound([2000, 2000])
        with torch.no_grad():
            output = model(waveform_BS, output_hidden_states=True)
            last, states = model(waveform_BS, output_hidden_states=True, return_dict=False)
            assert model(waveform_BS).hidden_states is None
        assert len(output.hidden_states) == self.depth(model) + 1 == model.config.num_hidden_layers + 1
        shape = (2, int(model.frontend.num_frames(torch.tensor(2000))), model.config.hidden_size)
        assert all(h.shape == shape for h in output.hidden_states)
        assert torch.equal(output.last_hidden_state, output.hidden_states[-1])
        assert torch.equal(last, output.last_hidden_state) and torch.equal(states[0], output.hidden_states[0])

    def test_a_batch_equals_its_utterances_alone(self, teacher: str) -> None:
        model = self.make(teacher)
        waveform_BS, num_samples_B = sound([400, 719, 720, 5000])
        longer_BS = torch.nn.functional.pad(waveform_BS, (0, 1000))  # a batch may be padded beyond its longest
        mask_BS = (torch.arange(6000) < num_samples_B[:, None]).long()
        longest = int(model.frontend.num_frames(torch.tensor(6000)))
        with torch.no_grad():
            together = model(longer_BS, mask_BS, output_hidden_states=True).hidden_states
            for row, samples in enumerate(num_samples_B.tolist()):
                alone = model(waveform_BS[row : row + 1, :samples], output_hidden_states=True).hidden_states
                for hidden_BTD, alone_1TD in zip(together, alone, strict=True):
                    frames = alone_1TD.shape[1]
                    torch.testing.assert_close(hidden_BTD[row, :frames], alone_1TD[0], atol=1e-5, rtol=1e-5)
                    assert hidden_BTD.shape[1] == longest and not hidden_BTD[row, frames:].any()

    def test_padding_may_contain_anything(self, teacher: str) -> None:
        model = self.make(teacher)
        with torch.no_grad():
            h0_BTD, frames_B = self.layer_0(model, [400, 2000, 4000])
            louder_BTD = h0_BTD + 100 * (torch.arange(h0_BTD.shape[1]) >= frames_B[:, None])[:, :, None]
            quiet, loud = (model.predict(hidden_BTD, frames_B) for hidden_BTD in (h0_BTD, louder_BTD))
        torch.testing.assert_close(loud, quiet, atol=1e-5, rtol=1e-5)

    def test_too_few_samples_are_refused_in_words(self, teacher: str) -> None:
        model = self.make(teacher)
        fewest = model.frontend.framing.fewest
        with torch.no_grad(), refused(ValueError, f"at least {fewest} samples .* has {fewest - 1} in row 0;"):
            model(torch.zeros(1, fewest - 1))
        mask_BS = (torch.arange(2000) < torch.tensor([2000, fewest - 1, fewest, 0])[:, None]).long()
        with torch.no_grad(), refused(ValueError, f"has {fewest - 1} in row 1, 0 in row 3;"):
            model(torch.zeros(4, 2000), mask_BS)
        with torch.no_grad():
            assert model(torch.zeros(1, fewest)).last_hidden_state.shape[1] == 1

    def test_comes_back_from_disk_bit_for_bit(self, teacher: str, tmp_path: Path) -> None:
        model = self.make(teacher, dropout=0.3)
        save_student_to(tmp_path, model)
        again, loading = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
        ours, theirs = model.state_dict(), again.state_dict()
        assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
        same = {"_name_or_path": "", "dtype": None}
        assert again.config.to_dict() | same == model.config.to_dict() | same
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == model.config.model_type
        waveform_BS, _ = sound([3000])
        with torch.no_grad():
            expected = model(waveform_BS)[0]
            assert torch.equal(load_student(tmp_path).eval()(waveform_BS)[0], expected)
            # Hugging Face maps the weights from the file: with that alignment, a product's last bits may differ.
            torch.testing.assert_close(again.eval()(waveform_BS)[0], expected, atol=1e-6, rtol=1e-6)

    def test_a_step_predicts_its_plan_and_trains_every_parameter(self, teacher: str) -> None:
        model = self.make(teacher).train()
        h0_BTD, frames_B = self.layer_0(model, [1500, 3000])
        plan = model.plan(0, np.random.default_rng(0))
        prediction_BKTD = model.learn(plan, self.given_to(model, h0_BTD), frames_B)
        assert prediction_BKTD.shape == (2, len(plan.answers), *h0_BTD.shape[1:])
        assert plan.answers == model.predicted_layers == tuple(sorted(set(plan.answers)))
        assert not prediction_BKTD[0, :, int(frames_B[0]) :].any()
        prediction_BKTD.square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), f"{name} gets no gradient"

    def test_checkpointing_changes_no_gradient(self, teacher: str) -> None:
        waveform_BS, _ = sound([2000, 2000])
        found = []
        for on in (False, True):
            model = self.make(teacher, dropout=0.1).train()
            if on:
                model.gradient_checkpointing_enable()
            torch.manual_seed(3)
            model(waveform_BS).last_hidden_state.square().sum().backward()
            found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)

    def test_predicting_some_layers_equals_predicting_all(self, teacher: str) -> None:
        model = self.make(teacher)
        with torch.no_grad():
            h0_BTD, frames_B = self.layer_0(model, [2000, 4000])
            every = model.predict(h0_BTD, frames_B)
            layers = model.predicted_layers
            for chosen in ([layers[:2][-1]], sorted({layers[0], layers[-1]})):
                some = model.predict(h0_BTD, frames_B, chosen)
                expected = every[:, [layers.index(layer) for layer in chosen]]
                torch.testing.assert_close(some, expected, atol=1e-5, rtol=1e-5)

    def test_generation_stops_at_any_layer(self, teacher: str) -> None:
        model = self.make(teacher)
        waveform_BS, _ = sound([2000])
        with torch.no_grad():
            every = model(waveform_BS, output_hidden_states=True).hidden_states
            for last in (0, 1, self.depth(model) - 1):
                some = model(waveform_BS, last_layer=last, output_hidden_states=True).hidden_states
                assert len(some) == last + 1
                for one, other in zip(some, every, strict=False):
                    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)

    def test_layers_are_sampled_equally_often(self, teacher: str) -> None:
        model = self.make(teacher)
        layers = model.predicted_layers
        for count in {1, min(2, len(layers))}:
            rng = np.random.default_rng(1)
            plans = [model.plan(count, rng) for _ in range(600)]
            assert all(len(plan.answers) == count and set(plan.answers) <= set(layers) for plan in plans)
            seen = Counter(layer for plan in plans for layer in plan.answers)
            expected = 600 * count / len(layers)
            assert all(abs(seen[layer] - expected) < 5 * expected**0.5 for layer in layers), seen

    def test_bf16_autocast_gives_float32_and_stays_close(self, teacher: str) -> None:
        model = self.make(teacher)
        waveform_BS, _ = sound([4000, 4000])
        with torch.no_grad():
            exact = model(waveform_BS).last_hidden_state
            with torch.autocast("cpu", torch.bfloat16):
                rough = model(waveform_BS).last_hidden_state
        assert rough.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.995

    def test_loaded_in_half_precision_it_stays_close(self, teacher: str, dtype: torch.dtype) -> None:
        """As `from_pretrained(…, dtype=…)` loads it, also on a CPU."""
        model = self.make(teacher)
        waveform_BS, _ = sound([4000, 4000])
        with torch.no_grad():
            exact = model(waveform_BS).last_hidden_state
            rough = model.to(dtype)(waveform_BS.to(dtype)).last_hidden_state
        assert rough.dtype == dtype
        assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten().float(), dim=0) > 0.99

    def test_takes_the_teachers_front_end_and_layers_if_they_fit(self, teacher: str) -> None:
        model, other = self.make(teacher), self.fresh(teacher)
        tensors = other.frontend.state_dict()
        model.initialize_from_teacher(tensors)
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.frontend.state_dict().items())
        config, layers = model.config, list(model.layers())
        with refused(ValueError, "do not fit"):
            model.initialize_from_teacher(tensors, {"0.attention.q_proj.weight": torch.zeros(1)})
        shape = {**config.layer_shape, "hidden_size": config.hidden_size}
        theirs = [TransformerLayer(**shape).state_dict() for _ in range(max(len(layers), 1))]
        named = {f"{i}.{name}": tensor for i, state in enumerate(theirs) for name, tensor in state.items()}
        if layers and config.layer_width == config.hidden_size and self.takes_layers(model):
            model.initialize_from_teacher(tensors, named)
            for layer, state in zip(layers, theirs, strict=True):
                assert all(torch.equal(tensor, state[name]) for name, tensor in layer.state_dict().items())
        else:
            with refused(ValueError, "do not fit"):
                model.initialize_from_teacher(tensors, named)

    def takes_layers(self, model: Student) -> bool:
        """Return whether a teacher's layers fit into layers of the same width; they do not if layers share parts."""
        return True

    def test_exports(self, form: str, tmp_path: Path) -> None:
        """The export is written, loaded back, and compared utterance by utterance, as in `gdist export`."""
        if form == "onnx" and not onnx_library.available():
            skip('pip install "gdist[onnx]"')
        run = self.run_of(tmp_path / "run")
        out = tmp_path / "out"
        out.mkdir()
        at = Snapshot(run, 0, 0, run.student)
        what = Export(self.make(next(iter(self.teachers))), at, format_named(form).OPTIONS)
        write_and_compare(form, what, out)

    def run_of(self, folder: Path) -> Run:
        """Return a run to export this student from, without any training."""
        run = Run(folder)
        tables: TomlTables = {
            "student": {"name": self.student.__name__},
            "train": {"steps": 0},
            "loss": {"name": "l1"},
        }
        teacher = {"name": "tiny", "family": "wavlm", "fingerprint": "0" * 64, "params": 1}
        made = {"teacher": teacher, "cache": "none", "cache_checksum": "none", "encoding": "fp32"}
        run.begin(tables, {**made, "utterances": {}, "versions": {}})
        return run

    def depth(self, model: Student) -> int:
        return int(model.config.num_teacher_layers)
