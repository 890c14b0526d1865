"""The learning rate of each optimizer step."""

import math

from dscoder_exp.schema.config import OptimConfig


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (from 1) of `steps`.

    It climbs linearly from 0 over the first `warmup_ratio` of the steps, as in Hugging Face's schedules (whose first
    step has rate 0 where there is a warmup), then falls to `min_lr_ratio` of the peak, or stays.
    """
    warmup = round(optim.warmup_ratio * steps)
    done = step - 1
    if done < warmup:
        return optim.lr * done / warmup
    if optim.schedule == "constant":
        return optim.lr
    progress = (done - warmup) / max(1, steps - warmup)
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if optim.schedule == "cosine" else 1 - progress
    return optim.lr * (optim.min_lr_ratio + (1 - optim.min_lr_ratio) * shape)
