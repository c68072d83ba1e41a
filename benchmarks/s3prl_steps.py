# mypy: ignore-errors
"""Training steps of s3prl's distiller, with s3prl's own WavLM online; run by train.py in s3prl's environment.

    python s3prl_steps.py BATCHES.pt THREADS DEVICE

Reads lines of JSON, ``{"batch": 0, "teacher": "eval"}``, and replies to each with the seconds of that step, by the
clock and of the processors. What a
step does is what s3prl's runner and its pretrain expert do, without automatic mixed precision: DistillerModel, the
upstream of WavLM under ``no_grad``, L1 and −log σ(cos) averaged over all frames (padding too), clipping at 5, s3prl's
AdamW. The packaged s3prl has all of these except the expert, whose few lines are therefore here. The batch is in
memory beforehand. Weights are random: they do not change how long a step takes.
"""

import json
import sys
import tempfile
import time
import warnings

warnings.filterwarnings("ignore")
replies, sys.stdout = sys.stdout, sys.stderr  # s3prl prints

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from s3prl.optimizers import get_optimizer  # noqa: E402
from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel  # noqa: E402
from s3prl.upstream.wavlm.expert import UpstreamExpert  # noqa: E402
from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig  # noqa: E402

BASE = {"relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": 320, "max_distance": 800}
# As in pretrain/distiller of s3prl's repository, with the three targets of the paper.
DISTILLER = {"encoder_layers": 2, "feature_grad_mult": 0.1, "n_tasks": 3, "pred_layer_id": [4, 8, 12]}
OPTIMIZER = {"name": "AdamW_with_schedule", "lr": 2e-4, "warmup_proportion": 0.07, "betas": [0.9, 0.98], "eps": 1e-6}
CLIP, STEPS = 5.0, 200_000


def wavlm() -> UpstreamExpert:
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save({"cfg": BASE, "model": WavLM(WavLMConfig(BASE)).state_dict()}, file.name)
        return UpstreamExpert(file.name).requires_grad_(False)


def main() -> None:
    batches, threads, device = torch.load(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    teacher, distiller = wavlm().to(device), DistillerModel(DistillerConfig(DISTILLER)).to(device).train()
    optimizer = get_optimizer([distiller], STEPS, OPTIMIZER)

    def step(waveform_BS, num_samples_B) -> None:
        mask_BS = (torch.arange(waveform_BS.shape[1]) < num_samples_B[:, None]).float().to(device)
        waveforms = [row[:count].to(device) for row, count in zip(waveform_BS, num_samples_B, strict=True)]
        _, _, prediction_BKTD, _ = distiller(waveform_BS.to(device), mask_BS)
        with torch.no_grad():
            states = teacher(waveforms)["hidden_states"]
            target_BKTD = torch.stack([states[layer] for layer in distiller.pred_layer_id], dim=1)
        cosine_BKT = F.cosine_similarity(prediction_BKTD, target_BKTD, dim=-1)
        loss = F.l1_loss(prediction_BKTD, target_BKTD, reduction="none").mean() - F.logsigmoid(cosine_BKT).mean()
        loss.backward()
        loss.item()
        torch.nn.utils.clip_grad_norm_(distiller.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    def reply(**fields) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    reply(parameters=sum(p.numel() for p in distiller.parameters()))
    for line in sys.stdin:
        asked = json.loads(line)
        teacher.train(asked["teacher"] == "train")
        began, cpu_began = time.perf_counter(), time.process_time()
        step(*batches[asked["batch"]])
        if device != "cpu":
            torch.cuda.synchronize()
        reply(seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - cpu_began)


main()
