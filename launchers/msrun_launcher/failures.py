"""What a job or a launch fails with."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from hydra.errors import CompactHydraException


class WorkerFailed(CompactHydraException):
    """A job's worker process failed.

    Hydra prints the message alone; the frames of the launcher say nothing to a user.

    rank: the rank that failed first; None where msrun failed before any rank did, or a node did as a whole
    cause: the exception that the worker raised, where it raised one that could be brought over
    log: the file to read next
    at: time.monotonic() of that, now where nothing is said
    hangs: ranks are silent; which one the others wait for, is told by all nodes' reports together
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


def together(failures: Sequence[WorkerFailed]) -> WorkerFailed:
    """What several nodes tell of one failure."""
    return WorkerFailed("\n".join(map(str, failures)), rank=failures[0].rank, log=failures[0].log)


class BadLauncherConfig(CompactHydraException):
    """Options under hydra.launcher that make no sense; nothing was started."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
