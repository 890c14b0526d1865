"""Deferring signals during steps that must not be cut short."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
