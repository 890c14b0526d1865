"""All processes of one job, found by session, by descent and by a mark in their environment, and their end."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Optional

import psutil

from msrun_launcher.exchange import JOB_VARIABLE

POLL = 0.02  # seconds
KILL_PATIENCE = 2.0  # seconds after SIGKILL until a process is taken to hang in the kernel


class ProcessTree:
    """A worker leads a session of its own; what it starts stays in that session or descends from it.

    A process that a worker starts in the moment of its end does neither, if it has a session of its own: it has the
    worker's environment, with JOB_VARIABLE.

    root: the started process, leader of a session; root_is_worker: else it is msrun; directory: the job's exchange
    """

    def __init__(self, root: subprocess.Popen[bytes], root_is_worker: bool, directory: Path) -> None:
        self._root = root
        self._job = str(directory)
        self._root_is_worker = root_is_worker
        self._born = time.time()
        self._sessions = {root.pid}

    def add_workers(self, pids: Iterable[int]) -> None:
        """Count in the sessions of workers that msrun started; without this they are found only while msrun lives."""
        self._sessions.update(pids)

    def stop(self, grace: float, hurry: Callable[[], bool]) -> None:
        """End every process: workers get SIGTERM and `grace` seconds (none once `hurry()`), then all get SIGKILL."""
        if not self._root_is_worker and self._root.poll() is None:
            self._root.send_signal(signal.SIGSTOP)  # starts no more workers while they are counted
        members = self._members()
        workers = [member for member in members if self._is_worker(member)]
        self._sessions.update(_session(member) for member in members)  # descent is lost when a worker ends
        if not self._root_is_worker:
            self._root.kill()  # first, or it would kill workers in their grace
        for worker in workers:
            with contextlib.suppress(psutil.Error):
                worker.terminate()
        deadline = time.monotonic() + grace
        while any(lives(worker) for worker in workers) and time.monotonic() < deadline and not hurry():
            self._root.poll()
            time.sleep(POLL)
        self.kill()

    def kill(self) -> None:
        """SIGKILL whatever is left: workers, msrun, its scheduler, children that a task forgot."""
        deadline = time.monotonic() + KILL_PATIENCE
        while (members := self._members()) and time.monotonic() < deadline:
            for member in members:
                with contextlib.suppress(psutil.Error):
                    member.kill()
            self._root.poll()
            time.sleep(POLL)
        self._root.poll()

    def _is_worker(self, member: psutil.Process) -> bool:
        if member.pid == self._root.pid:
            return self._root_is_worker
        return not self._root_is_worker and _session(member) == member.pid

    def _members(self) -> list[psutil.Process]:
        living = [process for process in psutil.process_iter() if lives(process)]
        found = {process.pid: process for process in living if self._in_session(process) or self._is_marked(process)}
        size = 0
        while len(found) > size:
            size = len(found)
            found |= {process.pid: process for process in living if _parent(process) in found}
        return list(found.values())

    def _is_marked(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.environ().get(JOB_VARIABLE) == self._job
        return False

    def _in_session(self, process: psutil.Process) -> bool:
        if _session(process) not in self._sessions:
            return False
        with contextlib.suppress(psutil.Error):
            return process.pid == self._root.pid or process.create_time() >= self._born - 1  # not a reused number
        return False


def lives(process: psutil.Process) -> bool:
    """A zombie has ended: all it waits for is to be asked how."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def exit_code(pid: int) -> Optional[int]:
    """The exit code, or minus the signal, of a zombie; None where the system does not tell.

    A worker's parent is msrun, which asks once a second; until then the kernel keeps the answer.
    """
    try:
        status = int(Path(f"/proc/{pid}/stat").read_text().rpartition(" ")[2])  # proc(5), field 52
        return os.waitstatus_to_exitcode(status)
    except (OSError, ValueError):
        return None


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return -1


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return -1
