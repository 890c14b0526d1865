"""Reading what runs have logged over their steps, for many runs at once.

MLflow's client answers for one run and metric at a time, 40 times slower than a database asked directly. A server is
asked for a hundred runs at a time, and thins out what is longer than `MAX_POINTS`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.schema.errors import refuse
from dscoder_exp.tracking.connect import uri_key

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RUNS_AT_ONCE = 100  # MLflow's limit for a request
MAX_POINTS = 2500  # of a run's metric in a server's answer: MLflow's limit
POINTS_OF_AN_ANSWER = 250_000  # a server's answer to a request holds at most so many, in about 30 MB
HISTORY_ENDPOINT = "/api/2.0/mlflow/metrics/get-history-bulk-interval"
LARGEST = np.finfo(np.float64).max
# A step that was logged again has several values; the last one counts.
QUERY = "SELECT step, timestamp, value, is_nan FROM metrics WHERE run_uuid = {0} AND key = {0} ORDER BY step, timestamp"


@dataclass(frozen=True)
class History:
    """A metric of a run over its steps, which rise.

    Attributes:
        steps: int64 [points].
        times: float64 [points], seconds since 1970.
        values: float64 [points]; NaN and infinite as they were logged.
    """

    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, places: NDArray[np.intp]) -> History:
        """The points at these indices."""
        return History(self.steps[places], self.times[places], self.values[places])


RunHistories = Mapping[str, History]  # metric -> history, without metrics that the run lacks


def read_histories(
    uri: str, client: MlflowClient, run_ids: Sequence[str], metrics: Sequence[str]
) -> Iterator[tuple[str, RunHistories]]:
    """The histories of each run, in the order of the runs; holds at most RUNS_AT_ONCE of them in memory.

    Raises:
        Refused: the server or the database doesn't answer.
    """
    if uri.startswith("http"):
        read = _from_server(uri, run_ids, metrics)
    elif uri.startswith("databricks"):
        read = _from_client(client, run_ids, metrics)
    else:
        read = _from_database(uri, run_ids, metrics)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield from read
    except (MlflowException, SQLAlchemyError, OSError) as error:
        what = f"the store stopped answering: {str(error).splitlines()[0]}"
        raise refuse(uri_key(), what, "give the command again once it answers") from error


def thinned_by_server(runs: int, longest: int) -> bool:
    """Whether a server has left points out, if the longest history of so many runs has `longest` points."""
    return longest >= _points_of_a_run(runs)


def _from_database(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> Iterator[tuple[str, RunHistories]]:
    """One query a run and metric, answered from the index (run, key, step)."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    try:
        mark = {"qmark": "?", "format": "%s", "pyformat": "%s"}[engine.dialect.paramstyle]
        # The driver's own cursor: SQLAlchemy's rows would take three times as long
        with closing(engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
            for run_id in run_ids:
                found = {}
                for metric in metrics:
                    cursor.execute(QUERY.format(mark), (run_id, metric))
                    if rows := cursor.fetchall():
                        found[metric] = _history(rows)
                yield run_id, found
    finally:
        engine.dispose()


def _from_server(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> Iterator[tuple[str, RunHistories]]:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request_safe

    points = _points_of_a_run(len(run_ids))
    for begin in range(0, len(run_ids), RUNS_AT_ONCE):
        batch = run_ids[begin : begin + RUNS_AT_ONCE]
        found: dict[str, dict[str, History]] = {run_id: {} for run_id in batch}
        for metric in metrics:
            asked = {"run_ids": list(batch), "metric_key": metric, "max_results": points}
            answer = http_request_safe(get_default_host_creds(uri), HISTORY_ENDPOINT, "GET", params=asked).json()
            rows = defaultdict(list)
            for point in answer.get("metrics", []):
                value = float(point["value"])  # also "NaN" and "Infinity"
                row = int(point.get("step", 0)), int(point["timestamp"]), value, math.isnan(value)
                rows[point["run_id"]].append(row)
            for run_id, points_of_run in rows.items():
                found[run_id][metric] = _history(sorted(points_of_run))
        yield from found.items()


def _from_client(
    client: MlflowClient, run_ids: Sequence[str], metrics: Sequence[str]
) -> Iterator[tuple[str, RunHistories]]:
    """One request a run and metric: slow, and every store answers it."""
    for run_id in run_ids:
        found = {}
        for metric in metrics:
            points = client.get_metric_history(run_id, metric)
            rows = sorted((point.step, point.timestamp, point.value, math.isnan(point.value)) for point in points)
            if rows:
                found[metric] = _history(rows)
        yield run_id, found


def _points_of_a_run(runs: int) -> int:
    return min(MAX_POINTS, POINTS_OF_AN_ANSWER // min(runs, RUNS_AT_ONCE))


def _history(rows: Sequence[tuple[int, int, float, bool]]) -> History:
    """Rows of step, milliseconds, value and whether that is NaN, in the order of steps and times."""
    columns = np.array(rows, np.float64)  # exact: integers below 2^53
    steps, times, values = columns[:, 0].astype(np.int64), columns[:, 1] / 1000, columns[:, 2].copy()
    values[columns[:, 3] != 0] = np.nan
    values[np.abs(values) >= LARGEST] *= np.inf  # MLflow stores an infinite value as the largest finite one
    last = np.append(steps[1:] != steps[:-1], True)
    return History(steps[last], times[last], values[last])
