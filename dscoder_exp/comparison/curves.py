"""Curves of runs, thinned out for drawing, their means over seeds, and each run's figures."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.comparison.histories import History, RunHistories
from dscoder_exp.comparison.measures import CURVES, MEANS, PEAKS, SHOWN, better
from dscoder_exp.comparison.runs import ENDED_BADLY, ComparedRun
from dscoder_exp.comparison.thinning import kept_points

ALL_POINTS, ALL_MEANS = 160_000, 60_000  # of all curves and means: 12 and 20 bytes each; the page stays below 10 MB
MOST_POINTS, FEWEST_POINTS = 2000, 24  # of a curve
MAX_PINNED = 20  # steps of a run whose values all its curves keep
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Curve:
    """What is drawn of a run's metric.

    Attributes:
        run: its place among the runs.
        points: before some were left out.
        seconds: float64 [points], since the run's start.
    """

    run: int
    points: int
    steps: NDArray[np.int64]
    seconds: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class MeanCurve:
    """The mean of a metric over a group's runs, at the steps that all of them have.

    Attributes:
        runs: the places of the runs that are in it, at least two.
        points: before some were left out.
        low, high: float64 [points], Student's 95% interval of the mean.
    """

    runs: tuple[int, ...]
    points: int
    steps: NDArray[np.int64]
    seconds: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A metric of a run in one number.

    Attributes:
        last: the last value; of what MEANS or PEAKS names, the mean over the steps but the first, or the highest.
        best, best_step: the best finite value and its step; None without a better direction, or without one.
    """

    last: float
    best: float | None = None
    best_step: int | None = None


@dataclass
class Gathered:
    """What is shown of the runs' metrics; `figures` is in the runs' order."""

    curves: dict[str, list[Curve]] = field(default_factory=lambda: defaultdict(list))
    means: dict[str, list[MeanCurve]] = field(default_factory=lambda: defaultdict(list))
    figures: list[dict[str, Figure]] = field(default_factory=list)


def t_quantiles(largest: int) -> list[float]:
    """Of Student's distribution, two-sided at CONFIDENCE, for 1 … `largest` degrees of freedom."""
    from scipy.special import stdtrit

    return [float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) for freedom in range(1, largest + 1)]


def gather(
    runs: Sequence[ComparedRun], group_of: Sequence[int], histories: Iterable[tuple[str, RunHistories]]
) -> Gathered:
    """Take what is shown out of the runs' histories.

    Args:
        group_of: each run's group.
        histories: by run id; the runs of a group follow each other.
    """
    place_of = {run.id: place for place, run in enumerate(runs)}
    curves = sum(metric in run.metrics for run in runs for metric in CURVES)
    limit, mean_limit = _limit(ALL_POINTS, curves), _limit(ALL_MEANS, len(CURVES) * len(set(group_of)))
    gathered = Gathered(figures=[{} for _ in runs])
    group: dict[int, RunHistories] = {}
    for run_id, found in histories:
        place = place_of[run_id]
        if group and group_of[next(iter(group))] != group_of[place]:
            _add_means(gathered, runs, group, mean_limit)
            group = {}
        group[place] = found
        gathered.figures[place] = _figures(runs[place], found)
        _add_curves(gathered, runs, place, found, limit)
    _add_means(gathered, runs, group, mean_limit)
    return gathered


def _limit(points: int, curves: int) -> int:
    """Points of each of so many curves."""
    return min(MOST_POINTS, max(FEWEST_POINTS, points // max(1, curves)))


def _add_curves(gathered: Gathered, runs: Sequence[ComparedRun], place: int, found: RunHistories, limit: int) -> None:
    pinned = _pinned_steps(found)
    for metric in CURVES:
        if (history := found.get(metric)) is None:
            continue
        kept = np.flatnonzero(np.isin(history.steps, pinned))
        places = kept_points(history.values, max(4, limit - len(kept)))
        points = history.at(places if len(places) == len(history) else np.union1d(places, kept))
        seconds = points.times - runs[place].started
        gathered.curves[metric].append(Curve(place, len(history), points.steps, seconds, points.values))


def _pinned_steps(found: RunHistories) -> NDArray[np.int64]:
    """Steps at which runs are compared: those of evaluations, or else round ones."""
    if (evaluated := found.get("eval/loss")) is not None and len(evaluated) > 2:
        steps = evaluated.steps
    elif (trained := found.get("train/loss")) is not None:
        rough = max(1.0, trained.steps[-1] / MAX_PINNED)
        unit = 10 ** math.floor(math.log10(rough))
        every = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        steps = trained.steps[trained.steps % every == 0]
    else:
        return np.array([], np.int64)
    return steps[np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_PINNED)).astype(np.intp))]


def _add_means(gathered: Gathered, runs: Sequence[ComparedRun], group: Mapping[int, RunHistories], limit: int) -> None:
    """The means over the runs of a group that didn't end badly."""
    whole = {place: found for place, found in group.items() if runs[place].status not in ENDED_BADLY}
    for metric in CURVES:
        members = {place: found[metric] for place, found in whole.items() if metric in found}
        if len(members) < 2:
            continue
        shared = _shared(list(members.values()))
        if len(shared[0]):
            seconds = np.stack(
                [history.times - runs[place].started for place, history in zip(members, shared, strict=True)]
            )
            gathered.means[metric].append(_mean(tuple(members), shared, seconds.mean(axis=0), limit))


def _shared(histories: Sequence[History]) -> list[History]:
    """The histories at the steps that all of them have."""
    steps = histories[0].steps
    for history in histories[1:]:
        steps = np.intersect1d(steps, history.steps, assume_unique=True)
    return [history.at(np.searchsorted(history.steps, steps)) for history in histories]


def _mean(
    members: tuple[int, ...], histories: Sequence[History], seconds: NDArray[np.float64], limit: int
) -> MeanCurve:
    values = np.stack([history.values for history in histories])  # [runs, steps]
    count = len(members)
    mean = values.mean(axis=0)
    half = t_quantiles(count - 1)[-1] * values.std(axis=0, ddof=1) / math.sqrt(count)
    kept = kept_points(mean, limit)
    steps = histories[0].steps
    return MeanCurve(
        members, len(steps), steps[kept], seconds[kept], mean[kept], (mean - half)[kept], (mean + half)[kept]
    )


def _figures(run: ComparedRun, found: RunHistories) -> dict[str, Figure]:
    figures = {metric: Figure(run.metrics[metric]) for metric in SHOWN if metric in run.metrics}
    for metric in MEANS:
        if metric in found:
            values = found[metric].values
            figures[metric] = Figure(float((values[1:] if len(values) > 1 else values).mean()))
    for metric in PEAKS:
        if metric in found:
            figures[metric] = Figure(float(found[metric].values.max()))
    for metric in CURVES:
        if metric in found:
            figures[metric] = _with_best(metric, found[metric])
    return figures


def _with_best(metric: str, history: History) -> Figure:
    figure = Figure(float(history.values[-1]))
    finite = np.isfinite(history.values)
    if better(metric) is None or not finite.any():
        return figure
    place = int(np.where(finite, history.values, np.inf).argmin())  # all curves are better low
    return replace(figure, best=float(history.values[place]), best_step=int(history.steps[place]))
