"""What every family of teachers must guarantee.

Axes: B batch, S samples, T frames, D features.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from gdist.stages.frontend.config import FrontendConfig
from gdist.stages.frontend.frontend import Frontend
from gdist.stages.students import STUDENTS, student_config
from gdist.stages.teachers import FAMILIES, Teacher, load_teacher
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


def checkpoint(family: type[Teacher], fields: Mapping[str, Any], folder: Path, do_normalize: bool | None) -> Path:
    """Save a small random checkpoint in which every parameter matters."""
    torch.manual_seed(0)
    model = family.model_class(family.model_class.config_class(**{**SMALL, **fields}))
    scramble(model)
    model.save_pretrained(folder)
    if do_normalize is not None:
        Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return folder


def loaded(family: type[Teacher], folder: Path, **options: Any) -> Teacher:
    """Load a checkpoint with gdist as this family, even if another family reads such checkpoints."""
    with FAMILIES.lent(family.model_class.config_class.model_type, family):
        return load_teacher(str(folder), **options)


def assert_equals_hugging_face(
    family: type[Teacher], folder: Path, waveform_BS: Tensor, num_samples_B: Tensor, atol: float = 1e-4
) -> None:
    """Check that every hidden state of a batch equals Hugging Face's for that utterance alone."""
    teacher = loaded(family, folder)
    reference = family.model_class.from_pretrained(folder, dtype=torch.float32).eval()
    assert teacher.num_params == reference.num_parameters()
    layers = list(teacher.hidden_states(waveform_BS, num_samples_B))
    assert len(layers) == teacher.num_layers + 1
    frames = teacher.framing.num_frames(int(num_samples_B.max()))
    assert all(h.shape == (len(waveform_BS), frames, teacher.dim) and h.dtype == torch.float32 for h in layers)
    for row, samples in enumerate(num_samples_B.tolist()):
        alone_S: Any = waveform_BS[row, :samples].numpy()
        if teacher.do_normalize:
            extractor = AutoFeatureExtractor.from_pretrained(folder)
            alone_S = extractor(alone_S, sampling_rate=16_000)["input_values"][0]
        with torch.inference_mode():
            theirs = reference(torch.from_numpy(np.asarray(alone_S))[None], output_hidden_states=True).hidden_states
        for hidden_BTD, reference_1TD in zip(layers, theirs, strict=True):
            count = reference_1TD.shape[1]
            torch.testing.assert_close(hidden_BTD[row, :count], reference_1TD[0], atol=atol, rtol=1e-5)
            assert not hidden_BTD[row, count:].any()


class TeacherSuite(Suite):
    """A family equals Hugging Face for each utterance alone, and passes its weights on to students.

    Attributes:
        teacher: the subclass of ``Teacher``.
        layouts: label → fields of its Hugging Face config that replace those of a small model: one label for every
            form that gdist should read, such as Base and Large.
    """

    teacher: ClassVar[type[Teacher]]
    layouts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"base": BASE, "large": LARGE}

    def cases(self) -> Mapping[str, Iterable[Any]]:
        return {"layout": self.layouts, "do_normalize": (False, True)}

    def saved(self, layout: str, folder: Path, do_normalize: bool = False) -> Path:
        return checkpoint(self.teacher, self.layouts[layout], folder, do_normalize)

    def test_equals_hugging_face_for_each_utterance_alone(
        self, layout: str, do_normalize: bool, tmp_path: Path
    ) -> None:
        assert_equals_hugging_face(self.teacher, self.saved(layout, tmp_path, do_normalize), *sound(LENGTHS))

    def test_equal_lengths_take_the_unpadded_path_and_equal_it_too(self, layout: str, tmp_path: Path) -> None:
        assert_equals_hugging_face(self.teacher, self.saved(layout, tmp_path), *sound([5000, 5000]))

    def test_passes_its_front_end_and_layers_to_students(self, layout: str, tmp_path: Path) -> None:
        teacher = loaded(self.teacher, self.saved(layout, tmp_path))
        assert teacher.family == self.teacher.model_class.config_class.model_type
        assert json.loads(json.dumps(teacher.config)) == teacher.config
        frontend = Frontend(FrontendConfig.from_teacher_config(teacher.config))
        frontend.load_state_dict(teacher.frontend_tensors())
        waveform_BS, num_samples_B = sound([1000, 3000])
        with torch.no_grad():
            expected_BTD = next(iter(teacher.hidden_states(waveform_BS, num_samples_B)))
            torch.testing.assert_close(frontend(waveform_BS, num_samples_B), expected_BTD)
        for name, model_class in STUDENTS.own.items():
            student = model_class(student_config(name, teacher.config))
            as_wide = student.config.layer_width == student.config.hidden_size
            student.initialize_from_teacher(teacher.frontend_tensors(), teacher.layer_tensors(2) if as_wide else None)

    def test_the_same_bytes_have_the_same_fingerprint(self, layout: str, tmp_path: Path) -> None:
        folder = self.saved(layout, tmp_path)
        fingerprint = loaded(self.teacher, folder).fingerprint
        assert re.fullmatch("[0-9a-f]{64}", fingerprint)
        assert loaded(self.teacher, folder).fingerprint == fingerprint
