"""The fields by which Hugging Face's speech models are fine-tuned, with their names, meanings and ranges.

They count when an exported student is fine-tuned (:mod:`gdist.stages.students.heads`) and do nothing in
distillation. Where their defaults differ from WavLM's, a student stays as it is until someone asks: SpecAugment is
off until ``mask_time_prob`` is set, as in ``from_pretrained(folder, mask_time_prob=0.05)``.
"""

import dataclasses
from typing import Any

from transformers import PreTrainedConfig

from gdist.stages.frontend.limits import is_number, require_flags, require_whole

REFUSED = {
    "add_adapter": "a student has no adapter; put a layer of your own on its hidden states",
    "adapter_attn_dim": "a student has no attention adapters; use LoRA (peft), for one",
    "output_attentions": "a student gives no attention maps: scaled dot-product attention makes none, and a shared "
    "layer would have one for each time that it runs",
}


class FineTuningConfig(PreTrainedConfig):  # type: ignore[misc]
    """Fields of every student's config that only fine-tuning uses.

    Args:
        hidden_dropout, activation_dropout, attention_dropout: of the Transformer layers' two residual branches, of
            the feed-forward network's middle, and of attention weights; None means the student's own ``dropout``.
        feat_proj_dropout: of the features, before positions are added.
        final_dropout: before the linear layer of the head for CTC.
        layerdrop: the probability that a Transformer layer is skipped, drawn each time that it runs.
        apply_spec_augment, mask_time_prob, mask_time_length, mask_time_min_masks, mask_feature_prob,
        mask_feature_length, mask_feature_min_masks: SpecAugment, see :mod:`gdist.stages.students.spec_augment`.
        vocab_size, pad_token_id, bos_token_id, eos_token_id: of the head for CTC, whose blank is the padding token.
        ctc_loss_reduction, ctc_zero_infinity: of its loss.
        use_weighted_layer_sum: give the heads a learned sum of all hidden states, as in SUPERB, and not the last one
            alone. Other than WavLM's, the head for CTC obeys it too.
        classifier_proj_size: features of the projection of the heads that classify utterances.
        tdnn_dim, tdnn_kernel, tdnn_dilation, xvector_output_dim: of the head for x-vectors.
        add_adapter, adapter_attn_dim: refused, since a student has neither.
    """

    hidden_dropout: float | int | None = None
    activation_dropout: float | int | None = None
    attention_dropout: float | int | None = None
    feat_proj_dropout: float | int = 0.0
    final_dropout: float | int = 0.1
    layerdrop: float | int = 0.0
    apply_spec_augment: bool = True
    mask_time_prob: float | int = 0.0
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float | int = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    vocab_size: int = 32
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    ctc_loss_reduction: str = "mean"
    ctc_zero_infinity: bool = False
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    tdnn_dim: list[int] | tuple[int, ...] = (512, 512, 512, 512, 1500)
    tdnn_kernel: list[int] | tuple[int, ...] = (5, 3, 3, 1, 1)
    tdnn_dilation: list[int] | tuple[int, ...] = (1, 2, 3, 1, 1)
    xvector_output_dim: int = 512
    add_adapter: bool = False
    adapter_attn_dim: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.require_fine_tuning()

    def require_fine_tuning(self) -> None:
        """Raise ValueError for a field that has an impossible value, or that no student can honour.

        A model calls it once more, because ``from_pretrained`` sets fields of a config that has been checked already.
        """
        for name, why in REFUSED.items():
            if getattr(self, name, None):
                raise ValueError(f"{name} is {getattr(self, name)!r}; {why}")
        for name in (
            "hidden_dropout",
            "activation_dropout",
            "attention_dropout",
            "feat_proj_dropout",
            "final_dropout",
        ):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0 <= value < 1):
                raise ValueError(f"{name} is {value!r}; it must be a number, at least 0 and below 1")
        for name in ("layerdrop", "mask_time_prob", "mask_feature_prob"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise ValueError(f"{name} is {value!r}; it must be a number from 0 to 1")
        require_flags(self, "apply_spec_augment", "ctc_zero_infinity", "use_weighted_layer_sum")
        require_whole(self, 1, "mask_time_length", "mask_feature_length", "vocab_size")
        require_whole(self, 1, "classifier_proj_size", "xvector_output_dim")
        require_whole(self, 0, "mask_time_min_masks", "mask_feature_min_masks")
        if not len(self.tdnn_dim) == len(self.tdnn_kernel) == len(self.tdnn_dilation) > 0:
            raise ValueError("tdnn_dim, tdnn_kernel and tdnn_dilation must have one number for each layer")

    @property
    def masks(self) -> bool:
        """Whether training masks hidden states."""
        return self.mask_time_prob > 0 or self.mask_feature_prob > 0


FINE_TUNING_FIELDS = frozenset(field.name for field in dataclasses.fields(FineTuningConfig))
