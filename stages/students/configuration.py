"""The fields that every student's config has."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from gdist.stages.frontend.kinds import frontend_config
from gdist.stages.frontend.limits import is_number, listed, require_flags, require_positive, require_whole


class StudentConfig(PreTrainedConfig):  # type: ignore[misc]
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

    Raises:
        ValueError: a field has a value that is invalid for any student; the message begins with the field.
    """

    attribute_map = {"num_hidden_layers": "num_teacher_layers"}  # noqa: RUF012  as Hugging Face declares it
    # Fields that keep this student's own defaults even if the teacher's config has a corresponding field.
    own_fields: ClassVar[frozenset[str]] = frozenset()

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

    def check_sizes(self) -> None:
        """Check the fields that others depend on; a subclass that derives fields from these must call this first."""
        require_whole(self, 1, "hidden_size", "num_attention_heads", "num_teacher_layers")
        optional = [name for name in ("num_layers", "width") if getattr(self, name, None) is not None]
        require_whole(self, 1, *optional)

    def own_layers(self) -> Iterable[int]:
        """Return the teacher layers that are predicted by default."""
        return list(range(1, self.num_teacher_layers + 1))

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
            "dropout": self.dropout,
            "pre_norm": self.pre_norm,
        }
