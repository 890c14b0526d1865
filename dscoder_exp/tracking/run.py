"""The worker's side of tracking: rank 0 logs metrics in the background, into the run that the parent created."""

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
from dscoder_exp.tracking.connect import connect, log_params, naming_full_store, silence_mlflow
from dscoder_exp.tracking.metrics import check_names

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
_METRICS_PER_CALL = 1000  # MLflow's limit


class LostRecords(RuntimeError):
    """Metrics or texts could not be logged before the run ended."""


class MetricValue(NamedTuple):
    """A metric's value at an optimizer step; time_ms: when it was measured, in milliseconds since the epoch."""

    name: str
    value: float
    time_ms: int
    step: int


class Run:
    """A run that records nothing, for ranks other than 0 and for `tracking=off`."""

    records = False

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of one step in the background; those of step 0 only together with the next ones or at the end.

        Args:
            step: the optimizer step, 0 before the first.

        Raises:
            ValueError: a name that is not in `tracking.metrics.METRICS`.
        """
        check_names(values)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log params known only in the worker, such as a model's shape. A param's value can't be changed later."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; a later value replaces an earlier one."""

    def text(self, text: str, path: str) -> None:
        """Write a text as the artifact `path`, such as `predictions/before.md`, together with the next metrics."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a directory's contents, into `folder` among the run's artifacts; None: the top level."""

    def dataset(self, fields: Mapping[str, str]) -> None:
        """Log the training data; fields: the arguments of MLflow's `entities.Dataset`."""

    def waiting(self) -> list[MetricValue]:
        """Metrics not logged yet; saved in checkpoints, so that a resumed run can log them first."""
        return []

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Log what is waiting and set the run's status, which the parent process may correct afterwards."""


class MlflowRun(Run):
    """Logs into an existing MLflow run. Metrics that couldn't be logged are retried with the next ones and at the end.

    Without `connect_now`, MLflow is imported only for the first training step's metrics: the import, 2 s of Python,
    would delay loading and compiling the model even in a thread.

    Leaving the context sets FINISHED; FAILED on an Exception and on sys.exit with an error; KILLED on Ctrl-C and on
    SIGTERM, where its handler raises SystemExit(143) as the launcher's does.
    """

    records = True

    def __init__(
        self, uri: str, run_id: str, *, connect_now: bool = False, waiting: Sequence[MetricValue] | None = None
    ) -> None:
        """
        Args:
            waiting: metrics that the resumed process had not logged when it saved its checkpoint; None: a new run.
                Values that MLflow already has for a step are not logged again.
        """
        self._run_id = run_id
        self._uri = uri
        self._metrics: list[MetricValue] = list(waiting or ())
        self._texts: list[tuple[str, str]] = []  # text, path of its artifact
        self._lock = Lock()
        self._failure: Exception | None = None
        # One thread keeps the values in order; sqlite allows one writer anyway.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        silence_mlflow()  # before threads run: setting environment variables isn't thread-safe
        self._connecting = Lock()
        self._connected: MlflowClient | None = None
        # Metric -> last logged step; None: not read from MLflow yet
        self._logged: dict[str, int] | None = {} if waiting is None else None
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
            self._metrics += [MetricValue(name, float(value), now, step) for name, value in values.items()]
        if step > 0:
            self._writer.submit(self._write)

    def params(self, values: Mapping[str, Any]) -> None:
        params = {key: describe.format_param(value) for key, value in values.items()}
        with naming_full_store(self._uri):
            log_params(self._client, self._run_id, params)

    def tags(self, values: Mapping[str, str]) -> None:
        client = self._client  # waits for MLflow's import, which fails if two threads run it at once
        from mlflow.entities import RunTag

        tags = [RunTag(key, describe.shorten(value, describe.TAG_LIMIT)) for key, value in values.items()]
        with naming_full_store(self._uri):
            client.log_batch(self._run_id, tags=tags)

    def text(self, text: str, path: str) -> None:
        with self._lock:
            self._texts.append((text, path))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        with naming_full_store(self._uri):
            if path.is_dir():
                self._client.log_artifacts(self._run_id, str(path), folder)
            else:
                self._client.log_artifact(self._run_id, str(path), folder)

    def dataset(self, fields: Mapping[str, str]) -> None:
        client = self._client
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [DatasetInput(Dataset(**fields), [InputTag("mlflow.data.context", "training")])]
        with naming_full_store(self._uri):
            client.log_inputs(self._run_id, inputs)

    def waiting(self) -> list[MetricValue]:
        with self._lock:
            return list(self._metrics)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After another rank's failure SIGTERM may come now; the launcher's grace period is long enough for this.
        with uninterrupted():
            failure: Exception | None = self._flush()
            try:
                status = "FAILED" if failure and error is None else _status(error)
                with naming_full_store(self._uri):
                    self._client.set_terminated(self._run_id, status)
            except Exception as at_end:
                failure = failure or at_end
        if failure is None:
            return
        if error is None:
            raise failure
        log.error("the end of the run was not logged: %s", failure)  # the first error is the one to raise

    def _write(self) -> None:
        """Log up to _METRICS_PER_CALL waiting metrics, and all texts; in the writer thread, or after it has stopped."""
        with self._lock:
            values, texts = self._metrics[:_METRICS_PER_CALL], self._texts[:]
        try:
            with naming_full_store(self._uri):
                self._write_each(values, texts)
        except Exception as failure:
            if self._failure is None:
                log.warning("MLflow did not accept %s, to be retried: %s", self._describe_waiting(), failure)
            self._failure = failure
            return
        self._failure = None
        with self._lock:
            del self._metrics[: len(values)]

    def _write_each(self, values: Sequence[MetricValue], texts: Sequence[tuple[str, str]]) -> None:
        client = self._client
        for text, path in texts:
            client.log_text(self._run_id, text, path)
            with self._lock:
                del self._texts[0]
        if values:
            from mlflow.entities import Metric

            if self._logged is None:
                self._logged = _last_steps(client, self._run_id)
            new, logged = _without_logged(values, self._logged)
            client.log_batch(self._run_id, metrics=[Metric(*value) for value in new])
            self._logged = logged

    def _flush(self) -> LostRecords | None:
        """Log what is waiting; returns an error that names what could not be logged."""
        self._writer.shutdown(wait=True, cancel_futures=True)  # queued calls would only repeat the loop below
        self._failure = None
        while (self._metrics or self._texts) and self._failure is None:
            self._write()
        if self._failure is None:
            return None
        lost = LostRecords(f"{self._describe_waiting()} were not logged to run {self._run_id}: {self._failure}")
        lost.__cause__ = self._failure
        return lost

    def _describe_waiting(self) -> str:
        """The waiting metrics and texts, for a message."""
        paths = [path for _, path in self._texts]
        steps = sorted({value.step for value in self._metrics})
        metrics = [f"{len(self._metrics)} metrics of steps {steps[0]} to {steps[-1]}"] if steps else []
        return " and ".join(metrics + paths)


def _without_logged(
    values: Sequence[MetricValue], logged: Mapping[str, int]
) -> tuple[list[MetricValue], dict[str, int]]:
    """The values of steps after each metric's last logged step, and the last steps once these values are logged."""
    new, last = [], dict(logged)
    for value in values:
        if value.step > last.get(value.name, -1):
            new.append(value)
            last[value.name] = value.step
    return new, last


def _last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """Metric -> its last logged step."""
    names = client.get_run(run_id).data.metrics
    return {name: max(value.step for value in client.get_metric_history(run_id, name)) for name in names}


def _status(error: BaseException | None) -> str:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    terminated = isinstance(error, SystemExit) and error.code == 128 + SIGTERM
    return "KILLED" if terminated or isinstance(error, KeyboardInterrupt) else "FAILED"


def open_run(
    tracking: TrackingConfig, rank: int, ranks: int = 1, *, waiting: Sequence[MetricValue] | None = None
) -> Run:
    """The job's run as a context manager; on ranks other than 0, and with `tracking=off`, it records nothing.

    Args:
        tracking: with `uri` resolved and `run_id` set by the parent.
        rank: this process's rank.
        ranks: number of ranks. With several, rank 0 connects at once: after another rank's failure it would have only
            seconds to log its last metrics.
        waiting: metrics that the resumed process had not logged when it saved its checkpoint; None: a new run.

    Raises:
        ValueError: `tracking.run_id` is None.
    """
    if not tracking.enabled or rank != 0:
        return Run()
    if tracking.run_id is None:
        raise ValueError("tracking.run_id is empty: the parent creates the run before a worker starts")
    return MlflowRun(tracking.uri, tracking.run_id, connect_now=ranks > 1, waiting=waiting)
