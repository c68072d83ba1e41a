"""A teacher's folder of another config, preprocessor or index of shards. It is described, loaded and run."""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fuzzing import artefacts
from fuzzing.mutations import hostile, hostile_safetensors, near, text_of, torn, value
from gdist.pipeline.console import silenced
from gdist.stages.students import student_sizes
from gdist.stages.teachers import load_teacher, num_params, read_teacher_config

INDEX = "model.safetensors.index.json"
SHAPING = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim", "conv_kernel"),
    *(
        "conv_stride",
        "num_conv_pos_embeddings",
        "num_conv_pos_embedding_groups",
        "num_buckets",
        "max_bucket_distance",
    ),
    *(
        "hidden_act",
        "feat_extract_activation",
        "feat_extract_norm",
        "do_stable_layer_norm",
        "layer_norm_eps",
        "dtype",
    ),
    *("model_type", "add_adapter", "auto_map", "attn_implementation", "quantization_config", "per_layer_config"),
)
FAMILIES = ("wavlm", "hubert", "wav2vec2", "data2vec-audio", "sew", "sew-d", "wav2vec2-conformer", "whisper")


class TeacherFolder:
    """A WavLM in a folder of which one file says something else."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(shutil.copytree(artefacts.teacher(), folder / "teacher"))
        weights = load_file(self.folder / "model.safetensors")
        save_file(weights, self.folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
        (self.folder / INDEX).write_text(
            json.dumps({"weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")})
        )
        names = ("config.json", "preprocessor_config.json", "model.safetensors", INDEX)
        self.good = {name: (self.folder / name).read_bytes() for name in names}

    def make(self, random: Random) -> bytes:
        name = random.choice(["config.json", "config.json", "config.json", *self.good])
        good = self.good[name]
        if name == "model.safetensors":
            changed = hostile_safetensors(good, random)
        elif random.random() < 0.1:
            changed = torn(good, random)
        elif name == "config.json" and random.random() < 0.5:
            changed = text_of(self._other(json.loads(good), random))
        else:
            changed = text_of(hostile(json.loads(good), random))
        return name.encode() + b"\0" + changed

    def _other(self, config: dict[str, Any], random: Random) -> dict[str, Any]:
        for field in random.sample(SHAPING, random.choice([1, 1, 2, 3])):
            config[field] = near(config.get(field, 1), random) if random.random() < 0.6 else value(random)
        if random.random() < 0.2:
            config["model_type"] = random.choice(FAMILIES)
        return config

    def read(self, data: bytes) -> None:
        name, _, content = data.partition(b"\0")
        for other, good in self.good.items():
            (self.folder / other).write_bytes(content if other == name.decode() else good)
        if name.decode() == INDEX:
            (self.folder / "model.safetensors").unlink()
        with silenced():
            config = read_teacher_config(str(self.folder))
            student_sizes(config, "it", num_params(config))
            teacher = load_teacher(str(self.folder))
            samples = max(teacher.framing.fewest, 4000)
            if samples < 1 << 20:
                list(teacher.hidden_states(torch.zeros(1, samples), torch.tensor([samples])))
