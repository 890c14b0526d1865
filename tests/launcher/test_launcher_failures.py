"""A failing rank: what is reported, how the other ranks end, and how the sweep continues."""

import errno
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from msrun_launcher import WorkerFailed
from msrun_launcher.exchange import Job
from msrun_launcher.parent.run import _exchange_directory

JOB = Job(None, None, None, {}, False, 0, False)
CAUSES = {
    "kill": "killed by SIGKILL",
    "exit": "exit code 3",
    "os_exit": "exit code 4",
    "raise": "TaskError: here: boom",
    "term": "ended by SIGTERM",
}
# term with one rank only: the worker itself writes the message, the same for any number of ranks
LIMITS = {1: 3, 2: 10}  # seconds by number of ranks; msrun takes a few to start
CASES = [(how, 1) for how in CAUSES] + [
    ("exit", 2),
    *(pytest.param(how, 2, marks=pytest.mark.slow) for how in ("kill", "os_exit", "raise")),
]


@pytest.mark.parametrize(("how", "ranks"), CASES)
def test_the_failing_rank_and_its_cause_are_named(start: Any, tmp_path: Any, how: str, ranks: int) -> None:
    launch = start("app.py", f"how={how}", f"ranks={ranks}", f"rank={ranks - 1}")
    code, output = launch.finish()
    assert code == 1
    assert f"rank {ranks - 1} failed: {CAUSES[how]}\n" in output
    log = tmp_path / "out/sweeps/1/0" / ("app.log" if ranks == 1 else "logs/worker_1.log")
    assert f"log: {log}" in output
    assert launch.living() == []
    if how == "raise":
        assert "in fail\n  TaskError: here: boom" in output
        if ranks == 2:
            assert "TaskError: here: boom" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_job_past_its_time_limit_fails_with_a_stack_trace(start: Any, ranks: int) -> None:
    launch = start("app.py", "how=stubborn", f"ranks={ranks}", f"hydra.launcher.time_limit={LIMITS[ranks]}")
    code, output = launch.finish()
    assert code == 1
    assert f"rank 0 failed: still running after hydra.launcher.time_limit={LIMITS[ranks]} s" in output
    assert "in wait\n" in output
    assert launch.living() == []


@pytest.mark.slow
def test_a_rank_without_a_heartbeat_fails_the_job(start: Any) -> None:
    """The message has each rank's last heartbeat and stack."""
    launch = start("app.py", "how=silent", "ranks=2", "rank=1", "hydra.launcher.heartbeat=3")
    code, output = launch.finish()
    assert code == 1
    assert re.search(r"(rank 0|ranks 0, 1): no heartbeat for hydra.launcher.heartbeat=3 s\n", output), output
    for rank, step in ((0, 3), (1, 2)):
        assert re.search(rf"  rank {rank}: step {step}, \d+\.\d s ago\n    Stack", output)
    assert launch.living() == []


def test_a_full_directory_of_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    words = rf"no temporary file can be written: {tmp_path}/msrun-.*: No space left on device\n  -> .* TMPDIR"
    with pytest.raises(WorkerFailed, match=words), _exchange_directory(JOB, {}):
        pass
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(WorkerFailed, match="No such file or directory"), _exchange_directory(JOB, {}):
        pass


def test_later_jobs_of_a_sweep_run(start: Any, tmp_path: Any) -> None:
    code, output = start("app.py", "-m", "how=kill,raise,ok").finish()
    assert code == 1
    assert "hello from rank 0" in (tmp_path / "out/sweeps/1/2/app.log").read_text()
    assert "Error executing job with overrides: ['how=kill']" in output  # Hydra shows the first failure,
    assert "job #1 failed: rank 0 failed: TaskError: here: boom\n  Traceback" in output  # the launcher the others


@pytest.mark.parametrize("in_process", [False, True])
def test_sys_exit_zero_completes_the_job(start: Any, in_process: bool) -> None:
    code, output = start("app.py", "how=exit0", f"hydra.launcher.in_process={in_process}").finish()
    assert (code, "failed" in output) == (0, False)


def test_sys_exit_in_process_fails_the_job_not_the_sweep(start: Any) -> None:
    code, output = start("app.py", "-m", "how=exit,ok", "hydra.launcher.in_process=true").finish()
    assert code == 1
    assert "job #0 failed: the task ended with sys.exit(3)" in output
    assert "print from rank 0" in output.partition("job #0 failed")[2]


def test_child_processes_of_a_task_are_stopped(start: Any) -> None:
    launch = start("app.py", "how=children", "hydra.launcher.time_limit=3")
    code, _ = launch.finish()
    assert code == 1
    assert launch.living() == []
