"""Which runs are compared: those of an experiment, of a sweep, or listed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dscoder_exp.comparison.runs import PARENT_TAG, SWEEP_TAG, ComparedRun, from_mlflow
from dscoder_exp.schema.config import CompareConfig
from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.suggest import did_you_mean, nearest

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PAGE = 1000  # runs a request
MAX_SUGGESTED = 1000  # newest runs among whose ids and names a suggestion is looked for
NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class Selection:
    """The runs to compare, before they are read.

    Attributes:
        title: what they are, for the report's head.
        ids: of listed runs; empty: those that `filter` finds in the experiments.
        sweep: the sweep's parent run, where the jobs of one sweep are compared.
    """

    title: str
    experiment_ids: Sequence[str] = ()
    filter: str = ""
    ids: Sequence[str] = ()
    sweep: ComparedRun | None = None


def select(client: MlflowClient, compare: CompareConfig) -> Selection:
    """Find what the configuration names; without a name, the sweep that was started last.

    Raises:
        Refused: an experiment or run that the store doesn't have, with the nearest names; a run that is no sweep's.
    """
    if compare.runs:
        return _listed(client, compare.runs)
    if compare.experiment is not None:
        return _experiment(client, compare.experiment)
    if compare.sweep is not None:
        return _sweep(client, _existing(client, compare.sweep, "compare.sweep"))
    newest = latest_sweep(client)
    if newest is None:
        names = ", ".join(repr(found.name) for found in _experiments(client))
        remedy = f"compare.experiment=NAME (there are: {names}), or compare.runs=[ID,ID]"
        raise refuse("compare.sweep", "the store has no sweep to compare", remedy)
    return _sweep(client, newest)


def read_runs(client: MlflowClient, selection: Selection) -> list[ComparedRun]:
    """The selected runs, oldest first, without sweeps' parent runs.

    Raises:
        Refused: there are none but those.
    """
    if selection.ids:
        found = [from_mlflow(client.get_run(id)) for id in selection.ids]
    else:
        found = [from_mlflow(run) for run in _search(client, selection.experiment_ids, selection.filter)]
    runs = sorted((run for run in found if not run.is_sweep), key=lambda run: (run.started, run.name))
    if not runs:
        raise refuse("compare", f"{selection.title} has no runs besides sweeps' own", "compare.sweep=ID")
    return runs


def latest_sweep(client: MlflowClient) -> ComparedRun | None:
    """The parent run of the sweep that was started last."""
    newest = next(_search(client, _experiment_ids(client), f"tags.`{SWEEP_TAG}` = 'true'", limit=1), None)
    return None if newest is None else from_mlflow(newest)


def _listed(client: MlflowClient, ids: Sequence[str]) -> Selection:
    problems, ids = [], list(dict.fromkeys(ids))
    for id in ids:
        try:
            if _existing(client, id, "compare.runs").is_sweep:
                what = f"run {id} is a sweep's parent run, which has no metrics of its own"
                problems.append(Problem("compare.runs", what, f"its jobs: compare.sweep={id}"))
        except Refused as refused:
            problems += refused.problems
    if problems:
        raise Refused(problems)
    return Selection(f"{len(ids)} listed runs", ids=ids)


def _experiment(client: MlflowClient, name: str) -> Selection:
    found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "deleted":
        names = [experiment.name for experiment in _experiments(client)]
        state = "was deleted" if found else "is not in the store"
        there = f"there are: {', '.join(map(repr, names))}"
        raise refuse("compare.experiment", f"{name!r} {state}", did_you_mean(nearest(name, names)) or there)
    if next(_search(client, [found.experiment_id], "", limit=1), None) is None:
        raise refuse("compare.experiment", f"experiment {name} has no runs", "give another one, or run something first")
    return Selection(f"experiment {name}", experiment_ids=[found.experiment_id])


def _sweep(client: MlflowClient, parent: ComparedRun) -> Selection:
    jobs = f"tags.`{PARENT_TAG}` = '{parent.id}'"
    experiment_ids = _experiment_ids(client)
    if next(_search(client, experiment_ids, jobs, limit=1), None) is None:
        remedy = f"its sweep: compare.sweep={parent.parent}" if parent.parent else f"compare.runs=[{parent.id}]"
        raise refuse("compare.sweep", f"run {parent.id} ({parent.name}) has no jobs", remedy)
    return Selection(f"sweep {parent.name}", experiment_ids=experiment_ids, filter=jobs, sweep=parent)


def _existing(client: MlflowClient, id: str, key: str) -> ComparedRun:
    """The run. Raises Refused where the store doesn't have it."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(id)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise
        raise Refused([_unknown_run(client, id, key)]) from error
    if found.info.lifecycle_stage == "deleted":
        raise refuse(key, f"run {id} was deleted", "restore it in MLflow, or leave it out")
    return from_mlflow(found)


def _unknown_run(client: MlflowClient, id: str, key: str) -> Problem:
    """Suggests ids that begin so, runs of that name, or else near ids and names."""
    runs = [run.info for run in _search(client, _experiment_ids(client), "", limit=MAX_SUGGESTED)]
    meant = [run for run in runs if run.run_id.startswith(id) or run.run_name == id]
    if not meant:
        near = set(nearest(id, {word for run in runs for word in (run.run_id, run.run_name or "")}))
        meant = [run for run in runs if {run.run_id, run.run_name} & near]
    names = [f"{run.run_id} ({run.run_name})" for run in meant[:3]]
    remedy = did_you_mean(names) or "compare.experiment=NAME compares all runs of an experiment"
    return Problem(key, f"the store has no run {id!r}", remedy)


def _experiments(client: MlflowClient) -> list[Any]:
    return list(client.search_experiments())


def _experiment_ids(client: MlflowClient) -> list[str]:
    return [found.experiment_id for found in _experiments(client)]


def _search(
    client: MlflowClient, experiment_ids: Sequence[str], filter: str, limit: int | None = None
) -> Iterator[Run]:
    """The runs that the filter finds, newest first, at most `limit`."""
    token, left = None, limit
    while left is None or left > 0:
        size = PAGE if left is None else min(left, PAGE)
        order = ["attributes.start_time DESC"]
        page = client.search_runs(list(experiment_ids), filter, max_results=size, order_by=order, page_token=token)
        yield from page
        token, left = page.token, None if left is None else left - len(page)
        if not token:
            return
