"""The spare worker that before_launch starts: which job uses it, and that it never outlives the launcher."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

WARM_UP = "hydra.launcher.lifecycle=recorder.WarmUp"


def reports(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(directory.glob("out/sweeps/1/*/report-*.json"))]


def test_the_first_job_runs_in_it_with_its_own_environment(start: Any, tmp_path: Path) -> None:
    overrides = ["how=report", "hydra.job.chdir=true", "+hydra.job.env_set.FROM_ENV_SET=set"]
    code, output = start("app.py", "-m", *overrides, "rank=0,1", WARM_UP).finish()
    assert code == 0, output
    first, second = reports(tmp_path)
    warmed = int((tmp_path / "warmed.txt").read_text())
    assert first["pid"] == warmed != second["pid"]
    assert [Path(job["cwd"]) for job in (first, second)] == [tmp_path / f"out/sweeps/1/{n}" for n in (0, 1)]
    for job in (first, second):
        assert (job["FROM_ENV_SET"], job["added"]) == ("set", "by before_job")
    assert "nosuch" not in output


def test_a_failure_in_it_is_reported_like_any_other(start: Any, tmp_path: Path) -> None:
    launch = start("app.py", "how=kill", WARM_UP)
    code, output = launch.finish()
    assert code == 1
    assert "rank 0 failed: killed by SIGKILL" in output
    assert launch.left() == []


@pytest.mark.parametrize("how", ["before_launch", "before_job"])
def test_without_a_job_it_is_killed(start: Any, how: str) -> None:
    launch = start("app.py", f"refuse={how}", WARM_UP)
    code, output = launch.finish()
    assert code == 1
    assert f"{how} says no" in output
    assert launch.living() == []


@pytest.mark.slow
def test_a_job_of_several_ranks_does_not_use_it(start: Any, tmp_path: Path) -> None:
    launch = start("app.py", "how=report", "ranks=2", WARM_UP)
    code, output = launch.finish()
    assert code == 0, output
    warmed = int((tmp_path / "warmed.txt").read_text())
    assert warmed not in [job["pid"] for job in reports(tmp_path)]
    assert launch.left() == []


def test_it_ends_with_its_launcher(start: Any, tmp_path: Path) -> None:
    launch = start("app.py", "refuse=waits", WARM_UP)
    launch.wait_for(tmp_path / "warmed.txt")
    assert len(launch.living()) == 2
    os.kill(launch.process.pid, 9)
    assert launch.left() == []
