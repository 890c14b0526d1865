"""Put a worker's end into the words of a WorkerFailed."""

import pickle
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from msrun_launcher.exchange import End
from msrun_launcher.failures import WorkerFailed

TAIL = 20  # lines of a log that a message quotes


@dataclass(frozen=True)
class Logs:
    """Where the processes of a job write. One plain worker shares the launcher's output: job_log is all it has."""

    directory: Optional[Path]
    job_log: Optional[Path]
    node: Optional[int] = None  # this one, where there are several

    @property
    def name(self) -> str:
        """Of a log, in a message."""
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
    """The first file that hydra.job_logging writes, where it writes one."""
    handlers = (logging_config or {}).get("handlers") or {}
    return next((Path(handler["filename"]).absolute() for handler in handlers.values() if "filename" in handler), None)


def rank_failed(
    rank: int,
    what: str,
    logs: Logs,
    detail: Optional[str] = None,
    end: Optional[End] = None,
    at: Optional[float] = None,
) -> WorkerFailed:
    """A rank's failure; detail: its traceback or stack, quoted; at: time.monotonic(), None: now."""
    return _failed(f"rank {rank} failed: {what}", rank, detail, logs, _exception(end), at)


def silent(ranks: Sequence[int], what: str, detail: str, logs: Logs) -> WorkerFailed:
    """Ranks that hang; detail: what each has last done and where it is."""
    names = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
    return _failed(f"{names}: {what}", ranks[0], detail, logs, hangs=True)


def _failed(
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
        lines.append(f"{logs.name}: {log}")
    return WorkerFailed("\n".join(lines), rank=rank, cause=cause, log=log, at=at, hangs=hangs)


def start_failed(what: str, logs: Logs, *candidates: Path) -> WorkerFailed:
    """No rank is to blame: quote the end of the first log that has something to say."""
    log = next((path for path in candidates if path.is_file() and path.stat().st_size), candidates[0])
    return WorkerFailed("\n".join([what, *(f"  {line}" for line in tail(log)), f"{logs.name}: {log}"]), log=log)


def tail(path: Path) -> list[str]:
    try:
        with path.open(errors="replace") as lines:
            return [line.rstrip() for line in deque(lines, TAIL)]
    except OSError:
        return []


def _exception(end: Optional[End]) -> Optional[BaseException]:
    if end is None or end.exception is None:
        return None
    try:
        return pickle.loads(end.exception)
    except Exception:  # its class may not exist here or want other arguments: the text is there all the same
        return None
