"""Which rank failed first when exit codes are missing or several ranks fail at once."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from msrun_launcher import WorkerFailed
from msrun_launcher.exchange import TaskResult, member_of, write_file, write_result
from msrun_launcher.parent.report import Logs
from msrun_launcher.parent.watch import Watch

Process = subprocess.Popen[bytes]


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """A stand-in for msrun and two workers, all idle."""
    begun = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(3)]
    yield begun
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def watch(tmp_path: Path, processes: list[Process]) -> Watch:
    """A Watch that has polled both workers once, alive."""
    for rank in (0, 1):
        write_file(tmp_path / f"{member_of(rank)}.pid", str(processes[1 + rank].pid).encode())
    (tmp_path / "msrun.log").touch()
    watch = Watch(tmp_path, processes[0], range(2), Logs(tmp_path, None))
    with pytest.raises(StopIteration):
        watch.wait_until_done(None, None, on_poll=iter(()).__next__)
    return watch


def kill(process: Process) -> None:
    process.kill()
    process.wait()  # as msrun does: afterwards the exit code can't be read any more


def test_msruns_log_says_which_of_two_workers_died_first(
    tmp_path: Path, processes: list[Process], watch: Watch
) -> None:
    kill(processes[2])
    kill(processes[1])
    (tmp_path / "msrun.log").write_text(f"Worker process {processes[2].pid} exit with exception. Error code: -9.\n")
    with pytest.raises(WorkerFailed, match=r"^rank 1 failed: killed by SIGKILL") as failure:
        watch.wait_until_done(None, None, on_poll=lambda: None)
    assert failure.value.rank == 1


def test_a_worker_without_a_known_exit_code_still_fails_the_job(processes: list[Process], watch: Watch) -> None:
    kill(processes[1])
    with pytest.raises(WorkerFailed, match=r"^rank 0 failed: its process disappeared, exit code unknown"):
        watch.wait_until_done(None, None, on_poll=lambda: None)


def test_a_full_disk_is_named_that_kept_a_worker_from_writing_its_result(
    processes: list[Process], watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(processes[1])
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(WorkerFailed, match=f"unknown; no space is left on the disk of {tmp_path} "):
        watch.wait_until_done(None, None, on_poll=lambda: None)


def test_a_killed_rank_is_named_not_the_rank_whose_exception_it_caused(
    tmp_path: Path, processes: list[Process], watch: Watch
) -> None:
    kill(processes[2])
    write_result(tmp_path, member_of(0), TaskResult("raised", time.monotonic(), "lost my peer"))
    with pytest.raises(WorkerFailed, match=r"^rank 1 failed"):
        watch.wait_until_done(None, None, on_poll=lambda: None)


def test_the_earlier_of_two_exceptions_is_the_failure(tmp_path: Path, watch: Watch) -> None:
    write_result(tmp_path, member_of(0), TaskResult("raised", 20.0, "lost my peer"))
    write_result(tmp_path, member_of(1), TaskResult("raised", 10.0, "the reason", traceback="Traceback: where"))
    with pytest.raises(WorkerFailed, match=r"^rank 1 failed: the reason\n  Traceback: where\nlog: .*worker_1.log$"):
        watch.wait_until_done(None, None, on_poll=lambda: None)
