"""What rank 0 logs arrives in MLflow: in order, while the job runs, once, and whoever was away or killed meanwhile."""

from __future__ import annotations

import errno
import logging
import math
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event, Timer
from typing import TYPE_CHECKING

import pytest
from tracking_support import YAML, logged, some_config, tracking

from dscoder_exp.tracking import sender as module
from dscoder_exp.tracking import spool
from dscoder_exp.tracking.run import open_run
from dscoder_exp.tracking.sender import Sender, send_left
from dscoder_exp.tracking.spool import LostRecords
from dscoder_exp.tracking.store import create_run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def history(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    """(step, value) pairs in the order of logging."""
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The job's output directory."""
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.02)


def test_all_metrics_are_logged_in_order(uri: str, client: MlflowClient, run_id: str, out: Path) -> None:
    steps = range(1, 1501)  # more than MLflow takes in one call
    with logged(uri, run_id) as run:
        for step in steps:
            run.metrics({"train/loss": 1 / step, "train/lr": step}, step)
        run.metrics({"train/loss": math.nan, "eval/loss": 2.0}, 1501)
    losses = history(client, run_id, "train/loss")
    assert losses[:-1] == [(step, 1 / step) for step in steps]
    assert losses[-1][0] == 1501
    assert math.isnan(losses[-1][1])
    assert history(client, run_id, "train/lr") == [(step, float(step)) for step in steps]
    assert history(client, run_id, "eval/loss") == [(1501, 2.0)]
    times = [metric.timestamp for metric in client.get_metric_history(run_id, "train/lr")]
    assert times == sorted(times)
    assert abs(times[0] / 1000 - time.time()) < 600  # milliseconds since the epoch
    assert list(out.iterdir()) == []


def test_metrics_are_logged_while_the_job_runs(uri: str, client: MlflowClient, run_id: str) -> None:
    with logged(uri, run_id) as run:
        for step in (0, 1):
            run.metrics({"train/loss": 3.0}, step)
            wait_until(lambda step=step: len(history(client, run_id, "train/loss")) == step + 1)
    assert client.get_run(run_id).info.status == "RUNNING"  # the parent ends it


def test_params_tags_texts_artifacts_and_the_dataset(
    uri: str, client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "weights").write_text("w")
    with logged(uri, run_id) as run:
        run.params(
            {"shape.layers": 30, "shape.tied": True, "shape.path": "p" * 7000} | {f"p{n}": n for n in range(250)}
        )
        run.tags({"checkpoint": "a"})
        run.tags({"checkpoint": "b", "long": "t" * 9000})
        run.text("hello", "predictions/before.md")
        run.artifact(folder, "out")
        run.artifact(folder / "weights")
        run.dataset({"name": "rows", "digest": "0a", "source_type": "local", "source": "{}"})
        shutil.rmtree(folder)  # a temporary one
    found = client.get_run(run_id)
    assert (found.data.params["shape.layers"], found.data.params["shape.tied"]) == ("30", "true")
    assert (found.data.params["p249"], len(found.data.params["shape.path"])) == ("249", 6000)
    assert (found.data.tags["checkpoint"], len(found.data.tags["long"])) == ("b", 8000)
    artifacts = tmp_path / "mlartifacts" / "demo" / run_id / "artifacts"
    files = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()}
    assert files == {"config.yaml", "predictions/before.md", "out/weights", "weights"}
    assert found.inputs is not None
    assert [each.dataset.name for each in found.inputs.dataset_inputs] == ["rows"]


def test_rejected_records_are_retried(
    uri: str, client: MlflowClient, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    with logged(uri, run_id) as run:
        client.delete_run(run_id)  # as in the UI: MLflow rejects what is logged from then on
        run.metrics({"train/loss": 1.0}, 1)
        run.metrics({"train/loss": 2.0}, 2)
        wait_until(lambda: caplog.records)
        time.sleep(0.2)  # several attempts
        client.restore_run(run_id)
        run.metrics({"train/loss": 3.0}, 3)
    assert history(client, run_id, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]  # not one a try
    assert "metrics of steps 1 to " in warning


def test_what_is_left_at_the_end_is_kept_and_logged_by_the_next_job(
    uri: str, client: MlflowClient, run_id: str, out: Path
) -> None:
    def work() -> None:
        with logged(uri, run_id) as run:
            client.delete_run(run_id)
            for step in (1, 2, 3):
                run.metrics({"train/loss": 1.0, "train/lr": 1.0}, step)

    with pytest.raises(LostRecords, match="6 metrics of steps 1 to 3 were not logged") as caught:
        work()
    assert "deleted" in str(caught.value.__cause__)
    where = spool.spool_directory(str(out), run_id)
    assert f"\n      -> kept in {where}; the next job with output_dir={out} logs them first" in str(caught.value)

    send_left(uri, str(out), except_run=None)  # not accepted, either
    assert where.exists()
    client.restore_run(run_id)
    send_left(uri, str(out), except_run=run_id)
    assert history(client, run_id, "train/loss") == []
    send_left(uri, str(out), except_run=None)
    assert history(client, run_id, "train/lr") == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert not where.exists()


def test_a_resumed_job_logs_nothing_twice(uri: str, client: MlflowClient, run_id: str, out: Path) -> None:
    """Its parent was killed at step 5, between MLflow's answer and the note that step 4 was sent."""
    spooled = spool.spool_directory(str(out), run_id)
    with logged(uri, run_id) as run:
        for step in (1, 2, 3, 4):
            run.metrics({"train/loss": step}, step)
        run.text("hello", "predictions/before.md")
        wait_until(lambda: client.list_artifacts(run_id, "predictions"))
        wait_until(lambda: spool.read_sent(spooled) == spool.read(spooled, 0)[-1].end)
        shutil.copytree(spooled, out / "killed")
    with open_run(tracking(uri, run_id), str(out), 0):
        (spooled / spool.RECORDS).write_bytes((out / "killed" / spool.RECORDS).read_bytes())
        spool.write_sent(spooled, spool.read(spooled, 0)[2].end)
    with open_run(tracking(uri, run_id), str(out), 0) as run:
        run.metrics({"train/loss": 5}, 5)
    with logged(uri, run_id, resumed=True) as run:  # from a checkpoint after step 3
        for step in (4, 5, 6):
            run.metrics({"train/loss": step}, step)
    assert history(client, run_id, "train/loss") == [(step, float(step)) for step in range(1, 7)]


def test_another_jobs_records_go_to_its_own_run(uri: str, client: MlflowClient, run_id: str, out: Path) -> None:
    """A job killed before its first checkpoint is started again, as a new run."""
    with open_run(tracking(uri, run_id), str(out), 0) as run:
        run.metrics({"train/loss": 1.0}, 1)
    new = create_run(uri, some_config(uri), YAML, [], None)
    send_left(uri, str(out), except_run=None)
    with logged(uri, new) as run:
        run.metrics({"train/loss": 2.0}, 1)
    assert [history(client, each, "train/loss") for each in (run_id, new)] == [[(1, 1.0)], [(1, 2.0)]]


def test_at_the_end_records_are_not_retried_one_by_one(run_id: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release, calls = Event(), []

    class Unreachable:
        """A server that doesn't answer: MLflow's client tries again for seconds, then raises."""

        def log_batch(self, *_: object, metrics: list) -> None:
            calls.append(len(metrics))
            release.wait(60)
            raise ConnectionError("no route to host")

    def work() -> None:
        with logged(uri, run_id) as run:
            for step in range(200):
                run.metrics({"train/loss": 1.0}, step)
            Timer(0.3, release.set).start()

    monkeypatch.setattr(module, "connect", lambda uri: Unreachable())
    with pytest.raises(LostRecords, match="200 metrics of steps 0 to 199 were not logged"):
        work()
    assert len(calls) <= 3  # the call that was running and another one, not one per step


def test_while_mlflow_is_away_attempts_become_rare(
    run_id: str, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    class Away:
        def log_batch(self, *_: object, metrics: list) -> None:
            calls.append(len(metrics))
            raise ConnectionError("no route to host")

    def work() -> None:
        with logged(uri, run_id) as run:
            run.metrics({"train/loss": 1.0}, 1)
            time.sleep(0.5)

    monkeypatch.setattr(module, "connect", lambda uri: Away())
    with pytest.raises(LostRecords):
        work()
    assert 2 <= len(calls) <= 6  # after 0.02, 0.04, 0.08 s and so on, and at the end
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_full_disk_is_named(run_id: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def log_batch(self, *_: object, metrics: list) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "connect", lambda uri: Full())
    path = uri.removeprefix("sqlite:///")
    with (
        pytest.raises(LostRecords, match=f"1 metrics of .*: .Errno 28. No space left on device: '{path}'\n"),
        logged(uri, run_id) as run,
    ):
        run.metrics({"train/loss": 1.0}, 1)


def test_a_locked_database_does_not_delay_training(uri: str, database: Path, client: MlflowClient, run_id: str) -> None:
    with logged(uri, run_id) as run, closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        before = time.perf_counter()
        for step in range(100):
            run.metrics({"train/loss": 1.0}, step)
        assert time.perf_counter() - before < 1  # a write would wait for 5 s or more
        other.execute("ROLLBACK")
    assert len(history(client, run_id, "train/loss")) == 100


def test_a_job_that_logs_nothing_leaves_nothing(uri: str, run_id: str, out: Path) -> None:
    sender = Sender(uri, run_id, str(out), resumed=False)
    sender.start()
    assert sender.close() is None
    assert not out.exists()
