"""What the report shows as tables, each as CSV and as Parquet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dscoder_exp.comparison.report import Comparison

if TYPE_CHECKING:
    from pandas import DataFrame

RUNS, CURVES, MEANS = "runs", "curves", "means"
CONTENTS = {
    RUNS: "a row a run: the keys that differ, and the metrics' values",
    CURVES: "the points of the curves, a row a point",
    MEANS: "the means over seeds and their intervals, a row a point",
}


def write_tables(directory: Path, shown: Comparison) -> list[tuple[str, str]]:
    """Write the tables; returns each file's name and what it holds."""
    written = []
    for name, table in _tables(shown):
        table.to_csv(directory / f"{name}.csv", index=False)
        table.to_parquet(directory / f"{name}.parquet", index=False)
        written += [(f"{name}.csv", CONTENTS[name]), (f"{name}.parquet", "the same")]
    return written


def runs_table(shown: Comparison) -> DataFrame:
    """A row a run; a key's column holds numbers where all its values are numbers."""
    import pandas as pd

    metrics, best = shown.metrics, shown.best()
    rows = [_row(shown, place, metrics) | {"best": place == best} for place in range(len(shown.runs))]
    table = pd.DataFrame(rows)
    for key in shown.differences.keys:
        with contextlib.suppress(ValueError):
            table[key] = pd.to_numeric(table[key])
    return table


def _tables(shown: Comparison) -> Iterator[tuple[str, DataFrame]]:
    import pandas as pd

    yield RUNS, runs_table(shown)
    gathered = shown.gathered
    if curves := [(metric, curve) for metric, found in gathered.curves.items() for curve in found]:
        lengths = [len(curve.steps) for _, curve in curves]
        columns = {
            "metric": np.repeat([metric for metric, _ in curves], lengths),
            "run_id": np.repeat([shown.runs[curve.run].id for _, curve in curves], lengths),
            "step": np.concatenate([curve.steps for _, curve in curves]),
            "seconds": np.concatenate([curve.seconds for _, curve in curves]),
            "value": np.concatenate([curve.values for _, curve in curves]),
        }
        yield CURVES, pd.DataFrame(columns)
    if means := [(metric, mean) for metric, found in gathered.means.items() for mean in found]:
        lengths = [len(mean.steps) for _, mean in means]
        columns = {
            "metric": np.repeat([metric for metric, _ in means], lengths),
            "configuration": np.repeat([shown.group_labels[shown.groups[mean.runs[0]]] for _, mean in means], lengths),
            "n": np.repeat([len(mean.runs) for _, mean in means], lengths),
            **{
                name: np.concatenate([getattr(mean, name) for _, mean in means])
                for name in ("seconds", "mean", "low", "high")
            },
        }
        columns["step"] = np.concatenate([mean.steps for _, mean in means])
        yield MEANS, pd.DataFrame(columns)


def _row(shown: Comparison, place: int, metrics: Sequence[str]) -> dict[str, Any]:
    run, figures = shown.runs[place], shown.gathered.figures[place]
    row: dict[str, Any] = {"run_id": run.id, "name": run.name, "status": run.status, "reason": run.reason}
    row |= {"configuration": shown.groups[place], **shown.differences.of(place)}
    for metric in metrics:
        figure = figures.get(metric)
        row[metric] = figure.last if figure else None
        row[f"{metric} best"] = figure.best if figure else None
        row[f"{metric} best step"] = figure.best_step if figure else None
    return row | {"seconds": run.seconds}
