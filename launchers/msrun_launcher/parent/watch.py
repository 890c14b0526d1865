"""Watch a job's workers until all have completed or one has failed. msrun itself takes half a minute to notice."""

import contextlib
import pickle
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Optional

import psutil

from msrun_launcher.exchange import (
    SCHEDULER,
    STACK_SIGNAL,
    TaskResult,
    member_of,
    read_file,
    read_heartbeat,
    read_pid,
    read_result,
)
from msrun_launcher.parent.process_tree import exit_code, is_alive
from msrun_launcher.parent.report import Logs, rank_failed, ranks_hang, start_failed

POLL = 0.05  # seconds
STACK_TIMEOUT = 0.5  # seconds that a hung worker has to write its stack
MSRUN_EXIT_LINE = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")
MSRUN_LOG_POLLS = 4  # number of times that msrun's log is searched for that line
FULL_BYTES = 64 * 1024  # a disk with less is full
START_TIMEOUT = 30.0  # seconds that a worker may take to start after msrun has exited


@dataclass
class Member:
    """The launcher's view of a worker or the scheduler. Times are time.monotonic()."""

    name: str
    process: Optional[psutil.Process] = None  # None before it has started
    exited: bool = False
    last_alive: float = 0.0
    exit_code: Optional[int] = None  # negative: a signal; None: still running, or it couldn't be read
    result: Optional[TaskResult] = None
    heartbeat: Optional[str] = None
    heartbeat_at: float = 0.0

    def update(self, directory: Path) -> None:
        if self.process is None and (pid := read_pid(directory, self.name)) is not None:
            self.last_alive = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                self.process = psutil.Process(pid)
            self.exited = self.process is None
        if self.process is not None and not self.exited:
            if is_alive(self.process):
                self.last_alive = time.monotonic()
            else:
                self.exited, self.exit_code = True, exit_code(self.process.pid)
        if self.result is None:  # after the check for its exit: a worker writes the result before it exits
            self.result = read_result(directory, self.name)

    def update_heartbeat(self, directory: Path) -> None:
        if (heartbeat := read_heartbeat(directory, self.name)) != self.heartbeat:
            self.heartbeat, self.heartbeat_at = heartbeat, time.monotonic()

    @property
    def failed_at(self) -> Optional[float]:
        """When it failed: as its result says, or when it was last alive if it exited without one. None: it has not."""
        if self.result is not None:
            return None if self.result.kind == "completed" else self.result.at
        return self.last_alive if self.exited else None


class Watch:
    """Follows the workers of one job through their files in the exchange directory and their processes.

    root: the process that the launcher started: the only worker, or msrun
    """

    def __init__(self, directory: Path, root: subprocess.Popen[bytes], ranks: Sequence[int], logs: Logs) -> None:
        self.workers = {rank: Member(member_of(rank)) for rank in ranks}
        self._scheduler = Member(SCHEDULER)
        self._directory = directory
        self._root = root
        self._logs = logs
        self._single = logs.directory is None  # root is the only worker
        self._root_exited_at: Optional[float] = None

    def wait_until_done(
        self, time_limit: Optional[float], heartbeat: Optional[float], on_poll: Callable[[], None]
    ) -> None:
        """Return when every worker has completed and exited.

        time_limit: seconds from now
        heartbeat: longest time in seconds between two heartbeats of a rank, once it has sent one
        on_poll: called at every poll, i.e. about every POLL seconds

        Raises WorkerFailed for the earliest failure.
        """
        deadline = None if time_limit is None else time.monotonic() + time_limit
        while not self._poll():
            on_poll()
            if deadline is not None and time.monotonic() > deadline:
                self._raise_time_limit(time_limit)
            if heartbeat is not None:
                self._check_heartbeats(heartbeat)
            self._sleep()

    def pids(self) -> list[int]:
        """Process ids of the workers that have started so far."""
        return [worker.process.pid for worker in self.workers.values() if worker.process is not None]

    def value(self, rank: int) -> Any:
        """The task's return value on that rank; call it after wait_until_done."""
        result = self.workers[rank].result
        assert result is not None
        assert result.value is not None
        return pickle.loads(result.value)

    def _poll(self) -> bool:
        """Update all workers and raise the first failure; True once all have completed and exited."""
        root_code = self._root.poll()  # before reading the workers' files: they are complete if it has exited
        for worker in self.workers.values():
            worker.update(self._directory)
        if self._single and root_code is not None:
            worker = self.workers[0]
            worker.exited, worker.exit_code = True, root_code
        self._raise_first_failure()
        if all(worker.result is not None and worker.exited for worker in self.workers.values()):
            return True
        if not self._single:
            self._check_msrun(root_code)
        return False

    def _raise_first_failure(self) -> None:
        failed = [(worker.failed_at, rank) for rank, worker in self.workers.items() if worker.failed_at is not None]
        if not failed:
            return
        at, rank = min(failed)
        result = self.workers[rank].result
        if result is not None:
            raise rank_failed(rank, result.message or result.kind, self._logs, result.traceback, result, at)
        code = self.workers[rank].exit_code
        if not self._single and any(worker.exited and worker.exit_code is None for worker in self.workers.values()):
            rank, code = self._first_exit_in_msrun_log() or (rank, code)
        full = shutil.disk_usage(self._directory).free < FULL_BYTES
        place = f"; no space is left on the disk of {self._directory} (TMPDIR)" if full else ""
        raise rank_failed(rank, f"{_describe_exit(code)}{place}", self._logs, at=at)

    def _first_exit_in_msrun_log(self) -> Optional[tuple[int, int]]:
        """Rank and exit code of the first worker that msrun saw exit; None if its log doesn't say.

        Needed when msrun collects a worker's exit code before this watch reads it: msrun then kills the other workers,
        and from here it can't be seen which one exited first.
        """
        ranks = {worker.process.pid: rank for rank, worker in self.workers.items() if worker.process is not None}
        for _ in range(MSRUN_LOG_POLLS):
            found = MSRUN_EXIT_LINE.search((read_file(self._logs.of_msrun()) or b"").decode(errors="replace"))
            if found is not None and int(found[1]) in ranks:
                return ranks[int(found[1])], int(found[2])
            time.sleep(POLL)
        return None

    def _check_msrun(self, code: Optional[int]) -> None:
        """Raise if the scheduler failed, or if msrun exited and workers haven't started; code: msrun's exit code."""
        self._scheduler.update(self._directory)
        scheduler, msrun = self._logs.of_scheduler(), self._logs.of_msrun()
        if self._scheduler.exited and self._scheduler.exit_code:
            ended = f"msrun's scheduler ended: {_describe_exit(self._scheduler.exit_code)}"
            raise start_failed(ended, self._logs, scheduler, msrun)
        missing = [rank for rank, worker in self.workers.items() if worker.process is None and not worker.exited]
        if code is None or not missing:
            return
        self._root_exited_at = self._root_exited_at or time.monotonic()
        if code != 0 or time.monotonic() - self._root_exited_at > START_TIMEOUT:
            ended = f"msrun ended before rank {missing[0]} started: {_describe_exit(code)}"
            raise start_failed(ended, self._logs, msrun, scheduler)

    def _raise_time_limit(self, time_limit: Optional[float]) -> NoReturn:
        running = [rank for rank, worker in self.workers.items() if worker.result is None] or list(self.workers)
        message = f"still running after hydra.launcher.time_limit={time_limit:g} s"
        if len(running) > 1:
            others = ", ".join(map(str, running[1:]))
            message += f", as {'is rank' if len(running) == 2 else 'are ranks'} {others}"
        raise rank_failed(running[0], message, self._logs, self._stack(running[0]))

    def _check_heartbeats(self, limit: float) -> None:
        """Raise if a rank's last heartbeat is too old, with the stacks of all ranks: they show who waits for whom."""
        for worker in self.workers.values():
            worker.update_heartbeat(self._directory)
        now = time.monotonic()
        running = {
            rank: worker
            for rank, worker in self.workers.items()
            if worker.heartbeat is not None and worker.result is None
        }
        overdue = [rank for rank, worker in running.items() if now - worker.heartbeat_at > limit]
        if not overdue:
            return
        lines = []
        for rank, worker in running.items():
            lines.append(f"rank {rank}: {worker.heartbeat}, {now - worker.heartbeat_at:.1f} s ago")
            lines += [f"  {line}" for line in (self._stack(rank) or "it wrote no stack trace").splitlines()]
        message = f"no heartbeat for hydra.launcher.heartbeat={limit:g} s"
        raise ranks_hang(overdue, message, "\n".join(lines), self._logs)

    def _stack(self, rank: int) -> Optional[str]:
        """The stack trace of a worker's main thread; None if it doesn't write one within STACK_TIMEOUT."""
        worker = self.workers[rank]
        if worker.process is None or read_pid(self._directory, worker.name) is None:
            return None
        with contextlib.suppress(psutil.Error):
            worker.process.send_signal(STACK_SIGNAL)
        deadline = time.monotonic() + STACK_TIMEOUT
        stack = None
        while time.monotonic() < deadline:
            time.sleep(POLL)
            content = read_file(self._directory / f"{worker.name}.stack")
            if content and content == stack:  # unchanged since the last poll, so complete
                break
            stack = content
        return stack.decode(errors="replace") if stack else None

    def _sleep(self) -> None:
        """Sleep for POLL seconds, or until the started process exits."""
        if self._root.returncode is not None:
            time.sleep(POLL)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._root.wait(POLL)


def _describe_exit(code: Optional[int]) -> str:
    if code is None:
        return "its process disappeared, exit code unknown"
    if code == 0:
        return "exit code 0 before its task returned"
    if code > 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"killed by signal {-code}"
