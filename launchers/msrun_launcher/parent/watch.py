"""Watch a job's workers until all have completed or one has failed. msrun itself notices only after half a minute."""

import contextlib
import pickle
import re
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
    End,
    member_of,
    read_beat,
    read_end,
    read_file,
    read_pid,
)
from msrun_launcher.parent.process_tree import exit_code, lives
from msrun_launcher.parent.report import Logs, rank_failed, silent, start_failed

POLL = 0.05  # seconds
STACK_PATIENCE = 0.5  # seconds that a hanging worker has to write where it hangs
MSRUN_SAW = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")
MSRUN_LOG_POLLS = 4  # until msrun is taken to have written that
LATE_START = 30.0  # seconds that a worker may take to show up after its msrun has left


@dataclass
class Member:
    """A process as the launcher sees it. Times are time.monotonic()."""

    name: str
    process: Optional[psutil.Process] = None
    gone: bool = False
    last_alive: float = 0.0
    code: Optional[int] = None  # exit code or minus a signal, where it could be read
    end: Optional[End] = None
    beat: Optional[str] = None  # what it has last done, where its task tells
    beat_at: float = 0.0

    def look(self, directory: Path) -> None:
        if self.process is None and (pid := read_pid(directory, self.name)) is not None:
            self.last_alive = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                self.process = psutil.Process(pid)
            self.gone = self.process is None
        if self.process is not None and not self.gone:
            if lives(self.process):
                self.last_alive = time.monotonic()
            else:
                self.gone, self.code = True, exit_code(self.process.pid)
        if self.end is None:  # last: a process writes it before it goes
            self.end = read_end(directory, self.name)

    def listen(self, directory: Path) -> None:
        if (beat := read_beat(directory, self.name)) != self.beat:
            self.beat, self.beat_at = beat, time.monotonic()

    @property
    def failed_at(self) -> Optional[float]:
        """When it failed; a process that vanished without a word did so after it was last seen."""
        if self.end is not None:
            return None if self.end.kind == "completed" else self.end.at
        return self.last_alive if self.gone else None


class Watch:
    """Follows the workers of one job through the files they write and the processes they are.

    root: the worker itself where there is one plain one, else msrun
    """

    def __init__(self, directory: Path, root: subprocess.Popen[bytes], ranks: Sequence[int], logs: Logs) -> None:
        self.workers = {rank: Member(member_of(rank)) for rank in ranks}
        self._scheduler = Member(SCHEDULER)
        self._directory = directory
        self._root = root
        self._logs = logs
        self._plain = logs.directory is None
        self._root_left: Optional[float] = None

    def until_done(
        self, time_limit: Optional[float], heartbeat: Optional[float], each_poll: Callable[[], None]
    ) -> None:
        """Return when every worker has completed and left.

        time_limit: seconds from now
        heartbeat: seconds from one sign of life to the next, of a rank that has given one
        each_poll: called many times a second
        Raises WorkerFailed for what failed first.
        """
        deadline = None if time_limit is None else time.monotonic() + time_limit
        while not self._look():
            each_poll()
            if deadline is not None and time.monotonic() > deadline:
                self._time_over(time_limit)
            if heartbeat is not None:
                self._check_heartbeat(heartbeat)
            self._pause()

    def pids(self) -> list[int]:
        """Of the workers that have shown up so far."""
        return [worker.process.pid for worker in self.workers.values() if worker.process is not None]

    def value(self, rank: int) -> Any:
        """What the task returned on that rank, once until_done has returned."""
        end = self.workers[rank].end
        assert end is not None
        assert end.value is not None
        return pickle.loads(end.value)

    def _look(self) -> bool:
        """Whether all are done."""
        root_code = self._root.poll()  # before the workers' files: whoever left has written them
        for worker in self.workers.values():
            worker.look(self._directory)
        if self._plain and root_code is not None:
            worker = self.workers[0]
            worker.gone, worker.code = True, root_code
        self._raise_first_failure()
        if all(worker.end is not None and worker.gone for worker in self.workers.values()):
            return True
        if not self._plain:
            self._check_msrun(root_code)
        return False

    def _raise_first_failure(self) -> None:
        failed = [(worker.failed_at, rank) for rank, worker in self.workers.items() if worker.failed_at is not None]
        if not failed:
            return
        at, rank = min(failed)
        end = self.workers[rank].end
        if end is not None:
            raise rank_failed(rank, end.what or end.kind, self._logs, end.traceback, end, at)
        code = self.workers[rank].code
        if not self._plain and any(worker.gone and worker.code is None for worker in self.workers.values()):
            rank, code = self._told_by_msrun() or (rank, code)
        raise rank_failed(rank, _words(code), self._logs, at=at)

    def _told_by_msrun(self) -> Optional[tuple[int, int]]:
        """Rank and exit code of the first death that msrun saw, if it was quicker than this watch.

        It then has taken the exit code from the kernel and kills the other workers, so that those look dead as well.
        """
        ranks = {worker.process.pid: rank for rank, worker in self.workers.items() if worker.process is not None}
        for _ in range(MSRUN_LOG_POLLS):
            found = MSRUN_SAW.search((read_file(self._logs.of_msrun()) or b"").decode(errors="replace"))
            if found is not None and int(found[1]) in ranks:
                return ranks[int(found[1])], int(found[2])
            time.sleep(POLL)
        return None

    def _check_msrun(self, code: Optional[int]) -> None:
        """Fail where msrun or its scheduler ended although there are workers to come or at work."""
        self._scheduler.look(self._directory)
        scheduler, msrun = self._logs.of_scheduler(), self._logs.of_msrun()
        if self._scheduler.gone and self._scheduler.code:
            raise start_failed(f"msrun's scheduler ended: {_words(self._scheduler.code)}", self._logs, scheduler, msrun)
        missing = [rank for rank, worker in self.workers.items() if worker.process is None and not worker.gone]
        if code is None or not missing:
            return
        self._root_left = self._root_left or time.monotonic()
        if code != 0 or time.monotonic() - self._root_left > LATE_START:
            what = f"msrun ended before rank {missing[0]} started: {_words(code)}"
            raise start_failed(what, self._logs, msrun, scheduler)

    def _time_over(self, time_limit: Optional[float]) -> NoReturn:
        late = [rank for rank, worker in self.workers.items() if worker.end is None] or list(self.workers)
        what = f"still at work after the time limit of {time_limit:g} s"
        if len(late) > 1:
            what += f"; so {'is rank' if len(late) == 2 else 'are ranks'} {', '.join(map(str, late[1:]))}"
        raise rank_failed(late[0], what, self._logs, self._stack(late[0]))

    def _check_heartbeat(self, limit: float) -> None:
        """Fail where a rank has been silent for too long; which one the others wait for, their stacks tell."""
        for worker in self.workers.values():
            worker.listen(self._directory)
        now = time.monotonic()
        working = {rank: worker for rank, worker in self.workers.items() if worker.beat is not None and not worker.end}
        late = [rank for rank, worker in working.items() if now - worker.beat_at > limit]
        if not late:
            return
        lines = []
        for rank, worker in working.items():
            lines.append(f"rank {rank}: {worker.beat}, {now - worker.beat_at:.1f} s ago")
            lines += [f"  {line}" for line in (self._stack(rank) or "it doesn't tell where it is").splitlines()]
        raise silent(late, f"no sign of life for {limit:g} s", "\n".join(lines), self._logs)

    def _stack(self, rank: int) -> Optional[str]:
        """Where a worker's threads are, or None where it does not tell in time."""
        worker = self.workers[rank]
        if worker.process is None or read_pid(self._directory, worker.name) is None:
            return None
        with contextlib.suppress(psutil.Error):
            worker.process.send_signal(STACK_SIGNAL)
        deadline = time.monotonic() + STACK_PATIENCE
        stack = None
        while time.monotonic() < deadline:
            time.sleep(POLL)
            content = read_file(self._directory / f"{worker.name}.stack")
            if content and content == stack:  # nothing was added since: it is whole
                break
            stack = content
        return stack.decode(errors="replace") if stack else None

    def _pause(self) -> None:
        """Sleep for a poll, or until the started process leaves."""
        if self._root.returncode is not None:
            time.sleep(POLL)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._root.wait(POLL)


def _words(code: Optional[int]) -> str:
    if code is None:
        return "its process vanished"
    if code == 0:
        return "exit code 0 before its task returned"
    if code > 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"killed by signal {-code}"
