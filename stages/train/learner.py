"""Training one student: the step, the validation, and a state that is saved and restored bit for bit.

A step depends only on the config, the cache, the weights and its own number. With several ranks, each takes its share
of every batch's rows. The loss is the mean over all ranks' frames, so the number of ranks changes only the last
digits (and which dropout masks and augmentations are drawn).

Axes: B batch, K predicted layers.
"""

import contextlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from gdist.pipeline.console import say
from gdist.pipeline.errors import RunError
from gdist.pipeline.loading.batch import Batch
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.run import Run
from gdist.pipeline.run.checkpoints import nbytes
from gdist.stages.device import Arriving, to_device
from gdist.stages.students import Student
from gdist.stages.train.checkpoint import MOMENTS, require_match
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.objective import Objective
from gdist.stages.train.ranks import Ranks
from gdist.stages.train.schedule import forced_share, learning_rate
from gdist.stages.train.stopping import Asked
from gdist.stages.train.validation import Validation

# Offsets between seeds, far enough apart that no two seeds are the same.
FORCING_SEED, AUGMENT_SEED, RANK_STRIDE = 1 << 56, 1 << 57, 1 << 44


class Learner:
    """A student, its optimizer and its averaged weights, with the training step and the validation.

    Attributes:
        objective: the student with its loss, on the ranks' device.
        validated: the objective of the student that is validated.
        distributed: the objective, wrapped for several ranks where there are several.
        grad_norm: the gradient norm of the last step.
        names: of the teachers, in the student's order.
    """

    def __init__(
        self, student: Student, config: TrainConfig, ranks: Ranks | None = None, names: Sequence[str] = ()
    ) -> None:
        self.names = names or [teacher.name for teacher in student.teachers]
        self.config, self.ranks = config, ranks or Ranks()
        self.student = student.to(self.ranks.device)
        self.objective = Objective(student, config)
        if config.train.compile:
            for place in range(len(student.teachers)):
                for layer in student.layers_of(place):
                    layer.compile(dynamic=True)
        self.params = dict(student.named_parameters())
        self.grad_norm = 0.0
        optim = config.train
        decayed = [p for p in self.params.values() if p.ndim > 1]
        plain = [p for p in self.params.values() if p.ndim <= 1]  # biases and norms
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=optim.lr,
            betas=(optim.betas[0], optim.betas[1]),
            eps=optim.eps,
            fused=True,  # one pass over the weights instead of a dozen; on a GPU, a few launches instead of hundreds
        )
        self.average = AveragedModel(student) if optim.ema_decay else None
        self.validated = self.objective if self.average is None else Objective(self.result, config)
        self._distribute()

    def _distribute(self) -> None:
        self.distributed: nn.Module = self.objective
        if self.ranks.world > 1:
            # Which parameters a step uses depends on the layers it predicts. (This option is also what makes a
            # resumed run sum gradients in the same order as a run that was never stopped.)
            self.distributed = DistributedDataParallel(self.objective, find_unused_parameters=True)

    @property
    def result(self) -> Student:
        """The student that is validated and kept: the averaged one, where weights are averaged."""
        return self.student if self.average is None else cast(Student, self.average.module)

    @property
    def frozen(self) -> bool:
        """Whether the front-end is not trained, and layer 0 comes from the cache."""
        return not self.objective.reads_audio

    def thaw(self) -> None:
        """From now on, a frozen front-end reads audio and is trained too."""
        self.student.frontend.requires_grad_(True)
        self.objective.reads_audio = True
        self._distribute()

    def step(self, step: int, batches: list[Batch], stopping: Sequence[int] = ()) -> tuple[float, float, bool]:
        """One update from the gradients of all ``batches``: :meth:`begin` and :meth:`finish`."""
        self.begin(step, batches, stopping)
        return self.finish()

    def begin(self, step: int, batches: list[Batch], stopping: Sequence[int] = ()) -> None:
        """Compute the gradients of one update. On a GPU, this thread does not wait for them.

        Args:
            stopping: not empty once this rank was asked to stop.

        Raises:
            Asked: it was asked to stop between two batches of the step, and trains alone; all is as before the step.
        """
        self.student.train()
        self.optimizer.zero_grad(set_to_none=True)
        device = self.ranks.device
        frames = sum(batch.total_frames for batch in batches)
        losses, cosine = [], torch.zeros((), dtype=torch.float64, device=device)
        buffers = [buffer.clone() for buffer in self.student.buffers()] if len(batches) > 1 else []
        for place, batch in enumerate(batches):
            if place and stopping and self.ranks.world == 1:
                for buffer, before in zip(self.student.buffers(), buffers, strict=True):
                    buffer.copy_(before)
                raise Asked
            seed = self._seed(step, place)
            forced_BK = self._draw_forced(step, batch, torch.Generator().manual_seed(seed + FORCING_SEED))
            torch.manual_seed(seed + self.ranks.rank * RANK_STRIDE)
            alone = self.ranks.world > 1 and place < len(batches) - 1
            with self.distributed.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                loss_K, cosine_K = self.distributed(batch, forced_BK)
                share = batch.frames / frames
                loss = loss_K.mean() * share
                torch.autograd.backward(loss * self.ranks.world)  # DDP averages over ranks
            losses.append(loss.detach().double())
            cosine = cosine + cosine_K.mean().double() * share
        stops = torch.full_like(cosine, float(bool(stopping)))
        norm = nn.utils.clip_grad_norm_(list(self.params.values()), self.config.train.clip_norm)
        sums = self.ranks.add(torch.stack([cosine, stops, *losses]))
        self._begun = step, [batch.all_ids for batch in batches], Arriving(torch.cat([sums, norm.double()[None]]))

    def finish(self) -> tuple[float, float, bool]:
        """Update the weights with the gradients that :meth:`begin` has computed.

        Returns:
            (loss, mean cosine, whether any rank was asked to stop), the same on every rank.

        Raises:
            RunError: the loss is not finite; the utterances are named and the weights are as before the step.
        """
        step, utterances, figures = self._begun
        # The only place in a step where this thread waits for the device: all figures in one copy, before the update,
        # because a loss that is not finite must not reach the weights.
        mean_cosine, stop, *parts, self.grad_norm = figures.tolist()
        for ids, part in zip(utterances, parts, strict=True):
            if not math.isfinite(part):
                raise RunError(
                    f"the loss at step {step} is {part}; utterances: {', '.join(ids[:20])}",
                    "a lower train.lr or train.clip_norm, or train.precision=fp32; the last checkpoint is kept",
                )
        self._update(step)
        return sum(parts), mean_cosine, bool(stop)

    def augmented(self, step: int, place: int, batch: Batch) -> Batch:
        """The batch that is ``place``-th in its step, with its audio augmented; it may be called from any thread."""
        seed = self._seed(step, place) + AUGMENT_SEED + self.ranks.rank * RANK_STRIDE
        return self.objective.augmented(batch, torch.Generator().manual_seed(seed))

    def _seed(self, step: int, place: int) -> int:
        """Seeded by the step's number, random draws need no state in a checkpoint."""
        return (self.config.train.seed * 1_000_003 + step) * 64 + place

    def _update(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()
        if self.average is not None:
            self._average(self.average)

    @torch.no_grad()
    def _average(self, average: AveragedModel) -> None:
        """What ``average.update_parameters`` does, which would copy its count to the GPU and wait for that."""
        own: list[Tensor] = list(average.module.parameters())
        new: list[Tensor] = list(self.student.parameters())
        if int(average.n_averaged) == 0:
            torch._foreach_copy_(own, new)
        else:
            torch._foreach_lerp_(own, new, 1 - self.config.train.ema_decay)
        for own_buffer, buffer in zip(average.module.buffers(), self.student.buffers(), strict=True):
            own_buffer.copy_(buffer)
        average.n_averaged += 1

    def _draw_forced(self, step: int, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Whether each predicted layer of each utterance on this rank starts from the teacher's state, ``[B, K]``."""
        ratio = forced_share(self.config.train, step, self.student.teacher_ratio)
        if not ratio:
            return None
        # Drawn for the rows of all ranks, on the CPU, so that the draws do not depend on ranks or devices.
        draws_BK = torch.rand(len(batch.all_ids), len(self.student.predicted_layers), generator=generator)
        rows = list(batch.rows) or [0]  # an idle rank has one row of silence
        return to_device(draws_BK[rows] < ratio, self.ranks.device)

    def layer_name(self, layer: int) -> str:
        """What a layer is called in metrics: ``3``, or ``wavlm:3`` where there are several teachers."""
        for name, teacher in zip(self.names, self.student.teachers, strict=True):
            if len(self.names) > 1 and layer in teacher.numbers:
                return f"{name}:{layer - teacher.offset}"
        return str(layer)

    def validate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Loss and cosine on held-out utterances: see :class:`Validation`."""
        validation = Validation(self)
        for batch in batches:
            validation.add(batch)
        return validation.means()

    def rate(self, step: int) -> float:
        """The learning rate of a step (counted from 1): a pure function of the config."""
        return learning_rate(self.config.train, step)

    # --- state --------------------------------------------------------------------------------------------------

    def save(self, run: Run, step: int, position: dict[str, int], seconds: float) -> None:
        """Save a checkpoint: weights, their average, the optimizer's state and the loader's position."""
        optimizer: dict[str, Tensor] = {
            f"{name}.{kind}": value
            for name, parameter in self.params.items()
            for kind, value in self.optimizer.state.get(parameter, {}).items()
        }
        files = {"model": self.student.state_dict(), "optimizer": optimizer}
        if self.average is not None:
            files["average"] = self.average.state_dict()
        optim = self.config.train
        state = {"loader": position, "seconds": seconds}
        run.save(step, files, state, optim.keep_checkpoints, optim.keep_every)

    @property
    def checkpoint_bytes(self) -> int:
        """How much a checkpoint takes on disk: weights, two moments of each that is trained, and averaged weights."""
        weights = nbytes(self.student.state_dict())
        return weights * (1 if self.average is None else 2) + 2 * nbytes(self.params)

    def restore(self, run: Run, loader: Loader) -> tuple[int, dict[str, int], float]:
        """Restore the newest checkpoint that is whole; what is wrong with a newer one is said.

        Returns:
            (step, the loader's position, seconds trained so far).

        Raises:
            RunError: all of them are damaged, or do not belong to this run.
        """
        *earlier, step = run.steps()
        while True:
            try:
                state = self._restore(run, step, loader)
            except RunError as error:
                if not earlier:
                    hint = f"delete {run.checkpoints} to begin anew, or choose another --out"
                    raise RunError(error.message, hint) from error
                step = earlier.pop()
                say(f"{error.message}; continuing from the one before it, of step {step}", style="yellow")
            else:
                return step, state["loader"], float(state["seconds"])

    def _restore(self, run: Run, step: int, loader: Loader) -> dict[str, Any]:
        """Restore one checkpoint; RunError before anything is changed where that is not possible."""
        files, state = run.load(step, self.checkpoint_bytes)
        wanted = {"model": self.student.state_dict()}
        if self.average is not None:
            wanted["average"] = self.average.state_dict()

        def batches(epoch: int) -> int:
            return len(loader.epoch_batches(epoch))

        require_match(run.checkpoint(step), step, files, state, wanted, self.params, batches)
        self.student.load_state_dict(files["model"])
        if self.average is not None:
            self.average.load_state_dict(files["average"])
        for name, parameter in self.params.items():
            if f"{name}.step" in files["optimizer"]:  # else no step has used it yet
                self.optimizer.state[parameter] = {
                    kind: files["optimizer"][f"{name}.{kind}"].to(self.ranks.device) for kind in MOMENTS
                }
        return state
