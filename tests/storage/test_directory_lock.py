"""The lock of an output directory, and of a directory that is being written."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dscoder_exp.schema.errors import Refused
from dscoder_exp.storage.atomic_directory import atomic_directory, new_directory
from dscoder_exp.storage.directory_lock import LOCK_FILE, lock_directory, lock_problem, take_over

HOLD = """if True:
    import sys, time
    from pathlib import Path
    from dscoder_exp.storage.directory_lock import lock_directory
    held = lock_directory(Path(sys.argv[1]), "output_dir")
    print("held", flush=True)
    time.sleep(100)
"""


def problem_of(directory: Path) -> str:
    """What a second command is told."""
    with pytest.raises(Refused) as refused:
        lock_directory(directory, "output_dir")
    (problem,) = refused.value.problems
    assert lock_problem(directory, "output_dir") == problem
    assert (problem.where, problem.remedy) == (
        "output_dir",
        "wait for its end, or stop it; output_dir=DIR for another directory",
    )
    return problem.what


def test_a_second_lock_names_who_has_the_first(tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "a"
    assert lock_problem(directory, "output_dir") is None
    lock = lock_directory(directory, "output_dir")
    who = f"{directory} is in use by process {os.getpid()} on {socket.gethostname()}, since "
    assert problem_of(directory).startswith(who)
    lock.release()
    assert lock_problem(directory, "output_dir") is None
    assert list(tmp_path.iterdir()) == []  # it was made for the lock


def test_what_lies_in_the_directory_stays(tmp_path: Path) -> None:
    lock = lock_directory(tmp_path / "a", "output_dir")
    (tmp_path / "a" / "checkpoints").mkdir()
    lock.release()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["checkpoints"]


def test_a_killed_process_does_not_keep_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert f"process {process.pid} on" in problem_of(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK_FILE).exists()  # nobody could remove it
    assert lock_problem(tmp_path, "output_dir") is None
    lock_directory(tmp_path, "output_dir").release()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_has_it_after_its_launchers_death(tmp_path: Path) -> None:
    """It may still save a checkpoint."""
    lock = lock_directory(tmp_path, "output_dir")
    take_over(tmp_path)
    assert lock.descriptor is not None
    os.close(lock.descriptor)  # as the launcher's death does
    deadline = time.monotonic() + 10
    while lock_problem(tmp_path, "output_dir") is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "is in use by" in problem_of(tmp_path)


def test_without_a_lock_a_worker_has_nothing_to_take_over(tmp_path: Path) -> None:
    take_over(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    first, second = (lock_directory(tmp_path / "a", "output_dir") for _ in range(2))
    assert lock_problem(tmp_path / "a", "output_dir") is None
    first.release()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_another_process_writes_is_refused_at_once(tmp_path: Path) -> None:
    target = tmp_path / "converted"
    with (
        atomic_directory(target, "weights.target"),
        pytest.raises(Refused, match=r"weights.target: another process is writing .*converted"),
        new_directory(target, "weights.target"),
    ):
        pass
    with new_directory(target, "weights.target") as directory:
        (directory / "file").touch()
    assert [path.name for path in target.iterdir()] == ["file"]
