"""Deferring signals during steps that must not be cut short, and ending at once where there is nothing to save."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msrun_launcher.exchange import JOB_VARIABLE

TERMINATED = 128 + signal.SIGTERM  # conventional exit status of a process ended by SIGTERM


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Defer Ctrl-C, SIGTERM and SIGHUP to the end of the block; a second signal takes effect at once.

    Yields the list of the deferred signals' numbers, which grows while the block runs.
    """
    handlers: dict[int, Any] = {}
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread only
        yield received
        return

    def restore() -> None:
        while handlers:
            signal.signal(*handlers.popitem())

    def receive(number: int, _frame: Any) -> None:
        received.append(number)
        restore()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):
            handlers[number] = handler
            signal.signal(number, receive)
    try:
        yield received
    finally:
        restore()
        for number in received:
            signal.raise_signal(number)


@contextmanager
def ends_at_once() -> Iterator[None]:
    """In a worker: SIGTERM, with which the launcher stops it, ends the process at once while the block runs.

    For computing with nothing to save, such as compiling. Python's handler would run only when MindSpore returns,
    seconds later, or in the middle of its compiler, which then takes the exception for a mistake in the compiled
    function and reports it. Elsewhere this does nothing.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if JOB_VARIABLE not in os.environ or not in_main_thread or signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
