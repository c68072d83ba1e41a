"""The fields that every student's config has."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from gdist.stages.frontend.kinds import frontend_config
from gdist.stages.frontend.limits import (
    MAX_LAYERS,
    MAX_WIDTH,
    is_number,
    listed,
    require_flags,
    require_positive,
    require_whole,
)
from gdist.stages.students.fine_tuning import FineTuningConfig


class StudentConfig(FineTuningConfig):
    """Fields that every student has; :func:`gdist.stages.students.student_config` fills them in from a teacher.

    Args:
        frontend: the kind of front-end and the fields of its config, see :mod:`gdist.stages.frontend.kinds`.
        hidden_size: D, the same as the teacher's.
        intermediate_size, num_attention_heads, layer_norm_eps, pre_norm: of the student's Transformer layers.
        num_teacher_layers: L; there are L + 1 hidden states.
        dropout: inside the Transformer layers; the front-end has none.
        predict_layers: the teacher layers that are predicted, ascending; None means the student's own choice, usually
            all.
        do_normalize: whether inputs must first be normalized by :func:`gdist.stages.frontend.padding.normalize`. The
            model does not do it; as with Hugging Face's models, the feature extractor does.
        initializer_range: standard deviation of linear weights before training.
        other_teachers: for a student of several teachers, the name of each but the first → the fields in which the
            config of a student of that teacher alone would differ from this one.

    Raises:
        ValueError: a field has a value that is invalid for any student; the message begins with the field.
    """

    attribute_map = {"num_hidden_layers": "num_teacher_layers"}  # noqa: RUF012  as Hugging Face declares it
    # Fields that keep this student's own defaults even if the teacher's config has a corresponding field.
    own_fields: ClassVar[frozenset[str]] = frozenset()
    # Fields that change how it is trained or begun, and not what it computes in use.
    of_training: ClassVar[frozenset[str]] = frozenset({"dropout", "initializer_range"})

    frontend: dict[str, Any] = dataclasses.field(default_factory=dict)
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_teacher_layers: int = 12
    layer_norm_eps: float = 1e-5
    pre_norm: bool = False
    dropout: float = 0.1
    do_normalize: bool = False
    initializer_range: float = 0.02
    predict_layers: list[int] | None = None
    other_teachers: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.check_sizes()
        self.frontend = frontend_config({"hidden_size": self.hidden_size, **self.frontend}).to_dict()
        if self.frontend["hidden_size"] != self.hidden_size:
            raise ValueError(f"frontend.hidden_size is {self.frontend['hidden_size']}; it must be {self.hidden_size}")
        require_whole(self, 1, "intermediate_size")
        heads, width = self.num_attention_heads, self.layer_width
        if width % heads:
            raise ValueError(f"num_attention_heads is {heads}; it must divide the layers' width, {width}")
        require_positive(self, "layer_norm_eps", "initializer_range")
        require_flags(self, "pre_norm", "do_normalize")
        if not is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}; it must be a number, at least 0 and below 1")
        depth = self.num_teacher_layers
        own = list(self.own_layers()) if self.predict_layers is None else self.predict_layers
        chosen = listed("predict_layers", own)
        if not chosen or chosen != sorted(set(chosen)) or not all(1 <= n <= depth for n in chosen):
            raise ValueError(
                f"predict_layers is {chosen}; it must increase and stay between 1 and {depth}, the teacher's layers"
            )
        self.predict_layers = chosen
        others = self.other_teachers
        if others is not None and not (
            isinstance(others, dict) and all(isinstance(f, dict) for f in others.values())
        ):
            raise ValueError(f"other_teachers is {others!r}; it must be a table for each teacher")

    def check_sizes(self) -> None:
        """Check the fields that others depend on; a subclass that derives fields from these must call this first."""
        require_whole(self, 1, "hidden_size", "num_attention_heads", most=MAX_WIDTH)
        require_whole(self, 1, "num_teacher_layers", most=MAX_LAYERS)
        for name, most in (("num_layers", MAX_LAYERS), ("width", MAX_WIDTH), ("distinct_steps", MAX_LAYERS)):
            if getattr(self, name, None) is not None:
                require_whole(self, 1, name, most=most)
        if (made := getattr(self, "distinct_steps", 1) * (getattr(self, "num_layers", 1) or 1)) > MAX_LAYERS:
            raise ValueError(f"num_layers is {made} in all distinct_steps; it must be at most {MAX_LAYERS:,}")

    def own_layers(self) -> Iterable[int]:
        """Return the teacher layers that are predicted by default."""
        return list(range(1, self.num_teacher_layers + 1))

    def teachers(self) -> list["OfTeacher"]:
        """Return what belongs to each teacher: the first one, whose front-end the student has, and the others.

        Raises:
            ValueError: a field of another teacher is impossible.
        """
        found = [OfTeacher("", 0, self)]
        for name, differs in (self.other_teachers or {}).items():
            last = found[-1]
            own = {
                key: getattr(self, key) for key in self._student_fields() if key not in ("frontend", "other_teachers")
            }
            config = type(self)(**(own | differs))
            found.append(OfTeacher(name, last.offset + last.config.num_teacher_layers + 1, config))
        return found

    def in_use(self) -> dict[str, Any]:
        """Return the fields that determine what the student computes in use: without those of training alone."""
        return {key: getattr(self, key) for key in self._student_fields() if key not in self.of_training}

    def learn_from(self, others: Mapping[str, "StudentConfig"]) -> None:
        """Add further teachers: the name of each → the config of a student of it alone."""
        keys = [key for key in self._student_fields() if key not in ("frontend", "other_teachers")]
        self.other_teachers = {
            name: {key: value for key in keys if (value := getattr(other, key)) != getattr(self, key)}
            for name, other in others.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all fields; without ``other_teachers`` where there are none, as students of one teacher had it."""
        found: dict[str, Any] = super().to_dict()
        if self.other_teachers is None:
            found.pop("other_teachers", None)
        return found

    def _student_fields(self) -> list[str]:
        """The fields that students have in addition to those of every model of Hugging Face."""
        inherited = {field.name for field in dataclasses.fields(FineTuningConfig)}
        return [field.name for field in dataclasses.fields(self) if field.name not in inherited]

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples between one frame and the next."""
        hop: int = frontend_config(self.frontend).framing.hop
        return hop

    @property
    def layer_width(self) -> int:
        """Width of the Transformer layers: the teacher's, unless a student has thinner ones."""
        return self.hidden_size

    @property
    def layer_shape(self) -> dict[str, Any]:
        """The arguments for a :class:`TransformerLayer` of this student."""
        return {
            "hidden_size": self.layer_width,
            "num_heads": self.num_attention_heads,
            "intermediate_size": self.intermediate_size,
            "eps": self.layer_norm_eps,
            "dropout": self.dropout if self.hidden_dropout is None else self.hidden_dropout,
            "attention_dropout": self.dropout if self.attention_dropout is None else self.attention_dropout,
            "activation_dropout": self.dropout if self.activation_dropout is None else self.activation_dropout,
            "layerdrop": self.layerdrop,
            "pre_norm": self.pre_norm,
        }


class OfTeacher(NamedTuple):
    """What belongs to one of a student's teachers.

    Attributes:
        name: "" for the first.
        offset: the number of its layer 0 where the layers of all teachers are numbered one after another: the second
            teacher's layer 0 comes after the first one's last layer.
        config: that of a student of it alone.
    """

    name: str
    offset: int
    config: StudentConfig

    @property
    def numbers(self) -> list[int]:
        """The numbers of the layers of it that are predicted."""
        return [self.offset + layer for layer in self.config.predict_layers or ()]
