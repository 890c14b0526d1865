"""Exceptions that a job or a launch fails with."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from hydra.errors import CompactHydraException


class WorkerFailed(CompactHydraException):
    """A job's worker process failed.

    A CompactHydraException: Hydra prints its message without the launcher's traceback.

    rank: the rank that failed first; None if msrun failed before any rank did, or a whole node was lost
    cause: the exception that the worker raised, if it raised one that could be unpickled
    log: the log file to read next
    at: time.monotonic() of the failure; None: now
    hangs: ranks sent no heartbeat in time; only the reports of all nodes together show which rank the others wait for
    """

    def __init__(
        self,
        message: str,
        *,
        rank: Optional[int] = None,
        cause: Optional[BaseException] = None,
        log: Optional[Path] = None,
        at: Optional[float] = None,
        hangs: bool = False,
    ) -> None:
        super().__init__(message)
        self.rank = rank
        self.cause = cause
        self.log = log
        self.at = time.monotonic() if at is None else at
        self.hangs = hangs


def merge_failures(failures: Sequence[WorkerFailed]) -> WorkerFailed:
    """Several nodes' reports of one failure as one; rank and log are the first report's."""
    return WorkerFailed("\n".join(map(str, failures)), rank=failures[0].rank, log=failures[0].log)


class BadLauncherConfig(CompactHydraException):
    """Invalid options under hydra.launcher; nothing was started. problems: one message each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
