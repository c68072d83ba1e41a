"""One student learning: the step, the validation, and a state that goes to disk and comes back bit for bit.

Axes: B batch, K predicted layers, L teacher layers, T frames, D features, S samples.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gdist.pipeline.errors import RunError
from gdist.pipeline.loader import Batch, Loader
from gdist.pipeline.run import Run
from gdist.stages.frontend import normalize
from gdist.stages.losses import LOSSES, masked_mean
from gdist.stages.students import Student
from gdist.stages.train_config import OptimConfig, TrainConfig


class Learner:
    """A student, its optimizer, and what a step does.

    Args:
        layers: the cached layers in a batch's ``hidden_BLTD``, in order; 0 first when the front-end is frozen.
    """

    def __init__(self, student: Student, config: TrainConfig, layers: list[int], device: torch.device) -> None:
        self.student, self.config, self.layers, self.device = student, config, layers, device
        self.frozen = config.student["frontend"] == "frozen"
        self.loss = LOSSES[config.loss.name]
        self.params = {name: p for name, p in student.named_parameters() if p.requires_grad}
        self.grad_norm = 0.0
        decayed = [p for p in self.params.values() if p.ndim > 1]
        plain = [p for p in self.params.values() if p.ndim <= 1]  # biases and norms
        optim = config.train
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=optim.lr,
            betas=(optim.betas[0], optim.betas[1]),
            eps=optim.eps,
        )

    def step(self, step: int, batches: list[Batch]) -> tuple[float, float]:
        """One update from the gradients of all ``batches``. Returns (loss, mean cosine).

        Raises:
            RunError: the loss is not finite; the utterances are named and the weights are as before the step.
        """
        self.student.train()
        self.optimizer.zero_grad(set_to_none=True)
        total_loss = total_cosine = 0.0
        for place, batch in enumerate(batches):
            # Seeded by the step's number, dropout and coins need no state in a checkpoint.
            seed = (self.config.train.seed * 1_000_003 + step) * 64 + place
            torch.manual_seed(seed)
            loss_K, cosine_K = self.compare(batch, torch.Generator().manual_seed(seed + 1))
            loss = loss_K.mean() / len(batches)
            if not torch.isfinite(loss):
                raise RunError(
                    f"the loss at step {step} is {float(loss.detach())}; utterances: {', '.join(batch.ids[:20])}",
                    "a lower train.lr or train.clip_norm, or train.precision=fp32; the last checkpoint is kept",
                )
            torch.autograd.backward(loss)
            total_loss += float(loss.detach())
            total_cosine += float(cosine_K.mean()) / len(batches)
        norm = torch.nn.utils.clip_grad_norm_(list(self.params.values()), self.config.train.clip_norm)
        self.grad_norm = float(norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()
        return total_loss, total_cosine

    def compare(
        self, batch: Batch, generator: torch.Generator | None = None, history: Any = None
    ) -> tuple[Tensor, Tensor]:
        """(loss, mean cosine), each by predicted layer [K], of one batch.

        Args:
            history: overrides the student's own, as validation does: it always runs freely.
        """
        with self.autocast():
            target_BLTD = batch.hidden_BLTD.to(self.device, non_blocking=True)
            if self.frozen:
                h0_BTD, target_BLTD = target_BLTD[:, 0], target_BLTD[:, 1:]
            else:
                assert batch.waveform_BS is not None
                h0_BTD = self.hear(batch.waveform_BS, batch.num_samples_B)
            prediction_BKTD, _ = self.student.predict(h0_BTD, batch.num_frames_B, target_BLTD, history, generator)
        prediction_BKTD = prediction_BKTD.float()
        mask_BT = torch.arange(target_BLTD.shape[2]) < batch.num_frames_B[:, None]
        mask_BT = mask_BT.to(self.device, non_blocking=True)
        loss_K = self.loss(prediction_BKTD, target_BLTD, mask_BT, self.config.loss.cosine_weight)
        cosine_BKT = F.cosine_similarity(prediction_BKTD.detach(), target_BLTD, dim=-1)
        return loss_K, masked_mean(cosine_BKT, mask_BT)

    def hear(self, waveform_BS: Tensor, num_samples_B: Tensor) -> Tensor:
        """The student's layer 0 of raw audio, normalised first where the teacher's was."""
        waveform_BS = waveform_BS.to(self.device, non_blocking=True)
        if self.student.config.do_normalize:
            waveform_BS = normalize(waveform_BS, num_samples_B)
        h0_BTD: Tensor = self.student.frontend(waveform_BS, num_samples_B)
        return h0_BTD

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Loss and cosine on held-out utterances, in free-running generation: what the student is for."""
        self.student.eval()
        weight, losses, cosines = 0.0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            loss_K, cosine_K = self.compare(batch, history="student")
            frames = float(batch.num_frames_B.sum())
            weight += frames
            losses = losses + loss_K.double().cpu() * frames
            cosines = cosines + cosine_K.double().cpu() * frames
        cosine_K = cosines / weight
        by_layer = zip(self.student.predicted_layers, cosine_K.tolist(), strict=True)
        return {
            "loss": float((losses / weight).mean()),
            "cosine": float(cosine_K.mean()),
            "cosine_by_layer": {str(layer): cosine for layer, cosine in by_layer},
        }

    def rate(self, step: int) -> float:
        """The learning rate of a step (counted from 1): a pure function of the config."""
        return learning_rate(self.config.train, step)

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 where the config says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16")

    # --- state --------------------------------------------------------------------------------------------------

    def save(self, run: Run, step: int, loader: Loader, seconds: float) -> None:
        """Checkpoint weights, optimizer and the loader's place."""
        moments = {
            f"{name}.{kind}": value
            for name, parameter in self.params.items()
            for kind, value in self.optimizer.state[parameter].items()
        }
        weights = {name: value.detach().cpu().contiguous() for name, value in self.student.state_dict().items()}
        state = {"loader": loader.state_dict(), "seconds": seconds}
        run.save(step, weights, {k: v.cpu() for k, v in moments.items()}, state, self.config.train.keep_checkpoints)

    def restore(self, run: Run, loader: Loader) -> tuple[int, float]:
        """Go back to the newest checkpoint. Returns (step, seconds trained so far)."""
        weights, moments, state = run.load(run.steps()[-1])
        self.student.load_state_dict(weights)
        for name, parameter in self.params.items():
            self.optimizer.state[parameter] = {
                kind: moments[f"{name}.{kind}"].to("cpu" if kind == "step" else self.device)
                for kind in ("step", "exp_avg", "exp_avg_sq")
            }
        loader.load_state_dict(state["loader"])
        return int(state["step"]), float(state["seconds"])


def learning_rate(config: OptimConfig, step: int) -> float:
    """Linear warm-up, then linear decay to zero at the last step (or a constant rate)."""
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    # One more than the steps left, so that the last step still moves the weights.
    return config.lr * (config.steps - step + 1) / (config.steps - config.warmup_steps + 1)
