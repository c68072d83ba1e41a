"""Where the time of one training step goes, part by part, with the arithmetic of the real step.

The step is cut where one part hands its result to the next, so that each part's forward and backward pass are timed
by themselves. Axes: B batch, K predicted layers, T frames, D features.
"""

from dataclasses import replace

import torch
from timing import Laps

from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.loading.loader import Loader
from gdist.stages.train.learner import Learner
from gdist.stages.train.losses import cosine, masked_mean
from gdist.stages.train.objective import StepSelection


def step_parts(
    learner: Learner, reader: Loader, spans: list[Span], selection: StepSelection, number: int
) -> dict[str, float]:
    """Take step ``number`` in parts. Returns the seconds of each; weights change as in a real step."""
    student, config, device = learner.student, learner.config, learner.student.device
    laps = Laps(device)
    half = config.train.precision == "bf16"

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=half)

    student.train()
    learner.optimizer.zero_grad(set_to_none=True)
    with laps("reading"):
        batch = reader.read(spans, selection)
        batch = replace(batch, total_frames=batch.frames)
        given = {layer: batch.hidden(layer).to(device) for layer in selection.layers}
    whole_BTD = None
    if selection.waveforms:
        with laps("front-end, forward"), autocast():
            whole_BTD = learner.objective.encode(batch)
        given[0] = whole_BTD.detach().requires_grad_()
    with laps("layers and heads, forward"), autocast():
        prediction_BKTD = student.learn(selection.plan, given, batch.num_frames_B).float()
    cut_BKTD = prediction_BKTD.detach().requires_grad_()
    with laps("loss"):
        target_BKTD = torch.stack([given[layer] for layer in selection.plan.answers], dim=1)
        mask_BT = batch.mask_BT.to(device)
        loss_K = learner.objective.loss(cut_BKTD, target_BKTD, mask_BT, config.loss.cosine_weight)
        torch.autograd.backward(loss_K.mean())
    with laps("the reported cosine"):
        masked_mean(cosine(cut_BKTD.detach(), target_BKTD), mask_BT)
    with laps("layers and heads, backward"):
        torch.autograd.backward(prediction_BKTD, cut_BKTD.grad)
    if whole_BTD is not None:
        with laps("front-end, backward"):
            torch.autograd.backward(whole_BTD, given[0].grad)
    with laps("clipping and optimizer"):
        learner._update(number)
    return laps.seconds
