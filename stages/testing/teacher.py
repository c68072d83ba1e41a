"""What every family of teachers must guarantee.

Axes: B batch, S samples, T frames, D features.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from gdist.stages.frontend.kinds import build_frontend, frontend_of
from gdist.stages.students import STUDENTS, student_config
from gdist.stages.teachers import FAMILIES, Teacher, load_teacher
from gdist.stages.testing.student import StudentSuite
from gdist.stages.testing.suite import Suite

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [24] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_buckets": 32,
    "max_bucket_distance": 40,
}
BASE: dict[str, Any] = {"feat_extract_norm": "group"}
LARGE: dict[str, Any] = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
LENGTHS = [400, 719, 720, 16_000, 12_345]


def sound(lengths: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    waveform_BS = torch.randn(len(lengths), max(lengths), generator=generator).clamp(-3, 3) * 0.1 + 0.05
    return waveform_BS, torch.tensor(lengths)


@torch.no_grad()
def scramble(model: Any) -> None:
    """Randomize parameters: new norms are the identity and new gates and biases nearly zero, which hides mistakes."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise * (1.0 if "rel_attn_embed" in name or "gru" in name else 0.1))
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.add_(torch.rand(buffer.shape, generator=generator))


def checkpoint(
    family: type[Teacher],
    fields: Mapping[str, Any],
    folder: Path,
    do_normalize: bool | None,
    small: Mapping[str, Any] = SMALL,
) -> Path:
    """Save a small random checkpoint in which every parameter matters."""
    torch.manual_seed(0)
    model = family.model_class(family.model_class.config_class(**{**small, **fields}))
    scramble(model)
    model.save_pretrained(folder)
    if do_normalize is not None:
        Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return folder


def loaded(family: type[Teacher], folder: Path, **options: Any) -> Teacher:
    """Load a checkpoint with gdist as this family, even if another family reads such checkpoints."""
    with FAMILIES.lent(family.model_class.config_class.model_type, family):
        return load_teacher(str(folder), **options)


States = Callable[[Any, Path, Tensor], Sequence[Tensor]]
"""(Hugging Face's model, its folder, an utterance ``[S]`` as recorded) → its hidden states, ``[1, T, D]`` each."""


def hugging_face_states(model: Any, folder: Path, alone_S: Tensor) -> Sequence[Tensor]:
    """The hidden states of a model that takes waveforms, normalized if the checkpoint's feature extractor does so."""
    prepared_S: Any = alone_S.numpy()
    if (folder / "preprocessor_config.json").exists():
        extractor = AutoFeatureExtractor.from_pretrained(folder)
        prepared_S = extractor(prepared_S, sampling_rate=16_000)["input_values"][0]
    states: Sequence[Tensor] = model(torch.from_numpy(np.asarray(prepared_S))[None], output_hidden_states=True)[
        "hidden_states"
    ]
    return states


def assert_equals_hugging_face(
    family: type[Teacher],
    folder: Path,
    waveform_BS: Tensor,
    num_samples_B: Tensor,
    atol: float = 1e-4,
    states: States = hugging_face_states,
    **options: Any,
) -> None:
    """Check that every hidden state of a batch equals Hugging Face's for that utterance alone.

    Args:
        states: how Hugging Face's hidden states are computed.
        **options: of ``load_teacher``.
    """
    teacher = loaded(family, folder, **options)
    mapping = dict(family.key_mapping) or None
    reference = family.model_class.from_pretrained(folder, dtype=torch.float32, key_mapping=mapping).eval()
    assert teacher.num_params == reference.num_parameters()
    layers = list(teacher.hidden_states(waveform_BS, num_samples_B))
    assert len(layers) == teacher.num_layers + 1
    frames = teacher.framing.num_frames(int(num_samples_B.max()))
    assert all(h.shape == (len(waveform_BS), frames, teacher.dim) and h.dtype == torch.float32 for h in layers)
    for row, samples in enumerate(num_samples_B.tolist()):
        with torch.inference_mode():
            theirs = states(reference, folder, waveform_BS[row, :samples])
        for hidden_BTD, reference_1TD in zip(layers, theirs, strict=True):
            count = reference_1TD.shape[1]
            assert count == teacher.framing.num_frames(samples)
            torch.testing.assert_close(hidden_BTD[row, :count], reference_1TD[0], atol=atol, rtol=1e-5)
            assert not hidden_BTD[row, count:].any()


class TeacherSuite(Suite):
    """A family equals Hugging Face for each utterance alone, and passes its weights on to students.

    Attributes:
        teacher: the subclass of ``Teacher``.
        small: fields of a small model's Hugging Face config.
        layouts: label → fields of its Hugging Face config that replace those of a small model: one label for every
            form that gdist should read, such as Base and Large.
        lengths: samples of the utterances of a ragged batch.
        options: of ``load_teacher``.
    """

    teacher: ClassVar[type[Teacher]]
    small: ClassVar[Mapping[str, Any]] = SMALL
    layouts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"base": BASE, "large": LARGE}
    lengths: ClassVar[Sequence[int]] = LENGTHS
    options: ClassVar[Mapping[str, Any]] = {}

    def cases(self) -> Mapping[str, Iterable[Any]]:
        normalize = (False, True) if self.teacher.may_normalize else (False,)
        return {"layout": self.layouts, "do_normalize": normalize, "form": ("hf", "s3prl")}

    def saved(self, layout: str, folder: Path, do_normalize: bool = False) -> Path:
        """Save a small checkpoint of this layout."""
        wanted = do_normalize if self.teacher.may_normalize else None
        return checkpoint(self.teacher, self.layouts[layout], folder, wanted, self.small)

    def states(self, model: Any, folder: Path, alone_S: Tensor) -> Sequence[Tensor]:
        """Return Hugging Face's hidden states of one utterance; see :data:`States`."""
        return hugging_face_states(model, folder, alone_S)

    def compare(self, folder: Path, lengths: Sequence[int]) -> None:
        """Check a batch of utterances of these lengths."""
        assert_equals_hugging_face(self.teacher, folder, *sound(list(lengths)), states=self.states, **self.options)

    def test_equals_hugging_face_for_each_utterance_alone(
        self, layout: str, do_normalize: bool, tmp_path: Path
    ) -> None:
        self.compare(self.saved(layout, tmp_path, do_normalize), self.lengths)

    def test_equal_lengths_take_the_unpadded_path_and_equal_it_too(self, layout: str, tmp_path: Path) -> None:
        self.compare(self.saved(layout, tmp_path), [5000, 5000])

    def test_passes_its_front_end_and_layers_to_students(self, layout: str, tmp_path: Path) -> None:
        teacher = loaded(self.teacher, self.saved(layout, tmp_path), **self.options)
        assert teacher.family == self.teacher.model_class.config_class.model_type
        assert json.loads(json.dumps(teacher.config)) == teacher.config
        frontend = build_frontend(frontend_of(teacher.config))
        frontend.load_state_dict(teacher.frontend_tensors())
        waveform_BS, num_samples_B = sound([1000, 3000])
        with torch.no_grad():
            expected_BTD = next(iter(teacher.hidden_states(waveform_BS, num_samples_B)))
            torch.testing.assert_close(frontend(waveform_BS, num_samples_B), expected_BTD)
        for name, model_class in STUDENTS.own.items():
            student = model_class(student_config(name, teacher.config))
            as_wide = student.config.layer_width == student.config.hidden_size and teacher.layer_tensors(1)
            student.initialize_from_teacher(teacher.frontend_tensors(), teacher.layer_tensors(2) if as_wide else None)

    def test_students_of_it_predict_and_learn(self, layout: str, tmp_path: Path) -> None:
        teacher = loaded(self.teacher, self.saved(layout, tmp_path), **self.options)
        waveform_BS, num_samples_B = sound([2000, 3000])
        states = dict(enumerate(teacher.hidden_states(waveform_BS, num_samples_B)))
        num_frames_B = teacher.framing.num_frames(num_samples_B)
        given = {layer: hidden_BTD.clone() for layer, hidden_BTD in states.items()}  # no tensors of inference mode
        for name, model_class in STUDENTS.own.items():
            torch.manual_seed(0)
            student = model_class(student_config(name, teacher.config))
            with torch.no_grad():
                found = student.eval()(waveform_BS[:, :2000], output_hidden_states=True).hidden_states
            assert [h.shape for h in found] == [h[:, : int(num_frames_B[0])].shape for h in states.values()]
            h0_BTD = student.train().frontend(waveform_BS, num_samples_B)
            plan = student.plan(0, np.random.default_rng(0))
            loss = student.learn(plan, given | {0: h0_BTD}, num_frames_B).square().sum()
            torch.autograd.backward(loss)
            for parameter_name, parameter in student.frontend.named_parameters():
                assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), (
                    f"{name}: {parameter_name}"
                )

    def test_a_student_of_it_is_exported(self, form: str, tmp_path: Path) -> None:
        """Of the first layout; an export is loaded back and compared."""
        layout = next(iter(self.layouts))
        teacher = loaded(self.teacher, self.saved(layout, tmp_path / "teacher"), **self.options)

        class Exported(StudentSuite):
            student = STUDENTS.own["gendistiller"]
            teachers: ClassVar[Mapping[str, dict[str, Any]]] = {layout: teacher.config}

        Exported().test_exports(form, tmp_path)

    def test_the_same_bytes_have_the_same_fingerprint(self, layout: str, tmp_path: Path) -> None:
        folder = self.saved(layout, tmp_path)
        fingerprint = loaded(self.teacher, folder).fingerprint
        assert re.fullmatch("[0-9a-f]{64}", fingerprint)
        assert loaded(self.teacher, folder).fingerprint == fingerprint
