"""The names of all metrics, with meaning and unit. A name that is not here is refused, so charts of runs line up."""

from collections.abc import Iterable
from difflib import get_close_matches

METRICS = {
    "train/loss": "mean negative log-likelihood of the step's counted tokens, nats",
    "train/grad_norm": "global gradient norm before clipping",
    "train/lr": "learning rate the step used",
    "train/skipped_steps": "steps so far whose loss or gradient was no number",
    "train/loss_scale": "what fp16's gradients were multiplied with",
    "eval/loss": "mean negative log-likelihood over the held-out rows, nats",
    "perf/tokens_per_s": "all positions, padding too, over all ranks",
    "perf/useful_tokens_per_s": "positions that are not padding, over all ranks",
    "perf/loss_tokens_per_s": "positions that the loss counts, over all ranks",
    "perf/tokens_per_s_per_device": "perf/tokens_per_s over the number of ranks",
    "perf/mfu": "model FLOPs over the devices' peak, 0 to 1",
    "perf/step_time_s": "seconds of an optimizer step, without those of compiling",
    "perf/compile_time_s": "seconds of compiling in an optimizer step",
    "predict/tokens_per_s": "new tokens over the whole answer's time",
    "predict/prefill_tokens_per_s": "prompt tokens over the time to the first new token",
    "predict/first_token_s": "seconds until the first new token",
    "evaluate/pass_at_1": "part of the problems solved at the first try, 0 to 1",
}


def check_names(names: Iterable[str]) -> None:
    """Raises ValueError that names each unknown metric and its nearest neighbour."""
    unknown = []
    for name in names:
        if name not in METRICS:
            near = get_close_matches(name, METRICS, n=1)
            unknown.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if unknown:
        raise ValueError(f"unknown metric {', '.join(unknown)}; a new one is first listed in {__name__}.METRICS")
