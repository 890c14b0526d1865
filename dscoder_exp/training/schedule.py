"""The learning rate of each optimizer step."""

import math

from dscoder_exp.schema.config import OptimConfig


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """Learning rate of optimizer step `step` (counted from 1) of a run of `steps` steps.

    It climbs linearly from 0 over the warmup steps, as in Hugging Face's schedules: with a warmup the first step has
    rate 0. Then it stays (constant), falls to `min_lr_ratio` of the peak (linear, cosine), or stays and falls linearly
    to that over the last `decay_ratio` of the steps (wsd: warmup, stable, decay; MiniCPM, arXiv:2404.06395).
    """
    warmup = round(optim.warmup_ratio * steps) if optim.warmup_steps is None else optim.warmup_steps
    done = step - 1
    if done < warmup:
        return optim.lr * done / warmup
    if optim.schedule == "constant":
        return optim.lr
    begin = max(warmup, steps - round(optim.decay_ratio * steps)) if optim.schedule == "wsd" else warmup
    progress = max(0, done - begin) / max(1, steps - begin)
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if optim.schedule == "cosine" else 1 - progress
    return optim.lr * (optim.min_lr_ratio + (1 - optim.min_lr_ratio) * shape)
