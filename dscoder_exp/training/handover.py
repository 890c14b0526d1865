"""From the thread that calls MindSpore to the one that writes. Never imports mindspore."""

from collections.abc import Iterable, Iterator
from queue import Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Handover(Generic[Item]):
    """What one thread gives and another one takes, in order, to the end."""

    def __init__(self, waiting: int | None) -> None:
        """
        Args:
            waiting: so many may wait to be taken; None: all.
        """
        self._queue: Queue[Item | None] = Queue(waiting or 0)
        self._ended = False

    def give(self, items: Iterable[Item]) -> None:
        """All of them; should they break off, the taker sees an early end."""
        try:
            for item in items:
                self._queue.put(item)
        finally:
            self._queue.put(None)

    def __iter__(self) -> Iterator[Item]:
        while not self._ended:
            item = self._queue.get()
            if item is None:
                self._ended = True
            else:
                yield item

    def drain(self) -> None:
        """Take what is left, and drop it, so that nobody waits to give it."""
        for _ in self:
            pass
