"""The lock of a job's output directory: a second command on it is refused while the first one lives.

A file `.lock` in the directory, locked by flock, which ends with the process, however that ends. The launching process
holds it; should that be killed, the worker that still saves a checkpoint takes it over. The file names who has it.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.storage.atomic_directory import is_locked, still_at

LOCK_FILE = ".lock"
TIMEOUT = 0.5  # seconds: somebody who only looks whether the lock is free has it for a moment
POLL = 0.02  # seconds


@dataclass
class DirectoryLock:
    """A lock that this process holds.

    descriptor: None on a file system without locks
    made: the directories that were made for it, innermost first
    """

    directory: Path
    descriptor: int | None
    made: list[Path]

    def release(self) -> None:
        """Give it back, without a trace: directories that were made for it stay only if something lies in them."""
        if self.descriptor is not None:
            (self.directory / LOCK_FILE).unlink(missing_ok=True)  # before others can have it
            os.close(self.descriptor)
        with contextlib.suppress(OSError):  # not empty
            for directory in self.made:
                directory.rmdir()


def lock_problem(directory: Path, key: str) -> Problem | None:
    """The problem that another process has locked the directory; None: nobody has.

    Args:
        key: the config key that names the directory.
    """
    return _in_use(directory, key) if is_locked(directory / LOCK_FILE) else None


def lock_directory(directory: Path, key: str) -> DirectoryLock:
    """Lock a directory for this process, making it if need be.

    Raises:
        Refused: another process has locked it.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    deadline = time.monotonic() + TIMEOUT
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() < deadline:
                time.sleep(POLL)
                continue
            raise Refused([_in_use(directory, key)]) from None
        except OSError:  # no locks on this file system, such as Lustre's without the option flock
            (directory / LOCK_FILE).unlink(missing_ok=True)
            os.close(descriptor)
            return DirectoryLock(directory, None, made)
        if still_at(descriptor, directory / LOCK_FILE):
            _sign(descriptor)
            return DirectoryLock(directory, descriptor, made)
        os.close(descriptor)  # who had it has just removed it


def take_over(directory: Path) -> None:
    """In a worker: hold the lock from the launching process's death, if that comes first, to this process's end."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR)
        threading.Thread(target=_wait, args=(descriptor,), name="output-lock", daemon=True).start()


def _wait(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the descriptor stays open: its end is the process's
        _sign(descriptor)


def _sign(descriptor: int) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _in_use(directory: Path, key: str) -> Problem:
    try:
        holder = json.loads((directory / LOCK_FILE).read_text())
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        who = "another process"
    remedy = f"wait for its end, or stop it; {key}=DIR for another directory"
    return Problem(key, f"{directory} is in use by {who}", remedy)
