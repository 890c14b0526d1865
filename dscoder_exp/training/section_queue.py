"""A queue between the thread that calls MindSpore and the thread that writes files. Never imports mindspore."""

from collections.abc import Iterable, Iterator
from queue import Queue
from typing import Any

_END = object()  # follows the last item of a section


class SectionQueue:
    """A fixed number of sections of items, passed in order from one producer thread to one consumer thread."""

    def __init__(self, sections: int, max_waiting: int | None) -> None:
        """
        Args:
            sections: number of sections that will be put and taken.
            max_waiting: number of queued items at which `put` blocks; None: it never blocks.
        """
        self._queue: Queue[Any] = Queue(max_waiting or 0)
        self._sections_to_put = self._sections_to_take = sections

    def put(self, *sections: Iterable[Any]) -> None:
        """Put all sections.

        If an iterable raises, its section ends early and the sections after it are empty, so the consumer never hangs.
        """
        try:
            for items in sections:
                for item in items:
                    self._queue.put(item)
                self._end_section()
        finally:
            while self._sections_to_put:
                self._end_section()

    def _end_section(self) -> None:
        self._sections_to_put -= 1
        self._queue.put(_END)

    def take(self) -> Iterator[Any]:
        """The items of the next section; blocks until each is there."""
        while (item := self._queue.get()) is not _END:
            yield item
        self._sections_to_take -= 1

    def drain(self) -> None:
        """Discard all items that were not taken, so the producer never hangs on a full queue."""
        while self._sections_to_take:
            for _ in self.take():
                pass
