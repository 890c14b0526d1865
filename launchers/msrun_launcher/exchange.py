"""The directory through which launcher and workers of one job talk. Both sides import this; it must stay light.

start.json          sys.path, grace, the node's number, what msrun sets; readable before anything else can be imported
job.pkl             the Job, by cloudpickle
alive               a named pipe that the launcher holds open for writing: its end is the launcher's death
<member>.pid        a worker has started
<member>.beat       what a worker has last done, if its task tells
<member>.stack      where its threads are, written when it is asked with STACK_SIGNAL
<member>.end        its End
A member is "rank-N" or "scheduler". Files are renamed into place, so that a reader never sees half of one.
"""

import os
import pickle
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

SHOWN = ("shown.out", "shown.err")  # what a job's first rank here prints: the launcher shows it as its own
SCHEDULER = "scheduler"
STACK_SIGNAL = signal.SIGUSR2
JOB_VARIABLE = "MSRUN_LAUNCHER_JOB"  # holds the exchange directory, for what a worker starts to be known by


@dataclass
class Job:
    """What a worker runs."""

    task_function: Any
    config: Any
    singletons: Any
    logging: dict[str, Any]  # hydra.job_logging, resolved
    verbose: Any
    first_rank: int  # of this machine: the one whose value is asked for
    many: bool  # more than one rank


@dataclass
class End:
    """How a worker's task ended, told by the worker itself.

    at: time.monotonic() of that machine
    what: one line, e.g. "ValueError: boom" or "exit code 3"; None where it completed
    value, exception: pickled for themselves, since either may refuse to be unpickled elsewhere
    """

    kind: Literal["completed", "raised", "exited", "terminated"]
    at: float
    what: Optional[str] = None
    traceback: Optional[str] = None
    value: Optional[bytes] = None
    exception: Optional[bytes] = None


def search_path(directory: str) -> list[str]:
    """sys.path, its relative entries seen from `directory`."""
    return [os.path.join(directory, entry) for entry in sys.path]


def member_of(rank: int) -> str:
    return f"rank-{rank}"


def write_file(path: Path, content: bytes) -> None:
    """Put a file into place at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def read_file(path: Path) -> Optional[bytes]:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def read_pid(directory: Path, member: str) -> Optional[int]:
    content = read_file(directory / f"{member}.pid")
    return int(content) if content is not None else None


def read_end(directory: Path, member: str) -> Optional[End]:
    content = read_file(directory / f"{member}.end")
    return pickle.loads(content) if content is not None else None


def write_end(directory: Path, member: str, end: End) -> None:
    write_file(directory / f"{member}.end", pickle.dumps(end))


def read_beat(directory: Path, member: str) -> Optional[str]:
    content = read_file(directory / f"{member}.beat")
    return content.decode() if content is not None else None


def write_beat(directory: Path, member: str, done: str) -> None:
    write_file(directory / f"{member}.beat", done.encode())
