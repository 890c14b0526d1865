"""What the report shows, as plain values for the page's script."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.comparison.artifacts import Answers, DataSet
from dscoder_exp.comparison.curves import Curve, Gathered, MeanCurve, t_quantiles
from dscoder_exp.comparison.differences import SEED, Differences, short_names
from dscoder_exp.comparison.measures import SCORE, better
from dscoder_exp.comparison.missing import Absent
from dscoder_exp.comparison.runs import PROTOCOL_TAG, ComparedRun
from dscoder_exp.tracking.metrics import METRICS

MAX_FREEDOM = 100  # degrees of freedom that the page has a t quantile for; beyond, the normal distribution's


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown of the compared runs.

    Attributes:
        title: what was selected, such as `sweep tiny`.
        store: the tracking URI, without a password.
        labels: of each run, unlike all others.
        groups: each run's group: runs of a group differ in the seed alone.
        group_labels: of each group.
        ranking: the metric that the best run is the best by.
        sampled: whether a server has thinned out the curves.
        answers: None: the runs have none.
    """

    title: str
    store: str
    made: str
    runs: Sequence[ComparedRun]
    differences: Differences
    labels: Sequence[str]
    groups: Sequence[int]
    group_labels: Sequence[str]
    ranking: str
    gathered: Gathered
    absent: Sequence[Absent]
    sampled: bool
    data_sets: Sequence[DataSet]
    answers: Answers | None

    @property
    def metrics(self) -> list[str]:
        """The metrics with a figure, the ranking one first."""
        found = {metric for figures in self.gathered.figures for metric in figures}
        known = [metric for metric in METRICS if metric in found and metric != self.ranking]
        return [self.ranking, *known, *sorted(found - {*known, self.ranking})]

    @property
    def has_seeds(self) -> bool:
        """Whether several runs differ in the seed alone."""
        return len(self.group_labels) < len(self.runs)

    def ranked(self) -> list[int]:
        """The places of the runs by the last value of the ranking metric, the best first; those without one last."""
        sign = 1 if better(self.ranking) == "low" else -1
        found = [figures.get(self.ranking) for figures in self.gathered.figures]
        keys = [sign * one.last if one and math.isfinite(one.last) else math.inf for one in found]
        return sorted(range(len(self.runs)), key=lambda place: keys[place])

    def best(self) -> int | None:
        """The place of the best run; None where no run has a finite value, or scores are of different protocols."""
        if self.ranking == SCORE and len(self.protocols()) > 1:
            return None
        first = self.ranked()[0]
        figure = self.gathered.figures[first].get(self.ranking)
        return first if figure and math.isfinite(figure.last) else None

    def protocols(self) -> list[str]:
        """How the scores were measured, of each protocol once; empty where it wasn't recorded."""
        scored = [run for run in self.runs if SCORE in run.metrics]
        return list(dict.fromkeys(run.tags.get(PROTOCOL_TAG, "") for run in scored))


def page_data(shown: Comparison) -> dict[str, Any]:
    """The comparison as JSON for the page."""
    names = shown.metrics
    return {
        "runs": [_run(shown, place) for place in range(len(shown.runs))],
        "groups": list(shown.group_labels),
        "hasSeeds": shown.has_seeds,
        "keys": list(shown.differences.keys),
        "short": short_names(shown.differences.keys),
        "named": len({run.name for run in shown.runs}) > 1 and any(run.parent is None for run in shown.runs),
        "swept": shown.differences.swept,
        "seed": SEED,
        "common": dict(shown.differences.common),
        "ranking": shown.ranking,
        "best": shown.best(),
        "metrics": {name: {"better": better(name), "meaning": METRICS.get(name, "")} for name in names},
        "curves": {name: _curves(curves) for name, curves in shown.gathered.curves.items()},
        "means": {name: _means(means) for name, means in shown.gathered.means.items()},
        "t": t_quantiles(MAX_FREEDOM),
        "sampled": shown.sampled,
        "scores": _scores(shown),
        "data": [asdict(one) for one in shown.data_sets],
        "answers": asdict(shown.answers) if shown.answers else None,
    }


def _run(shown: Comparison, place: int) -> dict[str, Any]:
    run, figures = shown.runs[place], shown.gathered.figures[place]
    return {
        "id": run.id,
        "name": run.name,
        "label": shown.labels[place],
        "status": run.status,
        "reason": run.reason,
        "group": shown.groups[place],
        "values": list(shown.differences.values[place]),
        "seconds": run.seconds,
        "tokensPerStep": _or_none(run.tokens_per_step),
        "flopsPerStep": _or_none(run.flops_per_step),
        "figures": {name: _figure(figures[name].last, figures[name].best, figures[name].best_step) for name in figures},
    }


def _figure(last: float, best: float | None, step: int | None) -> list[Any]:
    return [last if math.isfinite(last) else str(last), best, step]  # JSON has no NaN


def _scores(shown: Comparison) -> list[dict[str, Any]]:
    """Scores with their intervals, by protocol."""
    found = []
    for protocol in shown.protocols():
        of_it = [
            {"run": place, "score": run.metrics[SCORE], "low": _bound(run, "low"), "high": _bound(run, "high")}
            for place, run in enumerate(shown.runs)
            if SCORE in run.metrics and run.tags.get(PROTOCOL_TAG, "") == protocol
        ]
        found.append({"protocol": protocol, "scores": of_it})
    return found


def _bound(run: ComparedRun, which: str) -> float | None:
    return _or_none(run.metrics.get(f"{SCORE}_{which}", math.nan))


def _curves(curves: Sequence[Curve]) -> dict[str, Any]:
    return {
        "runs": [curve.run for curve in curves],
        "lengths": [len(curve.steps) for curve in curves],
        "points": [curve.points for curve in curves],
        "steps": _packed([curve.steps for curve in curves], np.int32),
        "seconds": _packed([curve.seconds for curve in curves], np.float32),
        "values": _packed([curve.values for curve in curves], np.float32),
    }


def _means(means: Sequence[MeanCurve]) -> dict[str, Any]:
    return {
        "runs": [list(mean.runs) for mean in means],
        "lengths": [len(mean.steps) for mean in means],
        "points": [mean.points for mean in means],
        "steps": _packed([mean.steps for mean in means], np.int32),
        "seconds": _packed([mean.seconds for mean in means], np.float32),
        "mean": _packed([mean.mean for mean in means], np.float32),
        "low": _packed([mean.low for mean in means], np.float32),
        "high": _packed([mean.high for mean in means], np.float32),
    }


def _packed(arrays: Sequence[NDArray[Any]], kind: type) -> str:
    """The arrays one after another, little-endian, in base64."""
    joined = np.concatenate(arrays).astype(np.dtype(kind).newbyteorder("<")) if arrays else np.array([], kind)
    return base64.b64encode(joined.tobytes()).decode()


def _or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None
