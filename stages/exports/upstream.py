"""An s3prl upstream: waveforms → all hidden states of a student trained by gdist. It needs torch and safetensors."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from . import STUDENT  # type: ignore[attr-defined]
from .frontend import normalize

HERE = Path(__file__).resolve().parent


class UpstreamExpert(torch.nn.Module):
    """What s3prl loads.

    Args:
        ckpt: a folder like this one; this one when None.
    """

    def __init__(self, ckpt: str | None = None, model_config: str | None = None, **kwargs: Any) -> None:
        super().__init__()
        folder = Path(ckpt) if ckpt else HERE
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config_class, model_class = STUDENT
        self.model = model_class(config_class(**described))
        self.model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
        self.model.eval()

    def get_downsample_rates(self, key: str) -> int:
        """Samples a frame."""
        return 320

    def forward(self, wavs: list[Tensor]) -> dict[str, list[Tensor]]:
        """16 kHz samples, of one utterance each → ``hidden_states``: L + 1 tensors ``[B, T, D]``, zero beyond an end.

        T is the teacher's, (n − 400) // 320 + 1, of the longest. s3prl reckons with ceil(n / 320) and repeats the last
        frame to get there, one frame or two.
        """
        num_samples_B = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        waveform_BS = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        if self.model.config.do_normalize:
            waveform_BS = normalize(waveform_BS, num_samples_B)
        mask_BS = torch.arange(waveform_BS.shape[1], device=waveform_BS.device) < num_samples_B[:, None]
        return {"hidden_states": list(self.model(waveform_BS, attention_mask=mask_BS.long()).hidden_states)}
