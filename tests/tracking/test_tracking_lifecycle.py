"""The launcher's hooks: a job's run is ended once MLflow has what the job logged, and says so where it hasn't."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from omegaconf import OmegaConf
from tracking_support import some_config

from dscoder_exp import lifecycle as module
from dscoder_exp.lifecycle import Lifecycle
from dscoder_exp.tracking import spool
from dscoder_exp.tracking.run import open_run
from dscoder_exp.tracking.spool import LostRecords
from dscoder_exp.training.resume import Resumed
from dscoder_exp.training.state import TrainingState
from msrun_launcher import JobOutcome

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


class Job:
    """The only job of a launch: it logs one metric and ends as told."""

    def __init__(self, uri: str, output_dir: Path) -> None:
        self.output_dir = output_dir
        self._config = some_config(uri)
        self._config.output_dir = str(output_dir)
        self._lifecycle = Lifecycle()
        self._lifecycle._jobs[0] = module._Job(self._config, [])
        self._node: Any = OmegaConf.create({"hydra": {"job": {"num": 0}}, "tracking": {}})

    def begin(self, step: int = 1) -> str:
        self._lifecycle.before_job(self._node)
        run_id = self._config.tracking.run_id = self._node.tracking.run_id
        with open_run(self._config.tracking, self._config.output_dir, 0) as run:
            run.metrics({"train/loss": 2.0}, step)
        return run_id

    def end(self, outcome: JobOutcome) -> None:
        self._lifecycle.after_job(self._node, outcome)


@pytest.fixture
def job(uri: str, tmp_path: Path) -> Job:
    return Job(uri, tmp_path / "out")


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (JobOutcome("completed"), "FINISHED"),
        (JobOutcome("failed", "rank 0 failed: boom"), "FAILED"),
        (JobOutcome("killed", "stopped by Ctrl-C"), "KILLED"),
    ],
)
def test_the_run_has_what_the_job_logged(client: MlflowClient, job: Job, outcome: JobOutcome, status: str) -> None:
    run_id = job.begin()
    job.end(outcome)
    run = client.get_run(run_id)
    assert (run.info.status, run.data.metrics) == (status, {"train/loss": 2.0})
    assert run.data.tags.get("error") == outcome.error
    assert not job.output_dir.exists()


def test_lost_records_fail_a_completed_job(client: MlflowClient, job: Job) -> None:
    run_id = job.begin()
    client.delete_run(run_id)
    with pytest.raises(LostRecords, match="1 metrics of steps 1 to 1 were not logged"):
        job.end(JobOutcome("completed"))
    assert spool.spool_directory(str(job.output_dir), run_id).exists()


def test_lost_records_of_a_failed_job_are_told(
    client: MlflowClient, job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = job.begin()
    client.delete_run(run_id)
    job.end(JobOutcome("failed", "rank 0 failed: boom"))  # its own error is the one to raise
    assert [record.levelno for record in caplog.records][-1] == logging.ERROR
    assert "the end of the run was not logged: 1 metrics" in caplog.records[-1].message


def test_metrics_that_an_earlier_versions_checkpoint_holds_are_logged(
    client: MlflowClient, job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id = job.begin(step=5)
    job.end(JobOutcome("killed", "stopped by SIGTERM"))
    waiting = [["train/loss", 2.0, 1764000000123, 5], ["train/loss", 3.0, 1764000000456, 6]]
    (tmp_path / "training.json").write_text(json.dumps({"waiting": waiting}))
    state = TrainingState(6, 0, {}, run_id, None, [], None, None, None, {})
    monkeypatch.setattr(module, "find_resumed", lambda config: Resumed(tmp_path, state))
    monkeypatch.setattr(module, "restore_copied", lambda config: [])
    assert job.begin(step=7) == run_id
    job.end(JobOutcome("completed"))
    found = sorted(client.get_metric_history(run_id, "train/loss"), key=lambda metric: metric.step)
    assert [(metric.step, metric.value) for metric in found] == [(5, 2.0), (6, 3.0), (7, 2.0)]
    assert found[1].timestamp == 1764000000456
