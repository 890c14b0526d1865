"""The directory through which the launcher and the workers of one job communicate; both import this module.

It is imported at every worker's start, so it imports the standard library only.

start.json          sys.path, grace, the node's number, variables to unset; read before other packages can be imported
job.pkl             the Job, by cloudpickle
alive               a named pipe that the launcher holds open for writing; end of file tells workers that it has died
shown.out, .err     what the node's first rank prints
<member>.pid        process id, written when the worker has started
<member>.beat       the worker's last heartbeat, if its task sends any
<member>.stack      the worker's stack trace, written when it receives STACK_SIGNAL
<member>.end        the worker's TaskResult
A member is "rank-N" or "scheduler". Files are renamed into place, so that a reader never sees a partial one.
"""

import os
import pickle
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

CONSOLE_FILES = ("shown.out", "shown.err")  # stdout and stderr of the node's first rank; the launcher prints them
SCHEDULER = "scheduler"
STACK_SIGNAL = signal.SIGUSR2
JOB_VARIABLE = "MSRUN_LAUNCHER_JOB"  # the exchange directory; marks every process that a worker starts


@dataclass
class Job:
    """What a worker runs."""

    task_function: Any
    config: Any
    singletons: Any
    logging: dict[str, Any]  # hydra.job_logging, resolved
    verbose: Any
    first_rank: int  # the lowest rank on this node, whose return value the launcher reads
    multi_rank: bool  # more than one rank over all nodes


@dataclass
class TaskResult:
    """How a worker's task ended, written by the worker itself.

    at: time.monotonic() of the worker's machine
    message: one line, e.g. "ValueError: boom" or "exit code 3"; None if completed
    value, exception: pickled separately from this object, since either may fail to unpickle in the launcher
    """

    kind: Literal["completed", "raised", "exited", "terminated"]
    at: float
    message: Optional[str] = None
    traceback: Optional[str] = None
    value: Optional[bytes] = None
    exception: Optional[bytes] = None


def search_path(directory: str) -> list[str]:
    """sys.path with its relative entries resolved against `directory`."""
    return [os.path.join(directory, entry) for entry in sys.path]


def member_of(rank: int) -> str:
    return f"rank-{rank}"


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def read_file(path: Path) -> Optional[bytes]:
    """The file's content; None if it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def read_pid(directory: Path, member: str) -> Optional[int]:
    content = read_file(directory / f"{member}.pid")
    return int(content) if content is not None else None


def read_result(directory: Path, member: str) -> Optional[TaskResult]:
    content = read_file(directory / f"{member}.end")
    return pickle.loads(content) if content is not None else None


def write_result(directory: Path, member: str, result: TaskResult) -> None:
    write_file(directory / f"{member}.end", pickle.dumps(result))


def read_heartbeat(directory: Path, member: str) -> Optional[str]:
    content = read_file(directory / f"{member}.beat")
    return content.decode() if content is not None else None


def write_heartbeat(directory: Path, member: str, done: str) -> None:
    write_file(directory / f"{member}.beat", done.encode())
