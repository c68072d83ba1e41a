# mypy: ignore-errors
"""Fine-tunes an exported student with Hugging Face's Auto classes and `pipeline`, without gdist; run by a test.

python fine_tune.py FOLDER SPEECH.npz OUT
"""

import json
import sys


class Absent:
    """Hides gdist, which is installed in this environment."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "gdist":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Absent())

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline  # noqa: E402

folder, speech, out = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(0)
held = np.load(speech)
split = {
    name: ([held[f"{name}-{i}"] for i in range(len(held[f"{name}-labels"]))], held[f"{name}-labels"].tolist())
    for name in ("train", "test")
}
names = sorted(set(split["train"][1]))
extractor = AutoFeatureExtractor.from_pretrained(folder)
model = AutoModelForAudioClassification.from_pretrained(
    folder,
    trust_remote_code=True,
    num_labels=len(names),
    id2label=dict(enumerate(names)),
    label2id={name: i for i, name in enumerate(names)},
)
model.freeze_base_model()  # only the head learns, to keep the test short
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
waveforms, labels = split["train"]
model.train()
for _ in range(5):
    order = torch.randperm(len(labels)).tolist()
    for first in range(0, len(order), 32):
        chosen = order[first : first + 32]
        inputs = extractor([waveforms[i] for i in chosen], sampling_rate=16000, padding=True, return_tensors="pt")
        loss = model(**inputs, labels=torch.tensor([names.index(labels[i]) for i in chosen])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval().save_pretrained(out)
extractor.save_pretrained(out)
classify = pipeline("audio-classification", model=out, trust_remote_code=True)
answers = [classify({"raw": waveform, "sampling_rate": 16000}, top_k=1)[0]["label"] for waveform in split["test"][0]]
right = sum(answer == label for answer, label in zip(answers, split["test"][1], strict=True))
sys.stdout.write(json.dumps({"accuracy": right / len(answers)}) + "\n")
