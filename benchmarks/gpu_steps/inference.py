"""Students in use against their teacher: seconds of audio per second."""

from functools import partial
from typing import Any

import torch
from transformers import AutoModel

from gdist.stages.students import STUDENTS, student_config
from gdist.stages.teachers import Teacher, load_teacher
from gpu_steps.setting import Say, Setting

SHAPES = ((1, 1), (1, 5), (1, 15), (16, 15))  # (utterances, seconds)


def run(setting: Setting, say: Say) -> None:
    """Hugging Face's teacher, gdist's, and each student, in each shape and precision."""
    models: dict[str, Any] = {"teacher": AutoModel.from_pretrained(setting.teacher).eval().to(setting.device)}
    config = models["teacher"].config.to_dict() | {"do_normalize": False}
    for name in STUDENTS.own:
        models[name] = STUDENTS[name](student_config(name, config)).eval().to(setting.device)
    for precision in setting.precisions:
        own = load_teacher(setting.teacher, precision=precision, device=setting.device)
        for utterances, seconds in SHAPES[: 1 if setting.small else None]:
            waveform_BS = torch.randn(utterances, seconds * 16_000, device=setting.device) * 0.1
            num_samples_B = torch.full((utterances,), seconds * 16_000)
            speeds: dict[str, float] = {}
            with torch.inference_mode(), torch.autocast(setting.device, torch.bfloat16, enabled=precision == "bf16"):
                for name, model in models.items():
                    took = setting.clock(partial(model, waveform_BS, output_hidden_states=True))
                    speeds[name] = utterances * seconds / took * 1e3
            took = setting.clock(partial(all_states, own, waveform_BS, num_samples_B))
            speeds["teacher in gdist"] = utterances * seconds / took * 1e3
            over = {f"{name} over teacher": speeds[name] / speeds["teacher"] for name in STUDENTS.own}
            say(**{f"{precision}, {utterances} × {seconds} s": speeds | over})


def all_states(teacher: Teacher, waveform_BS: torch.Tensor, num_samples_B: torch.Tensor) -> list[torch.Tensor]:
    """Every hidden state, which a teacher gives one after another."""
    return list(teacher.hidden_states(waveform_BS, num_samples_B))
