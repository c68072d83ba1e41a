"""A student of your own: two LSTM layers behind the front-end, and a linear head for each of the layers 4, 8 and 12.

gdist train --cache CACHE --out runs/lstm --student own_student.py:LSTMStudent
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from gdist.stages.frontend.padding import frame_mask, zero_padding
from gdist.stages.students.base import Student, StudentConfig


class LSTMStudentConfig(StudentConfig):
    """This student's own fields, in addition to those of every student; `--set student.FIELD=VALUE` sets them."""

    model_type = "lstm-student"

    num_lstm_layers: int = 2

    def own_layers(self) -> Iterable[int]:
        """The teacher's layers that are predicted: every fourth."""
        return range(4, self.num_teacher_layers + 1, 4) or [self.num_teacher_layers]


class LSTMStudent(Student):
    """Front-end → LSTM → heads; the heads are thrown away after distillation."""

    config_class = LSTMStudentConfig

    def __init__(self, config: LSTMStudentConfig) -> None:
        super().__init__(config)
        self.lstm = nn.LSTM(config.hidden_size, config.hidden_size, config.num_lstm_layers, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(config.hidden_size, config.hidden_size) for _ in self.predicted_layers)
        self.post_init()

    def predict(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """The requested layers, all from the last LSTM layer. It reads forward, so padding cannot affect speech."""
        mask_BT = frame_mask(num_frames_B, h0_BTD.shape[1], h0_BTD.device)
        hidden_BTD, _ = self.lstm(h0_BTD)
        heads = [self.heads[self.predicted_layers.index(layer)] for layer in layers or self.predicted_layers]
        return torch.stack([zero_padding(head(hidden_BTD).to(h0_BTD.dtype), mask_BT) for head in heads], dim=1)

    def throwaway(self) -> Iterable[nn.Parameter]:
        """Parameters that are needed for distillation only."""
        return self.heads.parameters()
