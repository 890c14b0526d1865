"""Find all processes of one job (by session, by descent and by an environment variable) and stop them."""

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
KILL_TIMEOUT = 2.0  # seconds after SIGKILL before giving up on a process that hangs in the kernel


class ProcessTree:
    """The processes of one job.

    Each worker leads its own session, and the processes that it starts are in that session or its descendants. The
    exception is a process started in a new session just before the worker exits: it is found by JOB_VARIABLE in its
    environment.

    root: the process that the launcher started, a session leader
    root_is_worker: True: root is the only worker; False: root is msrun
    directory: the job's exchange directory
    """

    def __init__(self, root: subprocess.Popen[bytes], root_is_worker: bool, directory: Path) -> None:
        self._root = root
        self._job = str(directory)
        self._root_is_worker = root_is_worker
        self._started_at = time.time()
        self._sessions = {root.pid}

    def add_workers(self, pids: Iterable[int]) -> None:
        """Add the sessions of workers that msrun started: descent finds them only while msrun is alive."""
        self._sessions.update(pids)

    def stop(self, grace: float, skip_grace: Callable[[], bool]) -> None:
        """SIGTERM to the workers, SIGKILL to all after `grace` seconds, or as soon as `skip_grace()` is True."""
        if not self._root_is_worker and self._root.poll() is None:
            self._root.send_signal(signal.SIGSTOP)  # so that it starts no more workers while they are listed
        members = self._members()
        workers = [member for member in members if self._is_worker(member)]
        self._sessions.update(_session(member) for member in members)  # a worker's exit makes its children orphans
        if not self._root_is_worker:
            self._root.kill()  # first: it would kill the workers before their grace is over
        for worker in workers:
            with contextlib.suppress(psutil.Error):
                worker.terminate()
        deadline = time.monotonic() + grace
        while any(is_alive(worker) for worker in workers) and time.monotonic() < deadline and not skip_grace():
            self._root.poll()
            time.sleep(POLL)
        self.kill()

    def kill(self) -> None:
        """SIGKILL all that are still running: workers, msrun, its scheduler, child processes of tasks."""
        deadline = time.monotonic() + KILL_TIMEOUT
        while (members := self._members()) and time.monotonic() < deadline:
            for member in members:
                with contextlib.suppress(psutil.Error):
                    member.kill()
            self._root.poll()
            time.sleep(POLL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a zombie's threads may still be ending
            self._root.wait(max(0, deadline - time.monotonic()))

    def _is_worker(self, member: psutil.Process) -> bool:
        if member.pid == self._root.pid:
            return self._root_is_worker
        return not self._root_is_worker and _session(member) == member.pid

    def _members(self) -> list[psutil.Process]:
        living = [process for process in psutil.process_iter() if is_alive(process)]
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
            # An older process is in another session, whose id was used again.
            return process.pid == self._root.pid or process.create_time() >= self._started_at - 1
        return False


def is_alive(process: psutil.Process) -> bool:
    """Whether the process is running; a zombie is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def exit_code(pid: int) -> Optional[int]:
    """The exit code of a zombie, negative for a signal; None if it can't be read.

    A worker is a zombie until its parent msrun collects its exit code, which it does once a second.
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
