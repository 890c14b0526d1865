"""The parent's side of a running job: hands the records of its spool on to MLflow while the job writes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from dscoder_exp.tracking import describe, spool
from dscoder_exp.tracking.connect import connect, log_params, naming_full_store
from dscoder_exp.tracking.logged_models import scored_model
from dscoder_exp.tracking.spool import LostRecords, Record

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
POLL = 0.5  # seconds between two looks at the spool
LONGEST_WAIT = 30.0  # seconds between two attempts while MLflow is away
_METRICS_PER_CALL = 1000  # MLflow's limit
_RECORDS_PER_READ = 1000


class Sender:
    """Sends a spool's records to an MLflow run, in their order, in a thread.

    What MLflow doesn't accept is sent again, after ever longer waits.
    """

    def __init__(self, uri: str, run_id: str, output_dir: str, *, resumed: bool) -> None:
        """
        Args:
            resumed: MLflow may have values already: of steps after the last checkpoint, which the job takes again, or
                those that an earlier process sent last. They are not logged again.
        """
        self.run_id = run_id
        self._uri, self._output_dir = uri, output_dir
        self._directory = spool.spool_directory(output_dir, run_id)
        self._sent = spool.read_sent(self._directory)
        # Metric -> last logged step; None: not read from MLflow yet
        self._logged: dict[str, int] | None = None if resumed else {}
        self._failure: Exception | None = None
        self._wait = POLL
        self._closing = Event()
        # Ends with the process: where MLflow hangs, a second Ctrl-C must not wait for it. The spool remains.
        self._thread = Thread(target=self._run, name="mlflow", daemon=True)

    def start(self) -> None:
        """Send what there is, and what will be written, until `close`."""
        self._thread.start()

    def close(self) -> LostRecords | None:
        """Send the rest, once the job has ended, and delete the spool.

        Returns:
            An error that names what MLflow didn't accept; the spool keeps it.
        """
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._send()
        if self._failure is None:
            spool.remove(self._directory)
            return None
        what = f"{self._describe_waiting()} were not logged to run {self.run_id}: {self._failure}"
        remedy = f"kept in {self._directory}; the next job with output_dir={self._output_dir} logs them first"
        lost = LostRecords(f"{what}\n      -> {remedy}")
        lost.__cause__ = self._failure
        return lost

    def _run(self) -> None:
        while not self._closing.wait(self._wait):
            self._send()

    def _send(self) -> None:
        """Send all records that the spool has now."""
        try:
            with naming_full_store(self._uri):
                while records := spool.read(self._directory, self._sent, _RECORDS_PER_READ):
                    for batch in _batches(records):
                        self._log(batch)
                        self._sent = batch[-1].end
                        spool.write_sent(self._directory, self._sent)
        except Exception as failure:
            if self._failure is None:
                log.warning("MLflow did not accept %s, to be retried: %s", self._describe_waiting(), failure)
            self._failure, self._wait = failure, min(2 * self._wait, LONGEST_WAIT)
            return
        if self._failure is not None:
            log.info("MLflow has accepted what had to be retried")
        self._failure, self._wait = None, POLL

    def _log(self, batch: Sequence[Record]) -> None:
        """Log records of metrics, or one record of another kind."""
        client, fields = connect(self._uri), batch[0].fields
        from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

        match batch[0].kind:
            case spool.METRICS:
                self._log_metrics(client, [record.fields for record in batch])
            case spool.PARAMS:
                log_params(client, self.run_id, fields["values"])
            case spool.TAGS:
                values = {key: describe.shorten(value, describe.TAG_LIMIT) for key, value in fields["values"].items()}
                client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])
            case spool.TEXT:
                client.log_text(self.run_id, fields["text"], fields["path"])
            case spool.ARTIFACT:
                path = self._directory / fields["path"]
                log_files = client.log_artifacts if path.is_dir() else client.log_artifact
                log_files(self.run_id, str(path), fields["folder"])
            case spool.DATASET:
                context = fields.get("context", "training")
                inputs = [DatasetInput(Dataset(**fields["values"]), [InputTag("mlflow.data.context", context)])]
                client.log_inputs(self.run_id, inputs)

    def _log_metrics(self, client: MlflowClient, metrics: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        if self._logged is None:
            self._logged = _last_steps(client, self.run_id)
        last, new = dict(self._logged), []
        for fields in metrics:
            of_model = scored_model(client, self.run_id, fields)
            for name, value in fields["values"].items():
                if fields["step"] > last.get(name, -1):
                    last[name] = fields["step"]
                    new.append(Metric(name, value, fields["time_ms"], fields["step"], **of_model))
        if new:
            client.log_batch(self.run_id, metrics=new)
        self._logged = last

    def _describe_waiting(self) -> str:
        return spool.describe_records(spool.read(self._directory, self._sent))


def send_left(uri: str, output_dir: str, *, except_run: str | None) -> None:
    """Send what earlier jobs in this output directory have left; logs a warning where MLflow doesn't accept it.

    Args:
        except_run: the resumed run, whose Sender continues its spool.
    """
    for directory in spool.spools(output_dir):
        if directory.name != except_run and (lost := Sender(uri, directory.name, output_dir, resumed=True).close()):
            log.warning("%s", lost)


def _batches(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Records of metrics, as many as MLflow takes in one call; others one by one."""
    batch: list[Record] = []
    count = 0  # metrics in the batch
    for record in records:
        new = len(record.fields["values"]) if record.kind == spool.METRICS else _METRICS_PER_CALL
        if batch and count + new > _METRICS_PER_CALL:
            yield batch
            batch, count = [], 0
        batch.append(record)
        count += new
    if batch:
        yield batch


def _last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """Metric -> its last logged step."""
    names = client.get_run(run_id).data.metrics
    return {name: max(value.step for value in client.get_metric_history(run_id, name)) for name in names}
