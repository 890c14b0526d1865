"""From the thread that calls MindSpore to the one that writes. Never imports mindspore."""

from collections.abc import Iterable, Iterator
from queue import Queue
from typing import Any

_END = object()  # of a section


class Handover:
    """Sections of items that one thread gives and another one takes, in order."""

    def __init__(self, sections: int, waiting: int | None) -> None:
        """
        Args:
            sections: how many there are.
            waiting: so many items may wait to be taken; None: all.
        """
        self._queue: Queue[Any] = Queue(waiting or 0)
        self._to_give = self._to_take = sections

    def give(self, *sections: Iterable[Any]) -> None:
        """All of them; should one break off, the taker sees an early end of it, and of those that follow."""
        try:
            for items in sections:
                for item in items:
                    self._queue.put(item)
                self._end_section()
        finally:
            while self._to_give:
                self._end_section()

    def _end_section(self) -> None:
        self._to_give -= 1
        self._queue.put(_END)

    def take(self) -> Iterator[Any]:
        """The items of the next section."""
        while (item := self._queue.get()) is not _END:
            yield item
        self._to_take -= 1

    def drain(self) -> None:
        """Take what is left, and drop it, so that nobody waits to give it."""
        while self._to_take:
            for _ in self.take():
                pass
