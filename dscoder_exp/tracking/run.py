"""The worker's side of tracking: rank 0 logs into the run that the parent created, and never waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGTERM
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from dscoder_exp.schema.config import TrackingConfig
from dscoder_exp.signals import uninterrupted
from dscoder_exp.tracking import describe
from dscoder_exp.tracking.connect import connect, log_params, quiet
from dscoder_exp.tracking.metrics import check_names

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
_METRICS_A_CALL = 1000  # MLflow's limit


class LostRecords(RuntimeError):
    """Metrics or texts that MLflow had not taken when the run ended."""


class MetricValue(NamedTuple):
    """A metric's value at an optimizer step, and when it was measured (milliseconds since 1970)."""

    name: str
    value: float
    time_ms: int
    step: int


class Run:
    """A run that records nothing: what ranks other than 0, and jobs without tracking, log into."""

    records = False

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log all of a step's values in one go, in the background; those of step 0 with the next ones or at the end.

        Args:
            step: the optimizer step, 0 before the first.

        Raises:
            ValueError: a name that is not in `tracking.metrics.METRICS`.
        """
        check_names(values)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log what is known only in the worker, such as a model's shape. A param that has a value can't change."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; the last value holds."""

    def text(self, text: str, path: str) -> None:
        """Write a text as the artifact `path`, such as `predictions/before.md`, together with the next metrics."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a directory with all it holds, into the artifacts' `folder`."""

    def dataset(self, fields: Mapping[str, str]) -> None:
        """The run's training data; fields: the arguments of MLflow's `entities.Dataset`."""

    def waiting(self) -> list[MetricValue]:
        """Metrics that MLflow has not taken yet: what a run that goes on after a kill has to log first."""
        return []

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left and set the run's status; the parent, where it lives, has the last word."""


class MlflowRun(Run):
    """An existing MLflow run. What MLflow doesn't take is tried again with the next metrics, and never forgotten.

    Unless told to connect now, MLflow is imported with the first training step's metrics and not before: that is 2 s of
    Python, for which loading and compiling the model would wait even if it ran in a thread.

    Leaving the context sets FINISHED; FAILED on an Exception and on sys.exit with an error; KILLED on Ctrl-C and on
    SIGTERM, where its handler raises SystemExit(143) as the launcher's does.
    """

    records = True

    def __init__(
        self, uri: str, run_id: str, *, connect_now: bool = False, left: Sequence[MetricValue] | None = None
    ) -> None:
        """
        Args:
            left: what an earlier process of the run may not have logged, None: there was none. What MLflow has of a
                step is not logged again.
        """
        self._run_id = run_id
        self._uri = uri
        self._pending: list[MetricValue] = list(left or ())
        self._texts: list[tuple[str, str]] = []  # and the artifact's path
        self._lock = Lock()
        self._failure: Exception | None = None
        # One thread: values arrive in order, and sqlite has one writer anyway.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        quiet()  # here: setting environment variables while other threads run is not safe
        self._connecting = Lock()
        self._connected: MlflowClient | None = None
        self._logged: dict[str, int] | None = {} if left is None else None  # metric -> the last step that is there
        if connect_now:
            self._writer.submit(lambda: self._client)

    @property
    def _client(self) -> MlflowClient:
        with self._connecting:
            self._connected = self._connected or connect(self._uri)
            return self._connected

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        check_names(values)
        now = time.time_ns() // 1_000_000
        with self._lock:
            self._pending += [MetricValue(name, float(value), now, step) for name, value in values.items()]
        if step > 0:
            self._writer.submit(self._write)

    def params(self, values: Mapping[str, Any]) -> None:
        log_params(self._client, self._run_id, {key: describe.param(value) for key, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        client = self._client  # first: MLflow's import fails in a thread if it runs in another one, too
        from mlflow.entities import RunTag

        tags = [RunTag(key, describe.shorten(value, describe.TAG_LIMIT)) for key, value in values.items()]
        client.log_batch(self._run_id, tags=tags)

    def text(self, text: str, path: str) -> None:
        with self._lock:
            self._texts.append((text, path))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        if path.is_dir():
            self._client.log_artifacts(self._run_id, str(path), folder)
        else:
            self._client.log_artifact(self._run_id, str(path), folder)

    def dataset(self, fields: Mapping[str, str]) -> None:
        client = self._client
        from mlflow.entities import Dataset, DatasetInput, InputTag

        client.log_inputs(
            self._run_id, [DatasetInput(Dataset(**fields), [InputTag("mlflow.data.context", "training")])]
        )

    def waiting(self) -> list[MetricValue]:
        with self._lock:
            return list(self._pending)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uninterrupted():  # another rank's failure brings it at once, and leaves the launcher's grace for this
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
            values, texts = self._pending[:_METRICS_A_CALL], self._texts[:]
        try:
            client = self._client
            for text, path in texts:
                client.log_text(self._run_id, text, path)
                with self._lock:
                    del self._texts[0]
            if values:
                from mlflow.entities import Metric

                if self._logged is None:
                    self._logged = _last_steps(client, self._run_id)
                fresh, logged = _fresh(values, self._logged)
                client.log_batch(self._run_id, metrics=[Metric(*value) for value in fresh])
                self._logged = logged
        except Exception as failure:
            if self._failure is None:
                log.warning("MLflow did not take %s, kept for later: %s", self._waiting(), failure)
            self._failure = failure
            return
        self._failure = None
        with self._lock:
            del self._pending[: len(values)]

    def _flush(self) -> LostRecords | None:
        """Write what is left; what MLflow still doesn't take is lost, and told."""
        self._writer.shutdown(wait=True, cancel_futures=True)  # a queued call would only try the same again
        self._failure = None
        while (self._pending or self._texts) and self._failure is None:
            self._write()
        if self._failure is None:
            return None
        lost = LostRecords(f"{self._waiting()} were not logged to run {self._run_id}: {self._failure}")
        lost.__cause__ = self._failure
        return lost

    def _waiting(self) -> str:
        """What MLflow hasn't taken yet, in words."""
        paths = [path for _, path in self._texts]
        steps = sorted({value.step for value in self._pending})
        metrics = [f"{len(self._pending)} metrics of the steps {steps[0]} to {steps[-1]}"] if steps else []
        return " and ".join(metrics + paths)


def _fresh(values: Sequence[MetricValue], logged: Mapping[str, int]) -> tuple[list[MetricValue], dict[str, int]]:
    """The values of steps after the last that is logged, and the last steps with them; a metric's steps only grow."""
    fresh, last = [], dict(logged)
    for value in values:
        if value.step > last.get(value.name, -1):
            fresh.append(value)
            last[value.name] = value.step
    return fresh, last


def _last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """Metric -> its last step, of a run that has some."""
    names = client.get_run(run_id).data.metrics
    return {name: max(value.step for value in client.get_metric_history(run_id, name)) for name in names}


def _status(error: BaseException | None) -> str:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    terminated = isinstance(error, SystemExit) and error.code == 128 + SIGTERM
    return "KILLED" if terminated or isinstance(error, KeyboardInterrupt) else "FAILED"


def open_run(tracking: TrackingConfig, rank: int, ranks: int = 1, *, left: Sequence[MetricValue] | None = None) -> Run:
    """The job's run, for use in a `with`: rank 0 logs, the others and `tracking=off` get one that records nothing.

    Args:
        tracking: with `uri` resolved and `run_id` filled in by the parent.
        rank: this process's rank, 0 for a single one.
        ranks: of several, one that fails leaves rank 0 only seconds for its last metrics: it connects at once.
        left: what an earlier process of this run may not have logged; None: there was none.
    """
    if not tracking.enabled or rank != 0:
        return Run()
    if tracking.run_id is None:
        raise ValueError("tracking.run_id is empty: the parent creates the run before a worker starts")
    return MlflowRun(tracking.uri, tracking.run_id, connect_now=ranks > 1, left=left)
