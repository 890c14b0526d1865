"""The main figures as PNG files, for a page of text or a message: curves, speeds and scores."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dscoder_exp.comparison.curves import t_quantiles
from dscoder_exp.comparison.measures import CURVES, MEANS, PEAKS, SCORE, better
from dscoder_exp.comparison.report import Comparison
from dscoder_exp.comparison.runs import PROTOCOL_TAG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart, but those that are faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")
GREY = "#a9b0b7"
ALL_NAMED, BEST_NAMED = 12, 8  # as in page/report.js
MAX_SCORES, MAX_BARS, MAX_TEXTS = 40, 40, 200
DPI = 110


def write_pictures(directory: Path, shown: Comparison) -> list[tuple[str, str]]:
    """Write the pictures that there is something for; returns each file's name and what it shows."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # Hydra's logging would show its search for fonts
    drawn = [
        ("curves.png", "the curves over optimizer steps", _curves(shown)),
        ("speeds.png", "speed and memory by the swept values", _speeds(shown)),
        ("scores.png", "the scores with their intervals", _scores(shown)),
    ]
    written = []
    for name, what, figure in drawn:
        if figure is not None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph .* missing")  # such characters are drawn as boxes
                figure.savefig(directory / name, dpi=DPI)
            written.append((name, what))
    return written


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _curves(shown: Comparison) -> Figure | None:
    metrics = [metric for metric in CURVES if metric in shown.gathered.curves]
    if not metrics:
        return None
    figure = _figure(6 * len(metrics), 5.2)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    named = {axis: _draw_curves(axis, shown, metric) for axis, metric in zip(axes, metrics, strict=True)}
    first = max(named, key=lambda axis: len(named[axis]))
    handles, texts = first.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=min(3, len(texts)), fontsize=8)
    return figure


def _draw_curves(axis: Axes, shown: Comparison, metric: str) -> list[str]:
    """Draw the means over seeds, and the other runs; returns what is named."""
    means = shown.gathered.means.get(metric, [])
    inside = {run for mean in means for run in mean.runs}
    lines = [(mean.runs, mean.steps, mean.mean, mean) for mean in means]
    lines += [((c.run,), c.steps, c.values, None) for c in shown.gathered.curves[metric] if c.run not in inside]
    lines.sort(key=lambda line: _rank(shown, line[0]))
    count = len(lines) if len(lines) <= ALL_NAMED else BEST_NAMED
    for _, steps, values, _ in lines[count:]:
        axis.plot(steps, _gaps(values), color=GREY, linewidth=0.5, alpha=0.5, zorder=1)
    names = []
    for index, (runs, steps, values, mean) in enumerate(lines[:count]):
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
        group = shown.group_labels[shown.groups[runs[0]]]
        names.append(f"{group or 'all'} (mean of {len(runs)} seeds)" if mean else shown.labels[runs[0]])
        marker = "o" if len(steps) == 1 else None
        axis.plot(steps, _gaps(values), color=colour, linestyle=dash, marker=marker, label=names[-1], zorder=3)
        if mean:
            axis.fill_between(steps, mean.low, mean.high, color=colour, alpha=0.2, linewidth=0, zorder=2)
    others = f"; the best {count} of {len(lines)} in colour" if len(lines) > count else ""
    axis.set_title(f"{metric}: {len(shown.gathered.curves[metric])} of {len(shown.runs)} runs{others}", fontsize=9)
    axis.set(xlabel="optimizer step", ylabel=metric)
    axis.grid(alpha=0.3)
    return names


def _rank(shown: Comparison, runs: Sequence[int]) -> float:
    """The mean of the ranking metric, so that the best comes first."""
    figures = [shown.gathered.figures[run].get(shown.ranking) for run in runs]
    values = [figure.last for figure in figures if figure and math.isfinite(figure.last)]
    return float(np.mean(values)) * (1 if better(shown.ranking) == "low" else -1) if values else math.inf


def _gaps(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _speeds(shown: Comparison) -> Figure | None:
    """By the swept key with the fewest values, as the page shows it first: bars, or a heat map over two keys."""
    metrics = [metric for metric in (*MEANS, *PEAKS) if metric in shown.metrics]
    keys = shown.differences.swept[:2]
    if not metrics or not keys:
        return None
    figure = _figure(6 * len(metrics), 4.2)
    for axis, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        cells = _cells(shown, metric, keys)
        count = sum(map(len, cells.values()))
        if len(keys) == 1:
            _bars(axis, {key[0]: values for key, values in cells.items()})
        else:
            _heat_map(axis, cells, keys)
        axis.set_title(f"{metric}: mean over {count} of {len(shown.runs)} runs", fontsize=9)
        axis.set_xlabel(keys[0])
    return figure


def _cells(shown: Comparison, metric: str, keys: Sequence[str]) -> dict[tuple[str, ...], list[float]]:
    """Values of the keys -> finite values of the metric."""
    cells: dict[tuple[str, ...], list[float]] = {}
    for place, figures in enumerate(shown.gathered.figures):
        if metric in figures and math.isfinite(figures[metric].last):
            found = shown.differences.of(place)
            cells.setdefault(tuple(found[key] for key in keys), []).append(figures[metric].last)
    return cells


def in_order(values: Sequence[str]) -> list[str]:
    """Each value once, numbers first and by their size."""

    def key(text: str) -> tuple[bool, float, str]:
        try:
            return False, float(text), ""
        except ValueError:
            return True, 0.0, text

    return sorted(dict.fromkeys(values), key=key)


def _bars(axis: Axes, cells: dict[str, list[float]]) -> None:
    names = in_order(list(cells))[:MAX_BARS]
    means = [float(np.mean(cells[name])) for name in names]
    quantile = t_quantiles(max(1, *(len(values) for values in cells.values())))
    half = [
        quantile[len(v) - 2] * np.std(v, ddof=1) / math.sqrt(len(v)) if len(v) > 1 else 0
        for v in map(cells.get, names)
        if v
    ]
    bars = axis.bar(names, means, yerr=half if any(half) else None, color=COLOURS[0], capsize=4)
    texts = [
        f"{mean:.4g}" + (f"\nn={len(cells[name])}" if len(cells[name]) > 1 else "")
        for name, mean in zip(names, means, strict=True)
    ]
    axis.bar_label(bars, texts, label_type="center", color="white", fontsize=8)
    axis.tick_params(axis="x", labelrotation=30 if max(map(len, names)) > 8 else 0)


def _heat_map(axis: Axes, cells: dict[tuple[str, ...], list[float]], keys: Sequence[str]) -> None:
    xs, ys = (in_order([cell[index] for cell in cells]) for index in (0, 1))
    grid = np.array([[np.mean(cells.get((x, y), [np.nan])) for x in xs] for y in ys])
    image = axis.imshow(grid, cmap="cividis", aspect="auto", origin="lower")
    axis.set_xticks(range(len(xs)), xs)
    axis.set_yticks(range(len(ys)), ys)
    axis.set_ylabel(keys[1])
    axis.figure.colorbar(image, ax=axis)
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    if grid.size <= MAX_TEXTS:
        for (row, column), value in np.ndenumerate(grid):
            colour = "white" if value < middle else "black"
            axis.text(
                column,
                row,
                "" if math.isnan(value) else f"{value:.4g}",
                ha="center",
                va="center",
                color=colour,
                fontsize=8,
            )


def _scores(shown: Comparison) -> Figure | None:
    """A panel a protocol: scores of different ones aren't set on one axis."""
    protocols = shown.protocols()
    if not protocols:
        return None
    figure = _figure(7 * len(protocols), 5)
    for axis, protocol in zip(figure.subplots(1, len(protocols), squeeze=False)[0], protocols, strict=True):
        of_it = [
            place
            for place, run in enumerate(shown.runs)
            if SCORE in run.metrics and run.tags.get(PROTOCOL_TAG, "") == protocol
        ]
        of_it = sorted(of_it, key=lambda place: shown.runs[place].metrics[SCORE])[-MAX_SCORES:]
        scores = np.array([shown.runs[place].metrics[SCORE] for place in of_it])
        low, high = (
            np.array(
                [
                    shown.runs[place].metrics.get(f"{SCORE}_{which}", score)
                    for place, score in zip(of_it, scores, strict=True)
                ]
            )
            for which in ("low", "high")
        )
        rows = range(len(of_it))
        axis.errorbar(scores, rows, xerr=[scores - low, high - scores], fmt="o", color=COLOURS[0], capsize=3)
        axis.set_yticks(rows, [shown.labels[place] for place in of_it], fontsize=8)
        axis.set(xlabel=SCORE, xlim=(0, 1))
        axis.set_title(f"{len(of_it)} runs, protocol {protocol or 'not recorded'}", fontsize=9)
        axis.grid(alpha=0.3, axis="x")
    return figure
