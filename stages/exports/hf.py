"""Hugging Face's form: a folder that `AutoModel.from_pretrained(…, trust_remote_code=True)` loads anywhere.

It holds the weights, the student's own source, a feature extractor's config and a model card.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdist.pipeline.run import write_atomically
from gdist.stages.exports.base import Source
from gdist.stages.exports.card import card
from gdist.stages.exports.check import largest_difference
from gdist.stages.exports.code import write_code
from gdist.stages.student_store import feature_extractor
from gdist.stages.students import CLASSIFIERS, STUDENTS


def write(source: Source, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """See :class:`gdist.stages.exports.base.Format`."""
    name = source.student_name
    config_class, model_class = STUDENTS[name]
    source.student.save_pretrained(folder)
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    described["auto_map"] = {
        "AutoConfig": f"{name}.{config_class.__name__}",
        "AutoModel": f"{name}.{model_class.__name__}",
        "AutoModelForAudioClassification": f"{name}.{CLASSIFIERS[name].__name__}",
    }
    write_atomically(folder / "config.json", json.dumps(described, indent=2))
    write_atomically(folder / "preprocessor_config.json", json.dumps(feature_extractor(source.student), indent=2))
    write_code(name, folder)
    write_atomically(folder / "README.md", card(source, USAGE))
    return {
        "max_difference": largest_difference(source.student, CHECK, folder),
        "try": 'python -c "from transformers import AutoModel; '
        "print(AutoModel.from_pretrained('{folder}', trust_remote_code=True))\"",
    }


CHECK = """
import sys
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
answer = lambda waveform_BS, mask_BS: model(waveform_BS, attention_mask=mask_BS).hidden_states
"""

USAGE = """
```python
import torch
from transformers import AutoFeatureExtractor, AutoModel

model = AutoModel.from_pretrained("{folder}", trust_remote_code=True).eval()
extractor = AutoFeatureExtractor.from_pretrained("{folder}")
waveforms = [torch.randn(16000).numpy(), torch.randn(24321).numpy()]  # 16 kHz
inputs = extractor(waveforms, sampling_rate=16000, padding=True, return_tensors="pt")
with torch.no_grad():
    hidden_states = model(**inputs).hidden_states  # {states} tensors of [2, frames, {dim}]
```

Where gdist is installed, `import gdist.stages.students` takes the place of `trust_remote_code=True`.

Fine-tuning for classes is Hugging Face's own: `AutoModelForAudioClassification.from_pretrained("{folder}",
num_labels=10, trust_remote_code=True)` has a weighted sum over hidden states, a projection, the mean over time and a
linear layer on top, and `pipeline("audio-classification")` takes what their trainer saves.
"""
