# mypy: ignore-errors
"""Loads an exported student in the ways that models are usually loaded and changed, without gdist; run by a test.

python other_tools.py FOLDER OUT
"""

import json
import sys


class Absent:
    """Hides gdist, which is installed in this environment."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "gdist":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Absent())

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import AutoModel, AutoModelForAudioClassification  # noqa: E402

folder, out = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(0)
samples = torch.tensor([5003, 4007])
mask = (torch.arange(5003) < samples[:, None]).long()
waveforms = torch.randn(2, 5003) / 10 * mask


def loaded(kind=AutoModel, **options):
    options |= {"output_hidden_states": kind is AutoModel}
    return kind.from_pretrained(folder, trust_remote_code=True, **options).eval()


@torch.no_grad()
def states(model, waveforms=waveforms, mask=mask):
    return torch.stack(model(waveforms, mask)["hidden_states"]).float()


model = loaded()
expected = states(model)
longer = torch.nn.functional.pad(waveforms, (0, 3001)), torch.nn.functional.pad(mask, (0, 3001))
longer[1][0, :7001] = 1
longer_expected = states(model, *longer)
found = {}


def difference(states, expected=expected):
    return float((states - expected).abs().max())


found["device_map"] = difference(states(loaded(device_map="auto")))
for name in ("bfloat16", "float16"):
    rough = loaded(dtype=getattr(torch, name))
    assert {parameter.dtype for parameter in rough.parameters()} == {getattr(torch, name)}
    found[name] = float(torch.cosine_similarity(states(rough).flatten(), expected.flatten(), dim=0))
compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
found["compile"] = max(difference(states(compiled)), difference(states(compiled, *longer), longer_expected))
free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
program = torch.export.export(model, (waveforms, mask), dynamic_shapes=(free, free), strict=False).module()
alone = states(model, longer[0][:1], longer[1][:1])
found["export"] = max(difference(states(program)), difference(states(program, longer[0][:1], longer[1][:1]), alone))


def classifier():
    torch.manual_seed(1)  # for the head, which is not in the folder
    return loaded(AutoModelForAudioClassification, num_labels=3)


def logits(model):
    with torch.no_grad():
        return model(input_values=waveforms, attention_mask=mask).logits


own = {name: tensor.clone() for name, tensor in classifier().state_dict().items()}
before = logits(classifier())
config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["projector", "classifier"])
tuned = get_peft_model(classifier(), config).train()
learned = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
optimizer = torch.optim.Adam(learned, 1e-2)
losses = []
for _ in range(5):
    optimizer.zero_grad()
    loss = tuned(input_values=waveforms, attention_mask=mask, labels=torch.tensor([0, 2])).loss
    loss.backward()
    optimizer.step()
    losses.append(float(loss))
tuned.eval().save_pretrained(out)
after = logits(tuned)
again = logits(PeftModel.from_pretrained(classifier(), out).eval())
merged = tuned.merge_and_unload().eval()
found["lora"] = {
    "changed": difference(after, before),
    "losses": losses,
    "reloaded": difference(again, after),
    "merged": difference(logits(merged), after),
    "share": sum(p.numel() for p in learned) / sum(t.numel() for t in own.values()),
    "front_end_is_as_it_was": all(
        torch.equal(tensor, own[name]) for name, tensor in merged.state_dict().items() if "frontend" in name
    ),
}
sys.stdout.write(json.dumps(found) + "\n")
