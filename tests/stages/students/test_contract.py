"""What code written for `WavLMModel` touches, tried on it and on every student: the same, or a refusal in words.

`CONTRACT` is the table. Each row observes one thing of a model; what it observes must be equal for the teacher and
the student, unless the row says what the student refuses. docs/export.md has the table, and a test compares the two.
"""

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForAudioXVector,
    AutoModelForCTC,
    PreTrainedModel,
    WavLMConfig,
    WavLMModel,
)
from transformers.models.wavlm.modeling_wavlm import _compute_mask_indices

from gdist.stages.students import STUDENTS, student_config
from gdist.stages.students.heads import HEADS
from gdist.stages.students.spec_augment import spans
from gdist.stages.testing.student import tiny_teachers
from gdist.stages.testing.suite import disturb

DOCS = Path(__file__).parents[3] / "docs" / "export.md"
TEACHER = tiny_teachers(4)["base"]
NO_DROPOUT = dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop"), 0.0)
QUIET = NO_DROPOUT | {"mask_time_prob": 0.0}  # a student's own defaults: nothing is masked unless someone asks
SPEECH_BS = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
MASK_BS = (torch.arange(8000) < torch.tensor([[8000], [5300]])).long()
FRAMES = 24


def teacher(**fields: Any) -> Any:
    torch.manual_seed(0)
    return WavLMModel(WavLMConfig(**(TEACHER | QUIET | fields))).eval()


def student(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    config = student_config(name, TEACHER)
    for key, value in (NO_DROPOUT | fields).items():
        setattr(config, key, value)  # as Hugging Face's scripts do it
    model = STUDENTS[name](config).eval()
    disturb(model)  # as after some training: an output layer that is zero would hide what is before it
    return model


type Model = Callable[..., Any]  # fields of the config → a model with them


@dataclass(frozen=True)
class Row:
    """One thing that users touch.

    Attributes:
        what: it, as users write it.
        means: what it does, in both.
        observe: returns what can be compared.
        refused: what the student says instead; None where it does the same.
    """

    what: str
    means: str
    observe: Callable[[Model], Any]
    refused: str | None = None


def shapes(found: Any) -> Any:
    if isinstance(found, Tensor):
        return tuple(found.shape)
    if isinstance(found, (list, tuple)):
        return [shapes(each) for each in found]
    return found


def run(model: Any, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        return model(*args, **kwargs)


def states_with(**kwargs: Any) -> Callable[[Model], Any]:
    return lambda make: shapes(run(make(), SPEECH_BS, **kwargs).hidden_states)


def padded_frames(make: Model) -> Any:
    output = run(make(), SPEECH_BS, MASK_BS)
    return shapes(output.last_hidden_state)


def is_silent_in_training(make: Model, **fields: Any) -> bool:
    """Whether training mode gives what evaluation gives."""
    model = make(**fields)
    expected = run(model, SPEECH_BS).last_hidden_state
    torch.manual_seed(1)
    return bool(torch.equal(run(model.train(), SPEECH_BS).last_hidden_state, expected))


def silent_with(field: str) -> Callable[[Model], bool]:
    return lambda make: is_silent_in_training(make, **{field: 0.5})


def masked_frames(make: Model) -> Any:
    """Given frames become one and the same vector, in evaluation too; without positions that would be layer 0."""
    model = make(mask_time_prob=0.5)
    indices_BT = torch.zeros(2, FRAMES, dtype=torch.bool)
    indices_BT[:, 3:9] = True
    seen, plain = (run(model, SPEECH_BS, mask_time_indices=given).last_hidden_state for given in (indices_BT, None))
    return shapes(model.masked_spec_embed), bool(torch.equal(seen, plain))


def layers_skipped(make: Model) -> bool:
    """Training skips layers, and evaluation does not."""
    model = make(layerdrop=1.0)
    ran: list[int] = []
    for module in model.modules():
        if type(module).__name__.endswith("FeedForward"):
            module.register_forward_hook(lambda *_: ran.append(1))
    run(model, SPEECH_BS)
    every = len(ran)
    run(model.train(), SPEECH_BS)
    return len(ran) - every < every


def gradients(make: Model) -> Any:
    """With checkpointing and without: the same gradients, of less memory."""

    def backward(checkpointed: bool) -> tuple[list[Tensor], int]:
        model = make().train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        kept = 0

        def note(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(SPEECH_BS).last_hidden_state.square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None], kept

    (plain, much), (again, little) = backward(False), backward(True)
    close = all(torch.allclose(one, other, atol=1e-6) for one, other in zip(plain, again, strict=True))
    return close, little < much / 2


def gradient_switch(make: Model) -> Any:
    model = make()
    model.gradient_checkpointing_enable()
    before = model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()
    return before, model.is_gradient_checkpointing


def encoder_frozen(make: Model) -> Any:
    """What is frozen, by shape: the convolutions and their norm, and not the projection or the positions."""
    model = make()
    model.freeze_feature_encoder()
    return sorted(tuple(p.shape) for p in model.parameters() if not p.requires_grad)


def saved(make: Model) -> Any:
    model = make()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder).eval()
    same = torch.allclose(run(again, SPEECH_BS)[0], run(model, SPEECH_BS)[0], atol=1e-6)
    return bool(same)


def half(make: Model, dtype: torch.dtype) -> Any:
    model = make().to(dtype)
    return model.dtype, run(model, SPEECH_BS.to(dtype)).last_hidden_state.dtype


def traced(make: Model) -> Any:
    model = make(return_dict=False)
    with torch.no_grad():
        graph = torch.jit.trace(  # type: ignore[no-untyped-call]
            model, (SPEECH_BS, MASK_BS), check_trace=False
        )
    other_BS, mask_BS = torch.randn(2, 8000), torch.ones(2, 8000, dtype=torch.long)
    difference = (run(graph, other_BS, mask_BS)[0] - run(model, other_BS, mask_BS)[0]).abs().max()
    return bool(difference < 1e-4)


def compiled(make: Model) -> Any:
    model = make()
    found = run(torch.compile(model, backend="eager"), SPEECH_BS).last_hidden_state
    return bool(torch.allclose(found, run(model, SPEECH_BS).last_hidden_state, atol=1e-5))


CONTRACT = (
    Row("model(x).last_hidden_state", "the last layer, `[B, T, D]`", lambda make: shapes(run(make(), SPEECH_BS)[0])),
    Row("model(x).hidden_states", "None unless asked for", lambda make: run(make(), SPEECH_BS).hidden_states),
    Row("output_hidden_states=True", "L + 1 tensors", states_with(output_hidden_states=True)),
    Row(
        "output_hidden_states=[0, -1]",
        "those alone, and None for the others",
        states_with(output_hidden_states=[0, -1]),
    ),
    Row("output_hidden_states=2", "that one alone, and None for the others", states_with(output_hidden_states=2)),
    Row(
        "config.output_hidden_states",
        "is the default of the argument",
        lambda make: shapes(run(make(output_hidden_states=True), SPEECH_BS).hidden_states),
    ),
    Row(
        "return_dict=False",
        "a tuple, with the last layer first",
        lambda make: type(run(make(), SPEECH_BS, return_dict=False)) is tuple,
    ),
    Row(
        "config.return_dict",
        "is the default of the argument",
        lambda make: type(run(make(return_dict=False), SPEECH_BS)) is tuple,
    ),
    Row("attention_mask", "frames beyond an utterance are padding, of the same shape", padded_frames),
    Row(
        "mask_time_indices",
        "these frames become `masked_spec_embed`, in evaluation too",
        masked_frames,
    ),
    Row(
        "config.mask_time_prob, mask_time_length, mask_time_min_masks",
        "SpecAugment over time, in training",
        lambda make: is_silent_in_training(make, mask_time_prob=0.5),
    ),
    Row(
        "config.apply_spec_augment",
        "False turns it off",
        lambda make: is_silent_in_training(make, mask_time_prob=0.5, apply_spec_augment=False),
    ),
    Row(
        "config.mask_feature_prob, mask_feature_length, mask_feature_min_masks",
        "SpecAugment over features, in training",
        lambda make: is_silent_in_training(make, mask_feature_prob=0.5, mask_feature_min_masks=0),
    ),
    *(
        Row(f"config.{field}", f"{where}, in training", silent_with(field))
        for field, where in (
            ("hidden_dropout", "dropout on residual branches"),
            ("activation_dropout", "dropout inside the feed-forward networks"),
            ("attention_dropout", "dropout on attention weights"),
            ("feat_proj_dropout", "dropout on the projected features"),
        )
    ),
    Row("all of these at 0", "training computes what evaluation does", is_silent_in_training),
    Row("config.layerdrop", "skips Transformer layers, in training", layers_skipped),
    Row("gradient_checkpointing_enable()", "the same gradients, from less than half the memory", gradients),
    Row("is_gradient_checkpointing", "says whether it is on", gradient_switch),
    Row("freeze_feature_encoder()", "freezes the convolutions, and nothing behind them", encoder_frozen),
    Row(
        "_get_feat_extract_output_lengths(samples)",
        "frames of so many samples",
        lambda make: make()._get_feat_extract_output_lengths(torch.arange(400, 3000, 7)).tolist(),
    ),
    Row(
        "_get_feature_vector_attention_mask(frames, mask)",
        "the mask of frames",
        lambda make: make()._get_feature_vector_attention_mask(FRAMES, MASK_BS).long().tolist(),
    ),
    Row("config.inputs_to_logits_ratio", "samples per frame", lambda make: make().config.inputs_to_logits_ratio),
    Row("config.num_hidden_layers", "L", lambda make: make().config.num_hidden_layers),
    Row("config.hidden_size", "D", lambda make: make().config.hidden_size),
    Row("main_input_name", "`input_values`", lambda make: make().main_input_name),
    Row("base_model", "the model itself", lambda make: (model := make()).base_model is model),
    Row("save_pretrained, from_pretrained", "the same outputs again", saved),
    Row("model.to(torch.float16), .dtype", "outputs in that dtype", lambda make: half(make, torch.float16)),
    Row("model.to(torch.bfloat16)", "outputs in that dtype", lambda make: half(make, torch.bfloat16)),
    Row("torch.jit.trace", "with `return_dict=False`; for other speech of that length", traced),
    Row("torch.compile", "the same outputs", compiled),
    Row(
        "an argument that does not exist",
        "is ignored",
        lambda make: run(make(), SPEECH_BS, atention_mask=MASK_BS),
        "unexpected keyword argument 'atention_mask'",
    ),
    Row(
        "output_attentions=True",
        "attention maps",
        lambda make: run(make(), SPEECH_BS, output_attentions=True).attentions,
        "a student gives no attention maps",
    ),
    Row(
        "config.output_attentions",
        "attention maps",
        lambda make: run(make(output_attentions=True), SPEECH_BS).attentions,
        "a student gives no attention maps",
    ),
    Row(
        "config.add_adapter",
        "convolutions after the last layer",
        lambda make: make(add_adapter=True).adapter,
        "a student has no adapter",
    ),
    Row("model.encoder", "its layers", lambda make: make().encoder, "its Transformer layers are in .layers()"),
    Row(
        "model.feature_extractor",
        "its convolutions",
        lambda make: make().feature_extractor,
        "its convolutions are a part of .frontend",
    ),
    Row(
        "model.feature_projection",
        "its projection",
        lambda make: make().feature_projection,
        "it is a part of .frontend",
    ),
    Row(
        "model(x).extract_features",
        "features before the projection",
        lambda make: run(make(), SPEECH_BS).extract_features,
        "extract_features",
    ),
)


@pytest.mark.parametrize("name", list(STUDENTS))
@pytest.mark.parametrize("row", CONTRACT, ids=lambda row: row.what)
def test_the_same_or_refused_in_words(row: Row, name: str) -> None:
    def make(**fields: Any) -> Any:
        return student(name, **fields)

    if row.refused is not None:
        with pytest.raises((ValueError, AttributeError, TypeError), match=re.escape(row.refused)):
            row.observe(make)
        return
    assert row.observe(make) == row.observe(teacher)


def test_the_documentation_has_this_table() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    absent = [line for line in table() if line not in lines]
    assert not absent, "docs/export.md lacks these rows:\n" + "\n".join(absent)


def table() -> list[str]:
    """The rows of docs/export.md."""
    said = {True: "the same", False: "refused"}
    return [f"| `{row.what}` | {row.means} | {said[row.refused is None]} |" for row in CONTRACT]


# --- heads --------------------------------------------------------------------------------------------------------


class InPlaceOfAStudent(nn.Module):
    """A `WavLMModel` that is called as a student is: the head on it must answer as the head of transformers does."""

    def __init__(self, model: WavLMModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_values: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Any:
        return self.model(input_values, attention_mask, **kwargs)

    def _get_feat_extract_output_lengths(self, samples: Any, add_adapter: bool | None) -> Any:
        return self.model._get_feat_extract_output_lengths(samples, add_adapter)


LABELS = {
    "AutoModelForCTC": torch.tensor([[3, 4, 4, 5], [6, 7, -100, -100]]),
    "AutoModelForAudioClassification": torch.tensor([1, 2]),
    "AutoModelForAudioFrameClassification": nn.functional.one_hot(torch.arange(2 * FRAMES).view(2, -1) % 3),
    "AutoModelForAudioXVector": torch.tensor([1, 2]),
}
AUTO = {
    "AutoModelForCTC": AutoModelForCTC,
    "AutoModelForAudioClassification": AutoModelForAudioClassification,
    "AutoModelForAudioFrameClassification": AutoModelForAudioFrameClassification,
    "AutoModelForAudioXVector": AutoModelForAudioXVector,
}
SMALL = {"num_labels": 3, "tdnn_dim": [8, 8, 8, 8, 12], "xvector_output_dim": 10, "classifier_proj_size": 6}


def with_head(auto: str, name: str = "gendistiller", **fields: Any) -> Any:
    config = student_config(name, TEACHER)
    for key, value in (NO_DROPOUT | SMALL | {"final_dropout": 0.0} | fields).items():
        setattr(config, key, value)
    torch.manual_seed(1)
    return AUTO[auto].from_config(config)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("auto", list(HEADS))
def test_a_head_answers_as_that_of_transformers(auto: str, weighted: bool) -> None:
    """On the same hidden states: logits, embeddings and loss, and every gradient of the head."""
    if weighted and auto == "AutoModelForCTC":
        pytest.skip("WavLMForCTC has no weighted sum, which a student's head for CTC has")
    fields = QUIET | SMALL | {"final_dropout": 0.0, "use_weighted_layer_sum": weighted}
    torch.manual_seed(0)
    theirs: Any = AUTO[auto].from_config(WavLMConfig(**(TEACHER | fields)))
    ours = with_head(auto, use_weighted_layer_sum=weighted)
    head = {key: tensor for key, tensor in theirs.state_dict().items() if not key.startswith("wavlm.")}
    missing, unexpected = ours.load_state_dict(head, strict=False)
    assert not unexpected and all(key.startswith("student.") for key in missing), "modules have the same names"
    ours.student = InPlaceOfAStudent(theirs.wavlm)
    masks = [None] if auto == "AutoModelForAudioXVector" else [None, MASK_BS]  # see the next test
    for mask_BS in masks:
        found, expected = (each(SPEECH_BS, mask_BS, labels=LABELS[auto]) for each in (ours, theirs))
        assert list(found) == list(expected)
        for key in found:
            torch.testing.assert_close(found[key], expected[key], atol=1e-6, rtol=1e-6)
        for one in (found, expected):
            one.loss.backward()
        gradients = dict(theirs.named_parameters())
        for key, parameter in ours.named_parameters():
            if key in head:
                torch.testing.assert_close(parameter.grad, gradients[key].grad, atol=1e-6, rtol=1e-5)
        ours.zero_grad()
        theirs.zero_grad()


@pytest.mark.parametrize("name", list(STUDENTS))
@pytest.mark.parametrize("auto", list(HEADS))
def test_a_head_in_a_padded_batch_answers_as_alone(auto: str, name: str) -> None:
    """In WavLMForXVector, statistics over time include frames that saw padding; not here."""
    model = with_head(auto, name, use_weighted_layer_sum=True).eval()
    disturb(model)
    together = run(model, SPEECH_BS, MASK_BS)
    for row, samples in enumerate((8000, 5300)):
        alone = run(model, SPEECH_BS[row : row + 1, :samples])
        frames = model._get_feat_extract_output_lengths(samples)
        in_frames = alone.logits.dim() == 3
        found = together.logits[row : row + 1, :frames] if in_frames else together.logits[row : row + 1]
        torch.testing.assert_close(found, alone.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("auto", list(HEADS))
def test_a_head_behaves_as_people_know(auto: str, tmp_path: Path) -> None:
    model = with_head(auto)
    assert model.base_model is model.student and model.base_model_prefix == "student"
    assert run(model, SPEECH_BS).hidden_states is None
    states = run(model, SPEECH_BS, output_hidden_states=True).hidden_states
    assert len(states) == model.config.num_hidden_layers + 1
    assert type(run(model, SPEECH_BS, return_dict=False)) is tuple
    with pytest.raises(ValueError, match="attention maps"):
        run(model, SPEECH_BS, output_attentions=True)
    model.freeze_feature_encoder()
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(key.startswith(("student.frontend.convs", "student.frontend.norms")) for key in frozen)
    model.freeze_base_model()
    assert not any(p.requires_grad for p in model.student.parameters())
    assert all(p.requires_grad for key, p in model.named_parameters() if not key.startswith("student."))
    model.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path)  # the student without its head, with the weights that it has now
    ours = model.student.state_dict()
    assert type(base) is STUDENTS["gendistiller"]
    assert all(torch.equal(tensor, ours[key]) for key, tensor in base.state_dict().items())
    again: PreTrainedModel = AUTO[auto].from_pretrained(tmp_path)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())


def test_what_a_head_refuses() -> None:
    with pytest.raises(ValueError, match="vocab_size is 32"):
        with_head("AutoModelForCTC")(SPEECH_BS, labels=torch.tensor([[32], [1]]))
    with pytest.raises(ValueError, match="has 4 frames; an x-vector needs 16"):
        with_head("AutoModelForAudioXVector")(SPEECH_BS[:, :1600])
    with pytest.raises(ValueError, match="last_layer is 5; it must be a whole number from 0 to 4"):
        student("gendistiller")(SPEECH_BS, last_layer=5)
    with pytest.raises(ValueError, match="attention_mask is 2 × 7000, and input_values 2 × 8000"):
        student("gendistiller")(SPEECH_BS, MASK_BS[:, :7000])
    with pytest.raises(ValueError, match="mask_time_indices is 2 × 3; the frames of this batch are 2 × 24"):
        student("gendistiller", mask_time_prob=0.1)(SPEECH_BS, mask_time_indices=torch.ones(2, 3))
    with pytest.raises(ValueError, match="needs a model with mask_time_prob"):
        student("gendistiller")(SPEECH_BS, mask_time_indices=torch.ones(2, FRAMES))
    with pytest.raises(ValueError, match=r"mask_time_prob is 1\.5"):
        student("gendistiller", mask_time_prob=1.5)


@pytest.mark.parametrize("frames", [24, 200, 1500])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_as_many_frames_are_masked_as_in_transformers(frames: int, share: float) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    lengths = [frames, frames * 2 // 3]
    attention_BT = (torch.arange(frames) < torch.tensor(lengths)[:, None]).long()
    ours = torch.stack([spans(lengths, frames, share, 10, 2) for _ in range(400)]).float()
    theirs = torch.stack(
        [torch.from_numpy(_compute_mask_indices((2, frames), share, 10, attention_BT, 2)) for _ in range(400)]
    ).float()
    assert not ours[:, 1, lengths[1] :].any(), "padding is not masked"
    for row in range(2):
        assert ours[:, row].mean() == pytest.approx(float(theirs[:, row].mean()), rel=0.05)
