"""Who failed first, where the files and processes alone do not tell."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from msrun_launcher import WorkerFailed
from msrun_launcher.exchange import End, member_of, write_end, write_file
from msrun_launcher.parent.report import Logs
from msrun_launcher.parent.watch import Watch

Process = subprocess.Popen[bytes]


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """msrun's stand-in and two workers, which do nothing."""
    begun = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(3)]
    yield begun
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def watch(tmp_path: Path, processes: list[Process]) -> Watch:
    """Has seen both workers alive."""
    for rank in (0, 1):
        write_file(tmp_path / f"{member_of(rank)}.pid", str(processes[1 + rank].pid).encode())
    (tmp_path / "msrun.log").touch()
    watch = Watch(tmp_path, processes[0], range(2), Logs(tmp_path, None))
    with pytest.raises(StopIteration):
        watch.until_done(None, None, each_poll=iter(()).__next__)
    return watch


def kill(process: Process) -> None:
    process.kill()
    process.wait()  # as msrun does: the kernel forgets the exit code


def test_msrun_knows_which_of_two_dead_workers_died_first(
    tmp_path: Path, processes: list[Process], watch: Watch
) -> None:
    kill(processes[2])
    kill(processes[1])
    (tmp_path / "msrun.log").write_text(f"Worker process {processes[2].pid} exit with exception. Error code: -9.\n")
    with pytest.raises(WorkerFailed, match=r"^rank 1 failed: killed by SIGKILL") as failure:
        watch.until_done(None, None, each_poll=lambda: None)
    assert failure.value.rank == 1


def test_a_death_without_witness_is_still_a_failure(processes: list[Process], watch: Watch) -> None:
    kill(processes[1])
    with pytest.raises(WorkerFailed, match=r"^rank 0 failed: its process vanished"):
        watch.until_done(None, None, each_poll=lambda: None)


def test_a_death_comes_before_what_it_makes_others_raise(
    tmp_path: Path, processes: list[Process], watch: Watch
) -> None:
    kill(processes[2])
    write_end(tmp_path, member_of(0), End("raised", time.monotonic(), "lost my peer"))
    with pytest.raises(WorkerFailed, match=r"^rank 1 failed"):
        watch.until_done(None, None, each_poll=lambda: None)


def test_the_earlier_of_two_exceptions_is_the_failure(tmp_path: Path, watch: Watch) -> None:
    write_end(tmp_path, member_of(0), End("raised", 20.0, "lost my peer"))
    write_end(tmp_path, member_of(1), End("raised", 10.0, "the reason", traceback="Traceback: where"))
    with pytest.raises(WorkerFailed, match=r"^rank 1 failed: the reason\n  Traceback: where\nlog: .*worker_1.log$"):
        watch.until_done(None, None, each_poll=lambda: None)
