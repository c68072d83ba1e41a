"""What every student is: a Hugging Face model that predicts its teacher's hidden states.

Training uses ``frontend``, ``plan`` and ``learn``, and evaluation uses ``predict``. All other code calls the model as
it would call the teacher: see :mod:`gdist.stages.students.speech_model`. A student must have, in one file:

- a subclass of :class:`StudentConfig` with a ``model_type`` that no other model uses, and its own fields with types
  and defaults, which ``--set student.FIELD=VALUE`` sets; it becomes a dataclass automatically;
- a subclass of :class:`Student` at the top level of the file, whose ``config_class`` is that config, whose
  ``__init__(self, config)`` begins with ``super().__init__(config)`` and ends with ``self.post_init()``, and which
  defines :meth:`Student.predict`. Its state is in the modules that it makes: their weights are saved and loaded.

If an inherited default does not fit, it may also define:

- ``config.own_layers()``: the teacher layers it predicts unless ``student.predict_layers`` is set; by default, all;
- ``throwaway()``: the parameters that only distillation needs, such as heads; by default, none;
- ``layers()``: each :class:`TransformerLayer` that a teacher's layer may be loaded into, in order; by default, none;
- ``config.layer_width``: the width of these layers; by default, the teacher's;
- ``config.own_fields``: common fields that keep its own defaults instead of the teacher's values; by default, none;
- ``plan``, ``learn`` and ``teacher_ratio``: for students that step from layer to layer;
- ``_init_weights(module)``: how weights are initialized.

The classes with a head for fine-tuning (:mod:`gdist.stages.students.heads`) are made for it, and so are its exports.
For these, the file imports only torch, transformers and gdist.stages, the last with ``from … import …``. For ONNX,
``predict`` must not depend on values in a tensor, because ``torch.export`` could not trace it.
``gdist.stages.testing.StudentSuite`` checks all of this.

A student may learn from several teachers if it says so (``several_teachers``) and defines ``predict_each``, since
their layers may differ in width. All layers are then numbered one after another; see :class:`OfTeacher`.

Axes: B batch, S samples, T frames, K predicted layers, L teacher layers, D features.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import initialization as init

from gdist.stages.students.configuration import OfTeacher, StudentConfig
from gdist.stages.students.layer import TransformerLayer, difference, tensors_of
from gdist.stages.students.speech_model import SpeechModel

__all__ = ["StepPlan", "Student", "StudentConfig"]


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """What a training step starts from and what it predicts.

    Attributes:
        answers: the teacher layers that are predicted, ascending.
        inputs: the hidden states that the step receives; 0 is the front-end's output, the others are the teacher's.
        runs: for students that step from layer to layer, the (first, last) places of each stretch that the student
            walks on its own; see :mod:`gdist.stages.students.gendistiller`. Empty means generation from layer 0.
        parts: for such students of several teachers, the plan for each teacher by its own numbers; None where nothing
            of it is predicted.
    """

    answers: tuple[int, ...]
    inputs: tuple[int, ...] = (0,)
    runs: tuple[tuple[int, int], ...] = ()
    parts: tuple["StepPlan | None", ...] = ()


class Student(SpeechModel):
    """A front-end, and ``predict``: layer 0 → predictions of the teacher's layers."""

    several_teachers: ClassVar[bool] = False
    _initialized: frozenset[str] = frozenset()

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        self.teachers = config.teachers()
        if len(self.teachers) > 1 and not self.several_teachers:
            raise ValueError(f"other_teachers: {type(self).__name__} learns from one teacher")

    def post_init(self) -> None:
        """Initialize the weights; the last line of ``__init__``, after every module has been made."""
        super().post_init()
        self._initialized = frozenset(name for name, _ in self.named_parameters())

    def require_post_init(self) -> None:
        """Raise TypeError if ``__init__`` did not end with ``self.post_init()``.

        Hugging Face's ``post_init`` initializes the weights with ``_init_weights``, and is needed to save and load
        the model. Without it, training would run for hours, and then saving would fail with an AttributeError.
        """
        late = [name for name, _ in self.named_parameters() if name not in self._initialized]
        if late:
            more = f" and {len(late) - 1} more" if late[1:] else ""
            raise TypeError(
                f"{type(self).__name__}.__init__ must end with self.post_init(), which initializes the weights made "
                f"before it: it was not called for {late[0]}{more}"
            )

    def predict(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """Predictions of the teacher's layers from layer 0, each from the student's own states alone.

        An utterance's predictions are the same in any batch: what lies in its padding changes nothing.

        Args:
            h0_BTD: the front-end's output, or the teacher's cached layer 0 when the front-end is frozen.
            num_frames_B: frames of each utterance; best kept on the CPU.
            layers: which of ``predicted_layers``, ascending, and of one teacher; None for all of the first teacher's.
                No more is computed than they need.

        Returns:
            ``prediction_BKTD`` in the dtype of ``h0_BTD``, float32 under autocast, with padding at zero.
        """
        raise NotImplementedError

    def predict_each(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Do what :meth:`predict` does for layers of any teachers: ``prediction_BTD`` of each."""
        return list(self.predict(h0_BTD, num_frames_B, layers).unbind(1))

    def plan(self, count: int, rng: np.random.Generator) -> StepPlan:
        """Choose what one training step predicts: ``count`` of the predicted layers, each equally often."""
        layers = self.predicted_layers
        chosen = rng.permutation(len(layers))[:count] if 0 < count < len(layers) else range(len(layers))
        return StepPlan(tuple(sorted(layers[i] for i in chosen)))

    def learn(
        self, plan: StepPlan, given: Mapping[int, Tensor], num_frames_B: Tensor, forced_BK: Tensor | None = None
    ) -> Tensor:
        """Return a training step's predictions, in the form that :meth:`predict` returns.

        Args:
            given: layer → hidden states [B, T, D]: at least ``plan.inputs``, and ``plan.answers`` with ``forced_BK``.
            forced_BK: for each utterance and predicted layer, whether it starts from the teacher's state instead of
                the student's own. Students that do not step from layer to layer ignore it.
        """
        return self.predict(given[0], num_frames_B, plan.answers)

    def learn_each(
        self, plan: StepPlan, given: Mapping[int, Tensor], num_frames_B: Tensor, forced_BK: Tensor | None = None
    ) -> list[Tensor]:
        """Do what :meth:`learn` does for layers of any teachers: ``prediction_BTD`` of each of the plan's answers."""
        return self.predict_each(given[0], num_frames_B, plan.answers)

    @property
    def teacher_ratio(self) -> float:
        """The share of steps inside a run that start from the teacher's states, according to the config."""
        return 0.0

    @property
    def predicted_layers(self) -> tuple[int, ...]:
        """The teacher layers that ``predict`` returns, which are also the ones that training reads from the cache."""
        return tuple(number for teacher in self.teachers for number in teacher.numbers)

    @property
    def first_layers(self) -> tuple[int, ...]:
        """Those of ``predicted_layers`` that are the first teacher's."""
        return tuple(self.config.predict_layers)

    def teacher(self, name: str | None) -> OfTeacher:
        """Return what belongs to the teacher of this name, or to the first one; ValueError where there is none."""
        if name is None:
            return self.teachers[0]
        names = [teacher.name for teacher in self.teachers[1:]]
        if name not in names:
            raise ValueError(f"teacher is {name!r}; it must be one of {', '.join(names)}, or None for the first")
        return self.teachers[1 + names.index(name)]

    def layers(self) -> Iterable[TransformerLayer]:
        """Return the Transformer layers, in the order in which a teacher's layers are loaded into them.

        If a student has none, ``student.initialize = layers`` is refused.
        """
        return ()

    def layers_of(self, place: int) -> Iterable[TransformerLayer]:
        """Return the Transformer layers that serve the ``place``-th teacher alone; by default, the first one's."""
        return self.layers() if place == 0 else ()

    def throwaway(self) -> Iterable[nn.Parameter]:
        """Return parameters that only distillation needs, and that do not count as part of the finished student."""
        return ()

    def states(
        self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int], teacher: str | None = None
    ) -> list[Tensor]:
        """Hidden states ``[B, T, D]`` of a teacher's layers; of those that are not predicted, the nearest one's."""
        _, offset, config = self.teacher(teacher)
        own = [] if offset else [0] * (0 in layers)  # of the first teacher, layer 0 is the front-end's output
        sources = [
            min(config.predict_layers or (), key=lambda known: (abs(known - layer), known))
            for layer in layers[len(own) :]
        ]
        found = [h0_BTD for _ in own]
        if wanted := sorted(set(sources)):
            prediction_BKTD = self.predict(h0_BTD, num_frames_B, [offset + layer for layer in wanted])
            found += [prediction_BKTD[:, wanted.index(source)] for source in sources]
        return found

    def initialize_from_teacher(
        self, frontend_tensors: dict[str, Tensor], layer_tensors: dict[str, Tensor] | None = None
    ) -> None:
        """Copy a teacher's front-end, and its first layers if given, into this student.

        Args:
            frontend_tensors: ``Teacher.frontend_tensors()``, or the cache's copy.
            layer_tensors: ``Teacher.layer_tensors(n)`` with n at least the student's number of layers.

        Raises:
            ValueError: names or shapes do not fit this student's config, or there are too few layers.
        """
        try:
            self.frontend.load_state_dict(frontend_tensors)
        except RuntimeError as error:
            raise ValueError(f"the teacher's front-end does not fit this student: {error}") from error
        if layer_tensors is not None:
            self.initialize_layers(layer_tensors)

    def initialize_layers(self, layer_tensors: Mapping[str, Tensor], place: int = 0) -> None:
        """Copy the first layers of the ``place``-th teacher into those that serve it.

        Raises:
            ValueError: as :meth:`initialize_from_teacher`.
        """
        own, unfit = list(self.layers_of(place)), "the teacher's layers do not fit this student"
        if place and not own:
            return  # it is served by what all teachers share
        given = [tensors_of(layer_tensors, number) for number in range(len(own))]
        config = self.teachers[place].config
        wide, width = config.hidden_size, config.layer_width
        if not own:
            raise ValueError(f"{unfit}, which has no Transformer layers")
        if wide != width:
            raise ValueError(f"{unfit}: they are {wide} wide, but its blocks are {width}")
        for layer, tensors in zip(own, given, strict=True):
            if tensors and (differs := difference(layer.state_dict(), tensors)):
                raise ValueError(f"{unfit}: {differs}")
        if not all(given):
            raise ValueError(f"{unfit}: it has {len(own)}, but only {given.index({})} of the teacher's are available")
        for layer, tensors in zip(own, given, strict=True):
            layer.load_state_dict(tensors)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of parameters of the finished student, without those that only distillation needs."""
        thrown = sum(p.numel() for p in self.throwaway() if p.requires_grad or not only_trainable)
        return int(super().num_parameters(only_trainable, exclude_embeddings)) - thrown

    def num_parameters_with_heads(self) -> int:
        """Return the number of all parameters during distillation."""
        return sum(p.numel() for p in self.parameters())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d) and module.groups == 1:
            init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Conv1d):  # the positional convolution, as wav2vec 2.0 initializes it
            init.normal_(module.weight, std=2 / math.sqrt(module.kernel_size[0] * module.in_channels))
