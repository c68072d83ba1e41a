"""What changes from step to step: the learning rate, and how often the teacher's states are given."""

from gdist.stages.train.config import OptimConfig


def learning_rate(config: OptimConfig, step: int) -> float:
    """Linear warm-up, then linear decay to zero at the last step (or a constant rate)."""
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    # One more than the number of steps left, so that the last step still changes the weights.
    return config.lr * (config.steps - step + 1) / (config.steps - config.warmup_steps + 1)


def forced_share(config: OptimConfig, step: int, last: float) -> float:
    """The share of generated layers that start from the teacher's state at ``step``.

    Over ``forcing_steps`` steps it falls from 1 to ``last``, the student's own share.
    """
    if step > config.forcing_steps:
        return last
    return 1.0 - (1.0 - last) * (step - 1) / config.forcing_steps
