"""Steps that a signal must not cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # the customary exit status


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Ctrl-C, SIGTERM or SIGHUP takes effect when the block is through; a second one at once. Yields those sent."""
    handlers: dict[int, Any] = {}
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where Python delivers no signals
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
