"""Steps that a signal must not cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C or SIGTERM takes effect when the block is through; a second one at once."""
    if threading.current_thread() is not threading.main_thread():  # where Python delivers no signals
        yield
        return
    handlers: dict[int, Any] = {}
    received: list[int] = []

    def restore() -> None:
        while handlers:
            signal.signal(*handlers.popitem())

    def receive(number: int, _frame: Any) -> None:
        received.append(number)
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):
            handlers[number] = handler
            signal.signal(number, receive)
    try:
        yield
    finally:
        restore()
        for number in received:
            signal.raise_signal(number)
