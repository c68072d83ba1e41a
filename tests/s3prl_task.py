# mypy: ignore-errors
"""s3prl's own upstream, featurizer, head and task on an exported student, in s3prl's environment; run by a test.

python s3prl_task.py FOLDER SPEECH.npz STATES.safetensors
"""

import json
import sys

import numpy as np
import safetensors.torch
import torch
from s3prl.dataio.encoder.category import CategoryEncoder
from s3prl.nn import Featurizer, MeanPoolingLinear, S3PRLUpstream
from s3prl.task.utterance_classification_task import UtteranceClassificationTask
from torch.nn.utils.rnn import pad_sequence

folder, speech, states = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(0)
sys.path.insert(0, folder)
import hubconf  # noqa: E402

hubconf.register()
upstream = S3PRLUpstream("gdist").eval()
held = np.load(speech)
split = {
    name: ([torch.from_numpy(held[f"{name}-{i}"]) for i in range(len(labels))], labels)
    for name, labels in ((name, held[f"{name}-labels"].tolist()) for name in ("train", "test"))
}


def hear(wavs: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    lengths = torch.tensor([len(wav) for wav in wavs])
    with torch.no_grad():
        hidden, counts = upstream(pad_sequence(wavs, batch_first=True), lengths)
    return hidden, counts


ragged = split["train"][0][:3]
hidden, counts = hear(ragged)
safetensors.torch.save_file({str(k): h.contiguous() for k, h in enumerate(hidden)}, states)

featurizer = Featurizer(upstream)
category = CategoryEncoder(sorted(set(split["train"][1])))
task = UtteranceClassificationTask(
    MeanPoolingLinear(featurizer.output_size, len(category), hidden_size=256), category
)
optimizer = torch.optim.Adam([*featurizer.parameters(), *task.parameters()], lr=3e-3)
heard = {
    name: [(hear(wavs[i : i + 64]), labels[i : i + 64]) for i in range(0, len(wavs), 64)]
    for name, (wavs, labels) in split.items()
}


def step(
    mode: str, part: tuple[tuple[list[torch.Tensor], list[torch.Tensor]], list[str]]
) -> tuple[torch.Tensor, dict]:
    (states, counts), labels = part
    x, x_len = featurizer(states, counts)
    class_id = torch.tensor([category.encode(label) for label in labels])
    return task(mode, x, x_len, class_id, labels, [str(i) for i in range(len(labels))])


for _ in range(25):
    for part in heard["train"]:
        loss, _ = step("train", part)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
with torch.no_grad():
    found = task.reduction("test", [step("test", part)[1] for part in heard["test"]])
counted = {"frames": [int(n) for n in counts[0]], "rates": upstream.downsample_rates}
sys.stdout.write(json.dumps({"accuracy": float(found["accuracy"]), **counted}) + "\n")
