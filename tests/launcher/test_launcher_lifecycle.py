"""The application's hooks: their order, and what is left on disk when they refuse the launch."""

from pathlib import Path
from typing import Any

import pytest

RECORDER = "hydra.launcher.lifecycle=recorder.Recorder"


def record(directory: Path) -> list[str]:
    return (directory / "record.txt").read_text().splitlines()


def test_hooks_are_called_around_every_job(start: Any, tmp_path: Path) -> None:
    code, output = start("app.py", "-m", "how=raise,ok", RECORDER).finish()
    assert code == 1, output
    assert record(tmp_path) == [
        "new",
        "before_launch how=raise -> out/sweeps/1/0",
        "before_launch how=ok -> out/sweeps/1/1",
        "before_job 0",
        "after_job 0 failed rank=0 rank 0 failed: TaskError: here: boom",
        "before_job 1",
        "after_job 1 completed rank=None None",
        "after_launch failed completed",
    ]


@pytest.mark.parametrize("kept", [False, True])
def test_a_refused_launch_leaves_nothing(start: Any, tmp_path: Path, kept: bool) -> None:
    if kept:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/.gitkeep").touch()
    code, output = start("app.py", "-m", "how=ok,raise", "refuse=before_launch", RECORDER).finish()
    assert code == 1
    assert "before_launch says no" in output
    assert record(tmp_path) == ["new", "before_launch how=ok refuse=before_launch -> out/sweeps/1/0"]
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"record.txt"} | ({"out", "out/.gitkeep"} if kept else set())


def test_an_earlier_sweeps_files_survive_a_refusal(start: Any, tmp_path: Path) -> None:
    assert start("app.py").finish()[0] == 0
    before = {path for path in tmp_path.rglob("*")}
    assert start("app.py", "refuse=before_launch", RECORDER).finish()[0] == 1
    assert {path for path in tmp_path.rglob("*")} - {tmp_path / "record.txt"} == before


def test_before_job_fails_its_job_only(start: Any, tmp_path: Path) -> None:
    code, output = start("app.py", "-m", "refuse=before_job,''", RECORDER).finish()
    assert code == 1
    assert "before_job says no" in output
    lines = record(tmp_path)
    assert lines[4].startswith("after_job 0 failed rank=None Traceback")
    assert lines[-2:] == ["after_job 1 completed rank=None None", "after_launch failed completed"]
    assert "print from rank 0" in output
    assert output.count("print from rank 0") == 1


def test_after_job_fails_a_job_that_had_completed(start: Any, tmp_path: Path) -> None:
    code, output = start("app.py", "-m", "refuse=after_job,''", RECORDER).finish()
    assert code == 1
    assert "after_job says no" in output
    assert record(tmp_path)[-1] == "after_launch failed completed"


def test_invalid_literals_are_refused_before_before_launch(start: Any, tmp_path: Path) -> None:
    code, output = start("app.py", "hydra.launcher.master_port=99", "hydra.launcher.grace=-1", RECORDER).finish()
    assert code == 1
    assert "hydra.launcher.master_port=99: must be 1024 to 65535\nhydra.launcher.grace=-1.0: must be 0" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.launcher.lifecycle=recorder.Recoder", "has no attribute 'Recoder'"),
        ("nosuch=1", "Could not override 'nosuch'"),  # found by Hydra's sweeper, which never calls the launcher
    ],
)
def test_other_errors_leave_nothing_either(start: Any, tmp_path: Path, override: str, message: str) -> None:
    code, output = start("app.py", override).finish()
    assert code == 1
    assert message in output
    assert list(tmp_path.iterdir()) == []


def test_before_launch_is_called_before_interpolated_options_are_checked(start: Any, tmp_path: Path) -> None:
    code, output = start("app.py", "-m", "ranks=1,0", RECORDER).finish()
    assert code == 1
    assert "hydra.launcher.worker_num=0: a job needs at least 1 process" in output
    assert record(tmp_path)[1:] == [
        "before_launch ranks=1 -> out/sweeps/1/0",
        "before_launch ranks=0 -> out/sweeps/1/1",
        "after_launch",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["record.txt"]
