"""Putting a comparison together from the selected runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from dscoder_exp.comparison.artifacts import RUNS_WITH_ANSWERS, answers, data_sets
from dscoder_exp.comparison.curves import gather
from dscoder_exp.comparison.differences import differences, group_labels, groups, labels
from dscoder_exp.comparison.histories import read_histories, thinned_by_server
from dscoder_exp.comparison.measures import HISTORIES, ranking_metric
from dscoder_exp.comparison.missing import absent_runs
from dscoder_exp.comparison.report import Comparison
from dscoder_exp.comparison.runs import ComparedRun
from dscoder_exp.comparison.selection import Selection
from dscoder_exp.tracking.remote import without_password

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")


def compare_runs(
    client: MlflowClient,
    uri: str,
    selection: Selection,
    runs: Sequence[ComparedRun],
    on_run: Callable[[], None] = lambda: None,
) -> Comparison:
    """Read what the runs have logged, and set them side by side.

    Args:
        uri: of the client's store.
        on_run: called after each run that was read.

    Raises:
        Refused: the runs have no metric in common, or the store stopped answering.
    """
    ranking, names = ranking_metric(runs), [run.name for run in runs]
    found = differences([run.params for run in runs])
    group_of, run_labels = groups(found), labels(names, found)
    ordered = [runs[place].id for place in sorted(range(len(runs)), key=lambda place: group_of[place])]
    logged = [metric for metric in HISTORIES if any(metric in run.metrics for run in runs)]
    gathered = gather(runs, group_of, _told(read_histories(uri, client, ordered, logged), on_run))
    longest = max((curve.points for curves in gathered.curves.values() for curve in curves), default=0)
    shown = Comparison(
        title=selection.title,
        store=without_password(uri),
        made=time.strftime("%Y-%m-%d %H:%M"),
        runs=runs,
        differences=found,
        labels=run_labels,
        groups=group_of,
        group_labels=group_labels(names, found, group_of),
        ranking=ranking,
        gathered=gathered,
        absent=absent_runs(runs, run_labels, selection.sweep),
        sampled=uri.startswith("http") and thinned_by_server(len(runs), longest),
        data_sets=data_sets(client, runs),
        answers=None,
    )
    return replace(shown, answers=answers(client, runs, shown.ranked()[:RUNS_WITH_ANSWERS]))


def _told(histories: Iterator[T], on_run: Callable[[], None]) -> Iterator[T]:
    for history in histories:
        on_run()
        yield history
