"""The worker's side of tracking: rank 0 logs into the run that the parent created, and never waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from signal import SIGTERM
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from dscoder_exp.schema.config import TrackingConfig
from dscoder_exp.tracking import describe
from dscoder_exp.tracking.connect import connect, log_params, quiet
from dscoder_exp.tracking.metrics import check_names

if TYPE_CHECKING:
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

    def params(self, values: Mapping[str, Any]) -> None:
        """Log what is known only in the worker, such as a model's shape. A param that has a value can't change."""

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


class _Value(NamedTuple):
    name: str
    value: float
    time_ms: int
    step: int


class MlflowRun(Run):
    """An existing MLflow run. A metric that MLflow doesn't take is tried again with the next, and never forgotten.

    Leaving the context sets FINISHED; FAILED on an Exception and on sys.exit with an error; KILLED on Ctrl-C and on
    SIGTERM, where its handler raises SystemExit(143) as the launcher's does.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self._run_id = run_id
        self._pending: list[_Value] = []
        self._lock = Lock()
        self._failure: Exception | None = None
        # One thread: values arrive in order, and sqlite has one writer anyway.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        quiet()  # here: setting environment variables while other threads run is not safe
        # MLflow's import takes 2-3 s, which pass beside the model's compilation.
        self._connected = self._writer.submit(connect, uri)

    @property
    def _client(self) -> MlflowClient:
        return self._connected.result()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        check_names(values)
        now = time.time_ns() // 1_000_000
        with self._lock:
            self._pending += [_Value(name, float(value), now, step) for name, value in values.items()]
        self._writer.submit(self._write)

    def params(self, values: Mapping[str, Any]) -> None:
        log_params(self._client, self._run_id, {key: describe.param(value) for key, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(key, describe.shorten(value, describe.TAG_LIMIT)) for key, value in values.items()]
        self._client.log_batch(self._run_id, tags=tags)

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
        failure: Exception | None = self._flush()
        try:
            self._client.set_terminated(self._run_id, "FAILED" if failure and error is None else _status(error))
        except Exception as at_end:
            failure = failure or at_end
        if failure is None:
            return
        if error is None:
            raise failure
        log.error("the end of the run was not logged: %s", failure)  # the first error is the one to raise

    def _write(self) -> None:
        """Hand over what has gathered. Runs in the writer's thread, and at the end, when that has stopped."""
        with self._lock:
            batch = self._pending[:_METRICS_A_CALL]
        if not batch:
            return
        try:
            from mlflow.entities import Metric

            metrics = [Metric(name, value, time_ms, step) for name, value, time_ms, step in batch]
            self._client.log_batch(self._run_id, metrics=metrics)
        except Exception as failure:
            if self._failure is None:
                log.warning("MLflow did not take the metrics of step %d, kept for later: %s", batch[0].step, failure)
            self._failure = failure
            return
        self._failure = None
        with self._lock:
            del self._pending[: len(batch)]

    def _flush(self) -> LostMetrics | None:
        """Write what is left; what MLflow still doesn't take is lost, and told."""
        wait([self._connected])
        self._writer.shutdown(wait=True, cancel_futures=True)  # a queued call would only try the same again
        self._failure = None
        while self._pending and self._failure is None:
            self._write()
        if not self._pending:
            return None
        steps = sorted({value.step for value in self._pending})
        what = f"{len(self._pending)} metrics of the steps {steps[0]} to {steps[-1]} were not logged"
        lost = LostMetrics(f"{what} to run {self._run_id}: {self._failure}")
        lost.__cause__ = self._failure
        return lost


def _status(error: BaseException | None) -> str:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    terminated = isinstance(error, SystemExit) and error.code == 128 + SIGTERM
    return "KILLED" if terminated or isinstance(error, KeyboardInterrupt) else "FAILED"


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
    return MlflowRun(tracking.uri, tracking.run_id)
