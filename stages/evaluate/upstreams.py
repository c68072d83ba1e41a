"""What probes are run on: the states of a student, or log-mel, collected utterance by utterance.

Axes: B batch, K hidden states, T frames, D features, S samples.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from gdist.pipeline.framing import SAMPLE_RATE, Framing
from gdist.pipeline.loading.batch import Batch
from gdist.stages.device import to_device
from gdist.stages.evaluate.probes.base import Features
from gdist.stages.frontend.padding import normalize
from gdist.stages.students import Student


class LogMel:
    """80 log-mel bands on the teacher's frames: what speech reveals without any learning.

    A band is of 25 ms every 20 ms, or as much longer as the teacher's frames are apart, around the center of what a
    frame depends on. Outside the utterance there are zeros.
    """

    def __init__(self, framing: Framing) -> None:
        self.hop, self.size = framing.hop, 5 * framing.hop // 4
        self.before = framing.left - (framing.window - self.size) // 2  # samples from frame 0's band to the utterance
        self.mel = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=self.size, hop_length=self.hop, n_mels=80, center=False
        )

    def __call__(self, batch: Batch) -> Tensor:
        assert batch.waveform_BS is not None
        frames = int(batch.num_frames_B.max())
        after = (frames - 1) * self.hop + self.size - self.before - batch.waveform_BS.shape[1]
        waveform_BS = F.pad(batch.waveform_BS, (self.before, max(after, 0)))  # a negative number of zeros cuts
        mel_BTD: Tensor = (self.mel(waveform_BS) + 1e-6).log().transpose(1, 2)
        return mel_BTD[:, None, :frames]


@torch.no_grad()
def hidden_states(student: Student, batch: Batch, teacher: str | None = None) -> Tensor:
    """All L + 1 hidden states [B, L + 1, T, D] of a batch, in free-running generation.

    Args:
        teacher: as in the student's ``forward``.
    """
    assert batch.waveform_BS is not None
    waveform_BS = to_device(batch.waveform_BS, student.device)
    if student.config.do_normalize:
        waveform_BS = normalize(waveform_BS, batch.num_samples_B)
    samples_BS = torch.arange(waveform_BS.shape[1]) < batch.num_samples_B[:, None]
    output = student(waveform_BS, samples_BS.long(), teacher=teacher, output_hidden_states=True)
    return torch.stack(output.hidden_states, dim=1)


def of_layers(states_BKTD: Tensor, layers: Sequence[int]) -> Tensor:
    """Some of all hidden states 0 … L, by their numbers, ascending; a view where none between them is left out."""
    if len(layers) == layers[-1] - layers[0] + 1:
        return states_BKTD[:, layers[0] : layers[-1] + 1]
    return states_BKTD[:, list(layers)]


class StateCollector:
    """An upstream's states of the utterances that were added so far, in the CPU's memory, where probes run.

    Args:
        framewise: the utterances of which every frame is kept; of the others, only the mean over time is.
    """

    def __init__(self, framewise: set[str]) -> None:
        self.framewise = framewise
        self.mean: dict[str, Tensor] = {}
        self._frames: dict[str, Tensor] = {}

    def add(self, states_BKTD: Tensor, batch: Batch) -> None:
        """Keep what is needed of a batch's states."""
        mask_BT = to_device(batch.mask_BT, states_BKTD.device)
        sums_BKD = torch.where(mask_BT[:, None, :, None], states_BKTD, 0).sum(2).cpu()
        self.mean |= zip(batch.ids, sums_BKD / batch.num_frames_B[:, None, None], strict=True)
        for row, name in enumerate(batch.ids):
            if name in self.framewise:
                self._frames[name] = states_BKTD[row, :, : int(batch.num_frames_B[row])].half().cpu()

    def features(self, training: Sequence[str]) -> Features:
        """The probes' input. Frames are standardized with the mean and variance over the ``training`` utterances."""
        known = [self._frames[name] for name in training if name in self._frames]
        if not known:
            return Features(self.mean)
        count = sum(x_KTD.shape[1] for x_KTD in known)
        mean_K1D = torch.stack([x_KTD.double().sum(1, keepdim=True) for x_KTD in known]).sum(0) / count
        square_K1D = torch.stack([x_KTD.double().square().sum(1, keepdim=True) for x_KTD in known]).sum(0) / count
        scale_K1D = (square_K1D - mean_K1D.square()).clamp_min(1e-12).rsqrt()
        for name in list(self._frames):  # one by one, because they fill most of the memory
            self._frames[name] = ((self._frames[name] - mean_K1D.float()) * scale_K1D.float()).half()
        return Features(self.mean, self._frames)
