"""Ctrl-C, SIGTERM and SIGHUP while jobs run: exceptions in the launcher, except while it stops a job."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Optional


class Terminated(SystemExit):
    """A signal asked this process to end. The exit code is 128 + the signal's number, as in a shell."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)
        self.number = number


class Signals:
    """Inside `handled()` a signal raises KeyboardInterrupt or Terminated in the main thread.

    Inside `deferred()` a signal only sets `received`, which makes ProcessTree.stop skip the rest of the grace period.
    """

    def __init__(self) -> None:
        self.received = False
        self._deferred = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows handlers in the main thread only
            return
        before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Keep a signal ignored: SIGINT in a script's background job, SIGHUP under nohup.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred, self.received = True, False
        try:
            yield
        finally:
            self._deferred = False

    def _receive(self, number: int, _frame: Optional[FrameType]) -> None:
        if self._deferred:
            self.received = True
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise Terminated(number)
