"""Ctrl-C, SIGTERM and SIGHUP while jobs run: exceptions where the launcher can act, never in the middle of stopping."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Optional


class Terminated(SystemExit):
    """A signal told this process to end. The exit code is the customary one: 128 and the signal's number."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)
        self.number = number


class Signals:
    """Inside `handled()` a signal raises KeyboardInterrupt or Terminated in the main thread.

    Inside `held()` it only sets `hurry`: whoever stops processes then stops being patient.
    """

    def __init__(self) -> None:
        self.hurry = False
        self._held = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows handlers in the main thread only
            return
        before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a script's background jobs ignore Ctrl-C, nohup SIGHUP
                before[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._held, self.hurry = True, False
        try:
            yield
        finally:
            self._held = False

    def _receive(self, number: int, _frame: Optional[FrameType]) -> None:
        if self._held:
            self.hurry = True
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise Terminated(number)
