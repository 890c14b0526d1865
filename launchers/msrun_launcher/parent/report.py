"""Build the WorkerFailed of a failed, hung or unstarted worker: message, log file and cause."""

import pickle
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from msrun_launcher.exchange import TaskResult
from msrun_launcher.failures import WorkerFailed

TAIL_LINES = 20  # last lines of a log that a message quotes


@dataclass(frozen=True)
class Logs:
    """The log files of a job's processes.

    directory: of msrun's logs; None for one plain worker, which writes to the launcher's stdout and stderr
    job_log: the file that hydra.job_logging writes; None if it writes none
    node: this node's number; None if there is one node only
    """

    directory: Optional[Path]
    job_log: Optional[Path]
    node: Optional[int] = None

    @property
    def label(self) -> str:
        """What precedes a log's path in a message."""
        return "log" if self.node is None else f"log on node {self.node}"

    def of_rank(self, rank: int) -> Optional[Path]:
        return self.job_log if self.directory is None else self.directory / f"worker_{rank}.log"

    def of_scheduler(self) -> Path:
        assert self.directory is not None
        return self.directory / "scheduler.log"

    def of_msrun(self) -> Path:
        assert self.directory is not None
        return self.directory / "msrun.log"


def job_log(logging_config: Optional[dict[str, Any]]) -> Optional[Path]:
    """The first file that hydra.job_logging writes; None if it writes none."""
    handlers = (logging_config or {}).get("handlers") or {}
    return next((Path(handler["filename"]).absolute() for handler in handlers.values() if "filename" in handler), None)


def rank_failed(
    rank: int,
    message: str,
    logs: Logs,
    detail: Optional[str] = None,
    result: Optional[TaskResult] = None,
    at: Optional[float] = None,
) -> WorkerFailed:
    """A rank's failure; detail: its traceback or stack, quoted; at: time.monotonic(), None: now."""
    return _worker_failed(f"rank {rank} failed: {message}", rank, detail, logs, _exception(result), at)


def ranks_hang(ranks: Sequence[int], message: str, detail: str, logs: Logs) -> WorkerFailed:
    """Ranks without a heartbeat; detail: the last heartbeat and the stack of each rank."""
    names = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
    return _worker_failed(f"{names}: {message}", ranks[0], detail, logs, hangs=True)


def start_failed(message: str, logs: Logs, *candidates: Path) -> WorkerFailed:
    """msrun or its scheduler failed; the message quotes the end of the first candidate log that isn't empty."""
    log = next((path for path in candidates if path.is_file() and path.stat().st_size), candidates[0])
    return WorkerFailed("\n".join([message, *(f"  {line}" for line in _tail(log)), f"{logs.label}: {log}"]), log=log)


def _worker_failed(
    headline: str,
    rank: int,
    detail: Optional[str],
    logs: Logs,
    cause: Optional[BaseException] = None,
    at: Optional[float] = None,
    hangs: bool = False,
) -> WorkerFailed:
    log = logs.of_rank(rank)
    lines = [headline, *(f"  {line}" for line in (detail or "").splitlines())]
    if log is not None:
        lines.append(f"{logs.label}: {log}")
    return WorkerFailed("\n".join(lines), rank=rank, cause=cause, log=log, at=at, hangs=hangs)


def _tail(path: Path) -> list[str]:
    try:
        with path.open(errors="replace") as lines:
            return [line.rstrip() for line in deque(lines, TAIL_LINES)]
    except OSError:
        return []


def _exception(result: Optional[TaskResult]) -> Optional[BaseException]:
    if result is None or result.exception is None:
        return None
    try:
        return pickle.loads(result.exception)
    except Exception:  # e.g. a class that can't be imported here; the message and the traceback remain
        return None
