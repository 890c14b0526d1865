"""The worker's side of tracking: rank 0 logs into the run that the parent created, and never waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING

from dscoder_exp.schema.config import TrackingConfig
from dscoder_exp.tracking.connect import connect
from dscoder_exp.tracking.describe import BATCH_LIMIT
from dscoder_exp.tracking.metrics import check_names

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
_METRICS_A_CALL = 1000  # MLflow's limit


class LostMetrics(RuntimeError):
    """Metrics that MLflow had not taken when the run ended."""


class Run:
    """A run that records nothing: what ranks other than 0, and jobs without tracking, log into."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log all of a step's values in one go, in the background; `step` is the optimizer step.

        Raises:
            ValueError: a name that is not in `tracking.metrics.METRICS`.
        """
        check_names(values)

    def params(self, values: Mapping[str, str | int | float | bool]) -> None:
        """Log what is known only in the worker; MLflow refuses to change a param that has a value."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; the last value holds."""

    def text(self, text: str, path: str) -> None:
        """Write a text as the artifact `path`, such as `predictions/before.md`."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a directory with all it holds, into the artifacts' `folder`."""

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left and set the run's status; the parent, where it lives, has the last word."""


class MlflowRun(Run):
    """An existing MLflow run. A metric that MLflow doesn't take is tried again with the next, and never forgotten.

    Leaving the context sets FINISHED, FAILED on an Exception, KILLED on SystemExit (SIGTERM) and Ctrl-C.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._pending: list[Metric] = []
        self._lock = Lock()
        self._failure: Exception | None = None
        # One thread: values arrive in order, and sqlite has one writer anyway.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mlflow")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        check_names(values)
        now = time.time_ns() // 1_000_000
        with self._lock:
            self._pending += [Metric(name, float(value), now, step) for name, value in values.items()]
        self._writer.submit(self._write)

    def params(self, values: Mapping[str, str | int | float | bool]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)) for key, value in values.items()]
        for start in range(0, len(params), BATCH_LIMIT):
            self._client.log_batch(self._run_id, params=params[start : start + BATCH_LIMIT])

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def text(self, text: str, path: str) -> None:
        self._client.log_text(self._run_id, text, path)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        if path.is_dir():
            self._client.log_artifacts(self._run_id, str(path), folder)
        else:
            self._client.log_artifact(self._run_id, str(path), folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._flush()
            self._client.set_terminated(self._run_id, _status(error))
        except Exception as failure:
            if error is None:
                raise
            log.error("the end of the run was not logged: %s", failure)  # the first error is the one to raise

    def _write(self) -> None:
        """Hand over what has gathered; runs in the writer's thread only."""
        with self._lock:
            batch = self._pending[:_METRICS_A_CALL]
        if not batch:
            return
        try:
            self._client.log_batch(self._run_id, metrics=batch)
        except Exception as failure:
            if self._failure is None:
                log.warning("MLflow did not take the metrics of step %d, kept for later: %s", batch[0].step, failure)
            self._failure = failure
            return
        self._failure = None
        with self._lock:
            del self._pending[: len(batch)]

    def _flush(self) -> None:
        """Raises LostMetrics where MLflow still doesn't take them."""
        self._writer.shutdown(wait=True)
        self._failure = None
        while self._pending and self._failure is None:
            self._write()
        if self._pending:
            steps = sorted({metric.step for metric in self._pending})
            what = f"{len(self._pending)} metrics of the steps {steps[0]} to {steps[-1]} were not logged"
            raise LostMetrics(f"{what} to run {self._run_id}: {self._failure}") from self._failure


def _status(error: BaseException | None) -> str:
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def open_run(tracking: TrackingConfig, rank: int) -> Run:
    """The job's run, for use in a `with`: rank 0 logs, the others and `tracking=off` get one that records nothing.

    Args:
        tracking: with `uri` resolved and `run_id` filled in by the parent.
        rank: this process's rank, 0 for a single one.
    """
    if not tracking.enabled or rank != 0:
        return Run()
    if tracking.run_id is None:
        raise ValueError("tracking.run_id is empty: the parent creates the run before a worker starts")
    return MlflowRun(connect(tracking.uri), tracking.run_id)
