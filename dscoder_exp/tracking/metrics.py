"""The names of all metrics, with meaning and unit. Other names are rejected, so that all runs use the same ones."""

from collections.abc import Iterable
from difflib import get_close_matches

METRICS = {
    "train/loss": "mean negative log-likelihood of the step's counted tokens, nats",
    "train/grad_norm": "global gradient norm before clipping",
    "train/lr": "learning rate the step used",
    "train/skipped_steps": "steps so far that were skipped because the loss or gradient was not finite",
    "train/loss_scale": "loss scale: the factor on fp16 gradients against underflow",
    "eval/loss": "mean negative log-likelihood over the held-out rows, nats",
    "perf/tokens_per_s": "all positions, padding too, over all ranks",
    "perf/useful_tokens_per_s": "positions that are not padding, over all ranks",
    "perf/loss_tokens_per_s": "positions that the loss counts, over all ranks",
    "perf/tokens_per_s_per_device": "perf/tokens_per_s divided by the number of ranks",
    "perf/mfu": "model FLOPs utilization: fraction of the devices' peak, 0 to 1",
    "perf/step_time_s": "seconds per optimizer step, compilation excluded",
    "perf/compile_time_s": "seconds of compilation in an optimizer step",
    "predict/tokens_per_s": "new tokens divided by the time for the whole answer",
    "predict/prefill_tokens_per_s": "prompt tokens divided by the time to the first new token",
    "predict/first_token_s": "seconds until the first new token",
    "evaluate/pass_at_1": "fraction of the problems solved at the first attempt, 0 to 1",
}


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError, with the nearest known name of each, if there are unknown metric names."""
    unknown = []
    for name in names:
        if name not in METRICS:
            near = get_close_matches(name, METRICS, n=1)
            unknown.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if unknown:
        raise ValueError(f"unknown metric {', '.join(unknown)}; add it to {__name__}.METRICS")
