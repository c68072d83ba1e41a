# mypy: ignore-errors
"""s3prl itself on an exported student, in s3prl's environment; run by a test.

python s3prl_downstream.py FOLDER SPEECH.npz OUT

Its S3PRLUpstream runs on a padded batch, whose states are saved. Its run_downstream.py then trains its featurizer and
head for intents, in the form of Fluent Speech Commands, on spoken digits, and a separate process evaluates the best
checkpoint.
"""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import soundfile
import torch
import yaml
from s3prl.nn import S3PRLUpstream
from torch.nn.utils.rnn import pad_sequence

folder, speech, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
# torchaudio >= 2.9 decodes with torchcodec, which needs FFmpeg's libraries; soundfile reads WAV files as well.
SHIM = """
import runpy, sys, soundfile, torch, torchaudio
def load(path):
    samples_SC, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples_SC.T), rate
torchaudio.load = load
torch.set_num_threads(1)
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""

held = np.load(speech)
sys.path.insert(0, folder)
import hubconf  # noqa: E402

hubconf.register()
torch.set_num_threads(1)
upstream = S3PRLUpstream("gdist").eval()
ragged = [torch.from_numpy(held[f"train-{i}"]) for i in range(3)]
with torch.no_grad():
    hidden, counts = upstream(pad_sequence(ragged, batch_first=True), torch.tensor([len(wav) for wav in ragged]))
out.mkdir()
safetensors.torch.save_file({str(k): h.contiguous() for k, h in enumerate(hidden)}, out / "states.safetensors")

(out / "data").mkdir(parents=True)
for split, source in ("train", "train"), ("valid", "test"), ("test", "test"):
    rows = []
    for i, label in enumerate(held[f"{source}-labels"].tolist()):
        soundfile.write(out / f"{split}-{i}.wav", held[f"{source}-{i}"], 16000)
        rows.append({"path": f"{split}-{i}.wav", "action": label, "object": "none", "location": "none"})
    with (out / "data" / f"{split}_data.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
config = {
    "runner": {
        "total_steps": 40,
        "gradient_clipping": 1,
        "gradient_accumulate_steps": 1,
        "log_step": 20,
        "eval_step": 40,
        "save_step": 40,
        "max_keep": 1,
        "eval_dataloaders": ["dev"],
    },
    "optimizer": {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 3.0e-3},
    "downstream_expert": {
        "datarc": {"file_path": str(out), "num_workers": 0, "train_batch_size": 32, "eval_batch_size": 20},
        "modelrc": {
            "projector_dim": 256,
            "select": "UtteranceLevel",
            "UtteranceLevel": {"pooling": "MeanPooling"},
        },
    },
}
(out / "config.yaml").write_text(yaml.dump(config))


def run_downstream(*arguments: str) -> str:
    command = [sys.executable, "-c", SHIM, f"{folder}/run_downstream.py", *arguments, "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return done.stdout


experiment = str(out / "experiment")
run_downstream(
    "-m", "train", "-u", "gdist", "-d", "fluent_commands", "-c", str(out / "config.yaml"), "-p", experiment
)
report = run_downstream("-m", "evaluate", "-t", "test", "-e", f"{experiment}/dev-best.ckpt")
(accuracy,) = re.findall(r"test acc: ([\d.]+)", report)
counted = {"frames": [int(n) for n in counts[0]], "rates": upstream.downsample_rates}
sys.stdout.write(json.dumps({"accuracy": float(accuracy), **counted}) + "\n")
