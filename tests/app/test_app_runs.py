"""Jobs through the real launcher, one for each way to end: the exit code, and the MLflow run."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from app_support import Command
from command_line import CommandLine
from mlflow_runs import runs_in

PARENT = "mlflow.parentRunId"
CPUS = Path("/sys/fs/cgroup/cpuset/cpuset.cpus")  # where msrun reads which cores there are


@pytest.mark.slow
def test_a_sweep_records_how_each_job_ended(tracked: Command, small: list[str]) -> None:
    result = tracked("-m", *small, "name=ok,raise,exit3,sigkill")
    assert result.code == 1, result.err
    sweep, *jobs = runs_in(tracked.directory)
    assert [(job.name, job.status) for job in jobs] == [
        ("name=ok", "FINISHED"),
        ("name=raise", "FAILED"),
        ("name=exit3", "FAILED"),
        ("name=sigkill", "FAILED"),
    ]
    assert {job.tags[PARENT] for job in jobs} == {sweep.id}
    assert (sweep.status, sweep.tags["error"]) == ("FAILED", "3 of 4 jobs failed")
    assert sweep.tags["overrides"].splitlines()[-1] == "name=ok,raise,exit3,sigkill"
    assert "error" not in jobs[0].tags
    assert [job.metrics for job in jobs] == [{"train/loss": {1: 1.5}}] * 4  # of the killed worker, too
    assert not list(tracked.directory.rglob("mlflow-spool"))
    for job, words in zip(jobs[1:], ("ValueError: boom", "exit code 3", "killed by SIGKILL"), strict=True):
        assert f"rank 0 failed: {words}" in job.tags["error"]
    recorded = [json.loads(path.read_text())["tracking"] for path in sorted(tracked.directory.rglob("config.json"))]
    assert [tracking["run_id"] for tracking in recorded] == [job.id for job in jobs]
    assert {tracking["uri"] for tracking in recorded} == {f"sqlite:///{tracked.directory}/mlflow.db"}


@pytest.mark.slow
def test_one_job_has_one_run(command: Command, small: list[str]) -> None:
    result = command(*small, "name=ok")
    assert result.code == 0, result.err
    [run] = runs_in(command.directory)
    assert (run.name, run.status) == ("ok", "FINISHED")
    assert PARENT not in run.tags
    [artifact] = command.directory.rglob("artifacts/config.yaml")
    assert "name: ok" in artifact.read_text()


@pytest.mark.parametrize("bound", ["false", "true"])
def test_ranks_divide_the_cores_and_inherit_the_connection_timeout(
    command: Command, small: list[str], monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """With and without binding to cores, and also where msrun can't bind because taskset or CPUS is missing."""
    for name in ("OMP_NUM_THREADS", "HCCL_CONNECT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    job = ["name=ok", "tracking=off", "parallel=dp2", "output_dir=run", f"runtime.bind_core={bound}"]
    result = command(*small, *job)
    assert result.code == 0, result.err
    [log] = command.directory.rglob("msrun.log")
    cores = len(os.sched_getaffinity(0))
    can_bind = shutil.which("taskset") is not None and CPUS.is_file() and cores > 1
    assert ("taskset" in log.read_text()) == (bound == "true" and can_bind)
    share = str(max(1, cores // 2))
    for rank in (0, 1):
        assert (command.directory / f"run/threads-{rank}").read_text() == share
        assert (command.directory / f"run/timeout-{rank}").read_text() == "1800"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_runs_of_a_stopped_sweep_are_killed(
    tracked: Command, small: list[str], number: signal.Signals, code: int
) -> None:
    started = tracked.start("-m", *small, "name=hang,ok")
    started.wait_for(tracked.directory / "started")
    started.process.send_signal(number)
    ended = started.wait()
    assert ended.code == code, ended.err
    assert [(run.name, run.status) for run in runs_in(tracked.directory)] == [
        ("hang", "KILLED"),
        ("name=hang", "KILLED"),
    ]


@pytest.mark.slow
def test_a_second_command_on_one_output_directory_is_refused(command: Command, small: list[str]) -> None:
    job = [*small, "tracking=off"]
    directory = command.directory / "runs" / "0"
    first = command.start("-m", *job, "name=hang,ok", "output_dir=runs/${hydra:job.num}")
    first.wait_for(command.directory / "started")
    second = command(*job, "name=ok", f"output_dir={directory}")
    assert second.code == 2
    assert f"output_dir: runs/0 is in use by process {first.process.pid} on " in second.err
    first.process.kill()
    first.wait()
    assert first.left() == []
    third = command(*job, "name=ok", f"output_dir={directory}")
    assert third.code == 0, third.err
    assert ".lock" not in {path.name for path in directory.iterdir()}


@pytest.mark.slow
def test_a_single_job_writes_to_hydra_run_dir(command: Command, small: list[str]) -> None:
    result = command(*small, "name=ok", "tracking=off", "hydra.run.dir=mine/${name}")
    assert result.code == 0, result.err
    assert [path.name for path in command.directory.iterdir()] == ["mine"]
    written = {path.name for path in (command.directory / "mine" / "ok").iterdir()}
    assert written == {"multirun.yaml", ".hydra", "dscoder_exp.log", "config.json", "threads-0", "timeout-0"}


def test_an_unknown_run_id_refuses_the_launch(
    refused: Callable[..., str], command_line: CommandLine, small: list[str]
) -> None:
    command_line.environment["MLFLOW_RUN_ID"] = "abc"
    assert "MLFLOW_RUN_ID: mlflow.db has no run 'abc', or it was deleted" in refused(*small)


def test_a_refusal_in_the_worker_is_one_message(command: Command, small: list[str]) -> None:
    result = command(*small, "name=refuse", "tracking=off")
    assert result.code == 2
    assert result.err.endswith("refused\n  - data.source: no row can be kept\n      -> raise seq_length\n")


def test_a_store_that_cannot_be_used_refuses_the_launch(command: Command, small: list[str]) -> None:
    (command.directory / "notes.db").write_text("not a database")
    result = command(*small, "tracking.uri=sqlite:///notes.db")
    assert result.code == 2
    assert "tracking.uri: notes.db: can't be opened" in result.err
    assert not (command.directory / "multirun").exists()
    result = command(*small, "tracking.uri=mlruns", "seq_length=1000000", "data.packing=false")
    assert result.code == 2
    assert "refused, 2 problems" in result.err
    assert "tracking.uri: 'mlruns' names a directory" in result.err
