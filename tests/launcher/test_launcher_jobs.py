"""A task's directory, environment, config, output and ranks in a worker."""

import json
import os
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_two_ranks_all_reduce_through_mindspore(start: Any, tmp_path: Path) -> None:
    launch = start("allreduce.py")
    code, output = launch.finish()
    assert code == 0, output
    assert (tmp_path / "total.txt").read_text() == "3.0 2"
    assert "rank 0 of 2: total 3.0" in output
    assert "rank 1 of 2" not in output
    assert "rank 1 of 2: total 3.0" in (tmp_path / "out/0/logs/worker_1.log").read_text()
    assert launch.living() == []


@pytest.mark.slow
def test_ranks_that_hang_in_a_collective_end_with_the_launcher(start: Any, tmp_path: Path) -> None:
    launch = start("allreduce.py", "hang=true", f"started={tmp_path / 'started'}")
    launch.wait_for(tmp_path / "started")
    launch.process.terminate()
    code, output = launch.finish()
    assert code == 143, output
    assert launch.living() == []


@pytest.mark.slow
def test_directory_environment_and_config_are_the_jobs(start: Any, tmp_path: Path) -> None:
    launch = start(
        "app.py",
        "-m",
        "how=report",
        "ranks=1,2",
        "hydra.job.chdir=true",
        "+hydra.job.env_set.FROM_ENV_SET=yes",
        "hydra.launcher.lifecycle=recorder.Recorder",
    )
    code, output = launch.finish()
    assert code == 0, output
    jobs = tmp_path / "out/sweeps/1"
    facts = {
        path: json.loads((jobs / path).read_text())
        for path in ("0/report-0.json", "1/report-0.json", "1/report-1.json")
    }
    for path, found in facts.items():
        number = int(path[0])
        assert (found["cwd"], found["number"]) == (str(jobs / str(number)), number)
        assert (found["FROM_ENV_SET"], found["added"]) == ("yes", "by before_job")
        assert found["pid"] != launch.process.pid
    assert [(found["RANK_ID"], found["MS_WORKER_NUM"]) for found in facts.values()] == [
        (os.environ.get("RANK_ID"), os.environ.get("MS_WORKER_NUM")),
        ("0", "2"),
        ("1", "2"),
    ]
    assert {path.name for path in (jobs / "1").iterdir()} == {
        ".hydra",
        "app.log",
        "logs",
        "report-0.json",
        "report-1.json",
    }


def test_only_rank_0_writes_the_jobs_log_and_is_printed(start: Any, tmp_path: Path) -> None:
    code, output = start("app.py", "ranks=2").finish()
    assert code == 0, output
    job = tmp_path / "out/sweeps/1/0"
    log = (job / "app.log").read_text()
    assert (log.count("hello from rank 0"), log.count("hello from rank 1")) == (1, 0)
    assert "hello from rank 1" in (job / "logs/worker_1.log").read_text()
    assert output.count("hello from rank 0") == output.count("print from rank 0") == 1
    assert "rank 1" not in output


def test_in_process_runs_in_the_launching_process(start: Any, tmp_path: Path) -> None:
    launch = start("app.py", "how=report", "ranks=2", "hydra.launcher.in_process=true")
    code, output = launch.finish()
    assert code == 0, output
    assert json.loads((tmp_path / "out/sweeps/1/0/report-0.json").read_text())["pid"] == launch.process.pid


def test_the_workers_exception_is_the_failures_cause(start: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, output = start("app.py", "how=raise").finish()
    assert code == 1
    assert "cause: True here: boom 0" in output
