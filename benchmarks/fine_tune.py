"""Speech recognition after fine-tuning: students, their teacher and log-mel, each with the same head.

    python benchmarks/fine_tune.py SPEECH.parquet OUT gendistiller=exports/a baseline=exports/b teacher=FOLDER log-mel

Each is fine-tuned by docs/examples/fine_tune.py, on the same utterances in the same order: a linear layer over
characters on the last hidden state, trained by CTC with everything below it except the convolutions. Log-mel has
nothing below the head. With ``--freeze`` nothing but the head is trained. The error is the number of edits over
characters of the test split, of voices that the training split does not have if SPEECH says so.

NAME=FOLDER is an export for Hugging Face, or any folder with a speech model of transformers. SPEECH is a table as
``benchmarks/speech.py`` writes it.

Axes: B batch, S samples, T frames, M mel bands, C characters.
"""

import argparse
import csv
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.transforms import MelSpectrogram

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "fine_tune.py"
BANDS, WINDOW, HOP = 80, 400, 320
FIELDS = ("path", "start", "num_samples", "text", "split", "language", "speaker")


class LogMelForCTC(nn.Module):
    """The head on 80 log-mel bands in 20 ms steps, normalized over each utterance."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.mel = MelSpectrogram(16_000, n_fft=WINDOW, hop_length=HOP, n_mels=BANDS, center=False)
        self.lm_head = nn.Linear(BANDS, vocabulary)

    def freeze_base_model(self) -> None:
        """Do nothing: there is no model below the head."""

    freeze_feature_encoder = freeze_base_model

    def forward(
        self, input_values: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        log_BTM = (self.mel(input_values) + 1e-6).log().transpose(1, 2)
        frames_B = (attention_mask.sum(-1) - WINDOW) // HOP + 1
        own_BT1 = (torch.arange(log_BTM.shape[1]) < frames_B[:, None])[:, :, None]
        mean_B1M = (log_BTM * own_BT1).sum(1, keepdim=True) / frames_B[:, None, None]
        centered_BTM = (log_BTM - mean_B1M) * own_BT1
        scale_B1M = (centered_BTM.square().sum(1, keepdim=True) / frames_B[:, None, None] + 1e-5).rsqrt()
        logits_BTC = self.lm_head(centered_BTM * scale_B1M)
        if labels is None:
            return {"logits": logits_BTC}
        targets_B = (labels >= 0).sum(-1)
        log_TBC = F.log_softmax(logits_BTC, -1).transpose(0, 1)
        loss = F.ctc_loss(log_TBC, labels.clamp(min=0), frames_B, targets_B, zero_infinity=True)
        return {"loss": loss, "logits": logits_BTC}


def table(speech: Path, out: Path, language: str) -> Path:
    """Write the rows of one language as the CSV table that the example reads; too short ones are left out."""
    rows = [
        row for row in pyarrow.parquet.read_table(speech).to_pylist() if row["language"] == language and row["text"]
    ]
    path = out / f"{language}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            if row["num_samples"] / row["sample_rate"] > 0.2:
                writer.writerow(row | {"path": (speech.parent / row["path"]).resolve()})
    return path


def example() -> ModuleType:
    """The documentation's program, as a module."""
    spec = importlib.util.spec_from_file_location("fine_tune_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", metavar="SPEECH", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("models", metavar="NAME=FOLDER", nargs="+", help="or log-mel")
    parser.add_argument("--language", default="en")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--accumulate", type=int, default=1, help="the parts of a step's 16 utterances; for memory")
    parser.add_argument("--freeze", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    program: Any = example()
    splits = program.read(table(given.speech, given.out, given.language), "text", {})
    minutes = {name: sum(len(wave) for wave, _ in split) / 16_000 / 60 for name, split in splits.items()}
    sys.stderr.write(f"{given.language}: {minutes['train']:.1f} min to train on, {minutes['test']:.1f} to test on\n")
    anything = next(folder for _, _, folder in (model.partition("=") for model in given.models) if folder)
    for model in given.models:
        name, _, folder = model.partition("=")
        torch.manual_seed(0)
        tuned, batch, errors, processor = program.recognizer(folder or anything, splits, given.out / name)
        if not folder:
            processor.feature_extractor.return_attention_mask = True  # other models may have no use for it
            tuned = LogMelForCTC(len(processor.tokenizer))
        began = time.perf_counter()
        settings = {name: getattr(given, name) for name in ("steps", "lr", "accumulate", "freeze")}
        before, after = program.fine_tune(tuned, batch, errors, splits, given.out / name, **settings)
        row = {
            "model": name,
            "params": sum(p.numel() for p in tuned.parameters()),
            "trained": sum(p.numel() for p in tuned.parameters() if p.requires_grad),
            "error_before": round(before, 3),
            "error": round(after, 3),
            "seconds": round(time.perf_counter() - began),
        }
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
