"""The metrics that are compared: which are curves, which are better low, and which one runs are ranked by."""

from collections.abc import Sequence

from dscoder_exp.comparison.runs import ComparedRun
from dscoder_exp.schema.errors import refuse

CURVES = ("train/loss", "eval/loss", "train/grad_norm")
MEANS = ("perf/tokens_per_s", "perf/useful_tokens_per_s", "perf/mfu")  # over a run's steps but the first
PEAKS = ("perf/memory_gb",)
LAST = ("predict/tokens_per_s", "predict/first_token_s", "evaluate/pass_at_1", "evaluate/pass_at_k", "evaluate/loss")
HISTORIES = (*CURVES, *MEANS, *PEAKS)  # those that are read step by step
SHOWN = ("eval/loss", "train/loss", "train/grad_norm", *MEANS, *PEAKS, *LAST)
RANKING = ("eval/loss", "evaluate/pass_at_1", "evaluate/loss", "train/loss", "predict/tokens_per_s", MEANS[0])
SCORE = "evaluate/pass_at_1"
LOWER = ("loss", "memory_gb", "first_token_s")  # ends of the names of metrics that are better low
HIGHER = ("tokens_per_s", "mfu", "pass_at_1", "pass_at_k")
MAX_NAMED = 3  # runs, in a message


def better(metric: str) -> str | None:
    """`low` or `high`; None: neither is better."""
    if metric.endswith(LOWER):
        return "low"
    return "high" if metric.endswith(HIGHER) else None


def ranking_metric(runs: Sequence[ComparedRun]) -> str:
    """The metric that runs are ranked by: the first of RANKING that two runs have, or one where there is only one run.

    Raises:
        Refused: no metric that is compared is one of two runs, so there is nothing to compare.
    """
    needed = min(2, len(runs))
    counts = {metric: sum(metric in run.metrics for run in runs) for metric in dict.fromkeys((*RANKING, *SHOWN))}
    common = [metric for metric, count in counts.items() if count >= needed]
    if common:
        return common[0]
    told = [f"{run.name} ({run.status}): {_metrics_of(run)}" for run in runs[:MAX_NAMED]]
    more = [f"{len(runs) - MAX_NAMED} more"] if len(runs) > MAX_NAMED else []
    what = f"no two of these {len(runs)} runs have a metric in common" if len(runs) > 1 else "the run has no metrics"
    raise refuse("compare", f"{what}: {'; '.join([*told, *more])}", "choose other runs")


def _metrics_of(run: ComparedRun) -> str:
    return ", ".join(sorted(run.metrics)[:4]) or run.reason or "no metrics"
