"""A student as an upstream of s3prl: a list of waveforms → hidden states. This file ships with the student.

Axes: B batch, S samples, T frames, D features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from gdist.stages.frontend.padding import normalize
from gdist.stages.students.base import Student


class Upstream(nn.Module):
    """A student with the interface of s3prl's ``UpstreamExpert``."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def get_downsample_rates(self, key: str) -> int:
        """Return the samples per frame, which are the same for every hidden state."""
        return self.student.frontend.framing.hop

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Return the hidden states of utterances as recorded, at 16 kHz; they are normalized here if necessary.

        There are as many frames as the teacher has for the longest utterance, such as ``(n - 400) // 320 + 1``. s3prl
        counts up to two more, n / 320, and repeats a batch's last frame to get there. Shorter utterances are treated
        the same way here: their own last frame is repeated, so that an utterance is the same in every batch.
        """
        field = self.student.frontend.framing.fewest
        samples_B = torch.tensor([max(len(wav), field) for wav in wavs])  # silence fills up the first frame
        waveform_BS = pad_sequence(list(wavs), batch_first=True)
        waveform_BS = F.pad(waveform_BS, (0, int(samples_B.max()) - waveform_BS.shape[1]))
        if self.student.config.do_normalize:
            waveform_BS = normalize(waveform_BS, samples_B)
        mask_BS = torch.arange(waveform_BS.shape[1]) < samples_B[:, None]
        states = self.student(waveform_BS, attention_mask=mask_BS, output_hidden_states=True).hidden_states
        last_B1 = self.student.frontend.num_frames(samples_B)[:, None] - 1
        frame_BT1 = torch.minimum(torch.arange(states[0].shape[1]), last_B1)[:, :, None].to(waveform_BS.device)
        states = [torch.take_along_dim(state_BTD, frame_BT1, dim=1) for state_BTD in states]
        return {"hidden_states": states, "last_hidden_state": states[-1]}
