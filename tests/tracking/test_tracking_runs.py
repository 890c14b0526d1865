"""MLflow runs: what the parent writes, what rank 0 logs, and the final status."""

from __future__ import annotations

import errno
import logging
import math
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from threading import Event, Timer
from typing import TYPE_CHECKING

import pytest
from tracking_support import YAML, some_config, tracking

from dscoder_exp.storage.disk_space import DiskFull
from dscoder_exp.tracking import describe
from dscoder_exp.tracking.metrics import METRICS
from dscoder_exp.tracking.run import LostRecords, MlflowRun, Run, open_run
from dscoder_exp.tracking.store import create_run, create_sweep, end_run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def history(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    """(step, value) pairs in the order of logging."""
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def test_a_jobs_run(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    config = some_config(uri)
    config.name = "n" * 300
    config.optim.lr = 1e-5
    config.data.source = "é" * 7000
    overrides = ["optim.lr=1e-5", "+experiment=tiny", "predict.prompt=" + "x" * 9000]
    run = client.get_run(create_run(uri, config, YAML, overrides, None))

    assert (run.info.status, run.info.run_name) == ("RUNNING", "n" * 250)
    params = run.data.params
    assert (params["seed"], params["optim.lr"], params["train.max_steps"]) == ("1", "1e-05", "null")
    assert (params["train.prompts"], params["data.packing"]) == ('["é", "b \\"c\\""]', "true")
    assert len(params["data.source"]) == 6000
    assert "1" in params["data.source"].strip("é")  # the note on how many characters are left out
    assert not any(key.startswith("tracking.") for key in params)
    assert len(params) > 60
    tags = run.data.tags
    assert tags["overrides"].startswith("optim.lr=1e-5\n+experiment=tiny\npredict.prompt=xxx")
    assert len(tags["overrides"]) == 8000
    assert {
        "host",
        "command",
        "version.python",
        "version.mlflow",
        "version.dscoder_exp",
        "mlflow.user",
        "mlflow.source.name",
    } <= tags.keys()
    (config_yaml,) = tmp_path.glob(f"mlartifacts/demo/{run.info.run_id}/artifacts/*")
    assert (config_yaml.name, config_yaml.read_text()) == ("config.yaml", YAML)


def test_the_environment_names_the_experiment(uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other/a b")
    run = client.get_run(create_run(uri, some_config(uri), YAML, [], None))
    assert client.get_experiment(run.info.experiment_id).name == "other/a b"
    assert client.get_experiment_by_name("demo") is None
    assert [entry.path for entry in client.list_artifacts(run.info.run_id)] == ["config.yaml"]


def test_a_sweeps_runs_have_a_parent_run_and_are_named_by_their_overrides(uri: str, client: MlflowClient) -> None:
    shared = ["+experiment=quickstart", "optim.lr=1e-4", "train.prompts=['a b']"]
    sweep = create_sweep(uri, "demo", "lengths", [*shared, "seq_length=128,256", "seed=1,2"])
    jobs = [
        ["experiment=quickstart", "optim.lr=1e-4", 'train.prompts=["a b"]', "seq_length=128", "seed=1"],
        [*shared, "+seq_length=256"],
        shared,
    ]
    runs = [client.get_run(create_run(uri, some_config(uri), YAML, job, sweep)) for job in jobs]
    assert [run.info.run_name for run in runs] == [
        "experiment=quickstart, seq_length=128, seed=1",
        "seq_length=256",
        "demo",
    ]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {sweep}
    assert {run.info.experiment_id for run in runs} == {client.get_run(sweep).info.experiment_id}
    assert client.get_run(sweep).data.tags["sweep"] == "true"


def test_a_run_whose_config_cannot_be_stored_is_failed(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    create_sweep(uri, "demo", "makes the experiment", [])
    (tmp_path / "mlartifacts").write_text("in the way")
    with pytest.raises(OSError, match="mlartifacts"):
        create_run(uri, some_config(uri), YAML, [], None)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    newest = client.search_runs([experiment.experiment_id])[0]
    assert (newest.info.run_name, newest.info.status) == ("demo", "FAILED")


def test_all_metrics_are_logged_in_order(uri: str, client: MlflowClient, run_id: str) -> None:
    steps = range(1, 1501)  # more than MLflow takes in one call
    with open_run(tracking(uri, run_id), 0) as run:
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
    assert client.get_run(run_id).info.status == "FINISHED"


def test_metrics_are_logged_while_the_run_is_running(uri: str, client: MlflowClient, run_id: str) -> None:
    with open_run(tracking(uri, run_id), 0) as run:
        run.metrics({"train/loss": 3.0}, 1)
        deadline = time.monotonic() + 60
        while not history(client, run_id, "train/loss"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert client.get_run(run_id).info.status == "RUNNING"


def test_params_tags_texts_and_artifacts(uri: str, client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "weights").write_text("w")
    with open_run(tracking(uri, run_id), 0) as run:
        run.params(
            {"shape.layers": 30, "shape.tied": True, "shape.path": "p" * 7000} | {f"p{n}": n for n in range(250)}
        )
        run.tags({"checkpoint": "a"})
        run.tags({"checkpoint": "b", "long": "t" * 9000})
        run.text("hello", "predictions/before.md")
        run.artifact(folder, "out")
        run.artifact(folder / "weights")
    data = client.get_run(run_id).data
    assert (data.params["shape.layers"], data.params["shape.tied"], data.params["p249"]) == ("30", "true", "249")
    assert (len(data.params["shape.path"]), data.tags["checkpoint"], len(data.tags["long"])) == (6000, "b", 8000)
    artifacts = tmp_path / "mlartifacts" / "demo" / run_id / "artifacts"
    files = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()}
    assert files == {"config.yaml", "predictions/before.md", "out/weights", "weights"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("boom"), "FAILED"),
        (SystemExit(3), "FAILED"),
        (SystemExit("no space"), "FAILED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(), "FINISHED"),
        (SystemExit(143), "KILLED"),  # raised by the launcher's SIGTERM handler
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_status_after_an_error(uri: str, client: MlflowClient, run_id: str, error: BaseException, status: str) -> None:
    def work() -> None:
        with open_run(tracking(uri, run_id), 0) as run:
            run.metrics({"train/loss": 1.0}, 7)
            raise error

    with pytest.raises(type(error)) as caught:
        work()
    assert caught.value is error
    assert client.get_run(run_id).info.status == status
    assert client.get_run(run_id).info.end_time is not None
    assert history(client, run_id, "train/loss") == [(7, 1.0)]  # logged before the error


def test_the_parent_can_correct_the_status(uri: str, client: MlflowClient, run_id: str) -> None:
    with open_run(tracking(uri, run_id), 0):
        pass
    ended = client.get_run(run_id).info.end_time
    time.sleep(0.01)
    end_run(uri, run_id, "FINISHED", None)
    assert client.get_run(run_id).info.end_time == ended  # the worker's end time is kept
    end_run(uri, run_id, "FAILED", "rank 1: " + "e" * 9000)
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("rank 1: eee")
    assert len(run.data.tags["error"]) == 8000


def test_rejected_metrics_are_retried(
    uri: str, client: MlflowClient, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_run(tracking(uri, run_id), 0) as run:
        client.delete_run(run_id)  # as in the UI: MLflow rejects metrics from then on
        run.metrics({"train/loss": 1.0}, 1)
        run.metrics({"train/loss": 2.0}, 2)
        deadline = time.monotonic() + 60
        while not caplog.records:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client.restore_run(run_id)
        run.metrics({"train/loss": 3.0}, 3)
    assert history(client, run_id, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    (record,) = caplog.records  # one warning, not one per step
    assert "metrics of steps 1 to " in record.message


def test_lost_metrics_are_an_error(uri: str, client: MlflowClient, run_id: str) -> None:
    def work() -> None:
        with open_run(tracking(uri, run_id), 0) as run:
            client.delete_run(run_id)
            for step in (1, 2, 3):
                run.metrics({"train/loss": 1.0, "train/lr": 1.0}, step)

    with pytest.raises(LostRecords, match="6 metrics of steps 1 to 3 were not logged") as caught:
        work()
    assert "deleted" in str(caught.value.__cause__)


def test_at_the_end_metrics_are_not_retried_step_by_step(
    run_id: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, calls = Event(), []

    class Unreachable:
        """A server that doesn't answer: MLflow's client retries for minutes, then raises."""

        def log_batch(self, *_: object, metrics: list) -> None:
            calls.append(len(metrics))
            release.wait(60)
            raise ConnectionError("no route to host")

        def set_terminated(self, *_: object) -> None:
            raise ConnectionError("no route to host")

    def work() -> None:
        with open_run(tracking(uri, run_id), 0) as run:
            for step in range(200):
                run.metrics({"train/loss": 1.0}, step)
            Timer(0.3, release.set).start()

    monkeypatch.setattr("dscoder_exp.tracking.run.connect", lambda uri: Unreachable())
    with pytest.raises(LostRecords, match="200 metrics of steps 0 to 199 were not logged"):
        work()
    assert len(calls) < 20  # the call that was running and one more, not one per step


def test_a_full_disk_is_named(run_id: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def log_batch(self, *_: object, metrics: list) -> None:
            raise MlflowException("(sqlite3.OperationalError) database or disk is full [SQL: INSERT INTO …]")

        def set_terminated(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def work() -> None:
        with open_run(tracking(uri, run_id), 0) as run:
            run.metrics({"train/loss": 1.0}, 1)

    from mlflow.exceptions import MlflowException

    monkeypatch.setattr("dscoder_exp.tracking.run.connect", lambda uri: Full())
    path = uri.removeprefix("sqlite:///")
    with pytest.raises(LostRecords, match=f"1 metrics of .*: .Errno 28. No space left on device: '{path}'$"):
        work()
    with pytest.raises(DiskFull, match=path):
        open_run(tracking(uri, run_id), 0).__exit__(None, None, None)


def test_a_prompt_of_several_lines_is_no_part_of_a_jobs_name(uri: str, client: MlflowClient) -> None:
    prompt = "predict.prompt='a\nb'"
    sweep = create_sweep(uri, "demo", "sweep", ["+experiment=tiny", prompt, "seed=0,1"])
    run = client.get_run(create_run(uri, some_config(uri), YAML, ["+experiment=tiny", prompt, "seed=1"], sweep))
    assert run.info.run_name == "seed=1"


def test_the_first_error_is_the_one_raised(
    uri: str, client: MlflowClient, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        with open_run(tracking(uri, run_id), 0) as run:
            client.delete_run(run_id)
            run.metrics({"train/loss": 1.0}, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert [record.levelno for record in caplog.records][-1] == logging.ERROR
    assert "the end of the run was not logged: 1 metrics" in caplog.records[-1].message


def test_a_missing_run_is_an_error(uri: str, run_id: str) -> None:
    with pytest.raises(Exception, match="not found"), open_run(tracking(uri, "0" * 32), 0):
        pass


def test_a_locked_database_does_not_delay_training(uri: str, database: Path, client: MlflowClient, run_id: str) -> None:
    with open_run(tracking(uri, run_id), 0) as run:
        run.params({"ready": True})  # connects
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            before = time.perf_counter()
            for step in range(100):
                run.metrics({"train/loss": 1.0}, step)
            assert time.perf_counter() - before < 1  # a write would wait for 5 s or more
            other.execute("ROLLBACK")
    assert len(history(client, run_id, "train/loss")) == 100


def test_other_ranks_and_tracking_off_record_nothing(uri: str) -> None:
    off = tracking(uri)
    off.enabled = False
    for run in (open_run(tracking(uri, "some run"), 1), open_run(off, 0)):
        assert type(run) is Run
        with run:
            run.metrics({"train/loss": 1.0}, 1)
            run.params({"a": 1})
            run.tags({"a": "b"})
            run.text("a", "b")
            run.artifact(Path("none"))
    with pytest.raises(ValueError, match=r"tracking\.run_id is empty"):
        open_run(tracking(uri), 0)


def test_a_metrics_name_must_be_known(uri: str, run_id: str) -> None:
    with MlflowRun(uri, run_id) as recording:
        for run in (Run(), recording):
            with pytest.raises(ValueError, match=r"unknown metric 'train/los' \(did you mean 'train/loss'\?\)"):
                run.metrics({"train/loss": 1.0, "train/los": 1.0}, 1)
    assert {name.split("/")[0] for name in METRICS} == {"train", "eval", "perf", "predict", "evaluate"}


def test_shorten_keeps_both_ends() -> None:
    assert describe.shorten("abc", 3) == "abc"
    short = describe.shorten("a" * 500 + "b" * 500, 200)
    assert len(short) == 200
    assert short.startswith("aaa")
    assert short.endswith("bbb")
