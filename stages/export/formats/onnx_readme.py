"""The ``README.md`` of an export to ONNX: what the file is, and how to run it with only numpy and ONNX Runtime."""

from gdist.pipeline import framing
from gdist.stages.export.formats.base import Export
from gdist.stages.export.formats.onnx_graph import TOO_SHORT

FORMS = {"fp32": "", "fp16": ", with weights and products in float16", "int8": ", with its matrix products in int8"}
README = """\
# {name}
{unfinished}
A `{student}` speech student that predicts the {layers} hidden states of its teacher, {teacher}, in ONNX{form}.
It runs in ONNX Runtime without torch: `pip install onnxruntime numpy`.

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")


def hidden_states(utterances):
    \"\"\"Return hidden states [{layers}, frames, {dim}] of each utterance, floats at 16 kHz in [-1, 1).\"\"\"
    if short := [len(samples) for samples in utterances if len(samples) < {least}]:
        raise ValueError(f"an utterance needs at least {least} samples, and these have fewer: {{short}}")
    longest = max(map(len, utterances))
    input_values = np.stack([np.pad(samples, (0, longest - len(samples))) for samples in utterances])
    attention_mask = np.stack([np.arange(longest) < len(samples) for samples in utterances])
    inputs = {{"input_values": input_values.astype("float32"), "attention_mask": attention_mask.astype("int64")}}
    *layers, num_frames = session.run(None, inputs)
    return [np.stack([layer[row, :frames] for layer in layers]) for row, frames in enumerate(num_frames)]


speech = [np.random.randn(16_000) / 10, np.random.randn(24_681) / 10]  # put your speech here
for states in hidden_states(speech):
    print(states.shape)
```

- An utterance must have at least {least} samples, and gets a frame every {hop} ms. With fewer, the graph fails in its
  node `{too_short}`; the file's metadata has the number, as `fewest_samples`.
- {operators}
- Batches are padded at the end. The contents of the padding are ignored, and an utterance gets the same hidden states
  as alone.
- {normalize}
"""


def readme(export: Export, form: str, opset: int) -> str:
    """Return the page for a graph whose weights are in ``form``: a key of ``FORMS``."""
    config, frames = export.student.config, export.student.frontend.framing
    return README.format(
        name=export.run.name,
        unfinished=f"\n{export.unfinished}\n" if export.unfinished else "",
        student=export.run.tables()["student"]["name"],
        teacher=export.run.provenance()["teacher"]["name"],
        layers=config.num_teacher_layers + 1,
        dim=config.hidden_size,
        least=frames.fewest,
        hop=1000 * frames.hop // framing.SAMPLE_RATE,
        form=FORMS[form],
        too_short=TOO_SHORT.format(frames.fewest),
        operators=f"Its operators are those of ONNX's opset {opset}"
        + (", and some of ONNX Runtime's own." if form == "int8" else "."),
        normalize="The graph normalizes each utterance; input that is already normalized is not changed."
        if config.do_normalize
        else "Do not normalize the samples: this student's teacher does not need it.",
    )
