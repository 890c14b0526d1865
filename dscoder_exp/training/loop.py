"""The optimizer steps of a run, and what they come to."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from dscoder_exp.data.batch import Batch
from dscoder_exp.schema.config import Config, TrainConfig
from dscoder_exp.training.schedule import learning_rate
from dscoder_exp.training.step import Step, StepResult


def total_steps(train: TrainConfig, sequences: int, data: int) -> int:
    """Optimizer steps of a run over this many training sequences: `max_steps`, else as many as `epochs` takes.

    Args:
        data: data-parallel ranks.
    """
    if train.max_steps is not None:
        return train.max_steps
    return max(1, math.ceil(train.epochs * sequences / (train.batch_size * train.accumulate * data)))


def take_step(step: Step, batches: Iterator[Batch], config: Config, steps: int, stop: Callable[[], bool]) -> StepResult:
    """The next optimizer step of `steps`; see Step."""
    lr = learning_rate(config.optim, step.done + 1, steps)
    return step(list(islice(batches, config.train.accumulate)), lr, stop=stop)


def is_due(every: int | None, number: int, steps: int) -> bool:
    """Whether something is done after this step that happens every so often; the last step has its own."""
    return every is not None and number % every == 0 and number != steps


def metrics_of(result: StepResult, ranks: int) -> dict[str, float]:
    """A step's metrics by the names of tracking/metrics.py."""
    now_and_then = {
        "train/skipped_steps": result.skipped_steps,
        "train/loss_scale": result.loss_scale if result.loss_scale != 1 else 0,
        "perf/compile_time_s": result.compile_seconds,
    }
    return {name: float(value) for name, value in now_and_then.items() if value} | {
        "train/loss": result.loss,
        "train/grad_norm": result.grad_norm,
        "train/lr": result.lr,
        "perf/step_time_s": result.seconds,
        "perf/tokens_per_s": result.tokens / result.seconds,
        "perf/tokens_per_s_per_device": result.tokens / result.seconds / ranks,
        "perf/useful_tokens_per_s": result.useful_tokens / result.seconds,
        "perf/loss_tokens_per_s": result.loss_tokens / result.seconds,
    }


@dataclass
class Throughput:
    """Means over a run's steps, less the first, which compiles."""

    results: list[StepResult] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        self.results.append(result)

    def per_second(self, name: str) -> float:
        """`name`: a count of StepResult, such as tokens or useful_tokens."""
        steady = self.results[1:] or self.results
        return sum(getattr(result, name) for result in steady) / sum(result.seconds for result in steady)
