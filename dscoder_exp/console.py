"""What a user sees while a task runs: stages with a bar on stderr, results on stdout.

On a terminal a stage is a live line; elsewhere (a log file, CI) it is a line at its start, at most one every few
seconds on the way, and one at its end.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 5.0


class Stage:
    """A piece of work under way."""

    def __init__(
        self,
        title: str,
        total: int | None,
        done: int,
        console: Console,
        progress: Progress | None,
        on_advance: Callable[[str], None],
    ) -> None:
        self._title, self._total, self._on_advance = title, total, on_advance
        self._console, self._progress = console, progress
        self._task: TaskID | None = None
        if progress is not None:
            self._task = progress.add_task(title, total=total, completed=done, note="")
        self._done = done
        self._note = ""
        self._started = time.monotonic()
        self._printed = self._started
        if progress is None:
            console.print(f"{title} …")

    def advance(self, note: str = "") -> None:
        """One unit of the total is done; `note` says what came of it."""
        self._done += 1
        self._on_advance(f"{self._title} {self._done}" + (f"/{self._total}" if self._total else ""))
        self._show(note, self._done == self._total)

    def note(self, note: str) -> None:
        """Show what is going on, such as a compilation."""
        self._show(note, False)

    def _show(self, note: str, last: bool) -> None:
        self._note = note
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._done, note=note)
        elif last or time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            count = f" {self._done}/{self._total}" if self._total else ""
            self._console.print(f"  {self._title}{count}  {note}  {self._printed - self._started:.0f} s")


class Screen:
    """Where a task speaks; a quiet one for all ranks but the first."""

    def __init__(self, *, quiet: bool, on_advance: Callable[[str], None] = lambda done: None) -> None:
        """
        Args:
            on_advance: called with each unit of work that is done, such as "training 12/36"; by a quiet one, too.
        """
        self._on_advance = on_advance
        # As it is: neither [brackets] nor :colons: in a text mean anything.
        self._stages = Console(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._results = Console(
            file=sys.stdout, quiet=quiet, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self._current: Stage | None = None

    @contextmanager
    def stage(self, title: str, total: int | None = None, done: int = 0) -> Iterator[Stage]:
        """Show `title` while the body runs. total: units of work, None where they can't be counted; done: already."""
        live = self._stages.is_terminal and not self._stages.quiet
        bar = BarColumn(bar_width=24) if total else SpinnerColumn()
        count = [MofNCompleteColumn()] if total else []
        left = [TimeRemainingColumn()] if total else []
        columns = [
            TextColumn("{task.description}"),
            bar,
            *count,
            TimeElapsedColumn(),
            *left,
            TextColumn("[dim]{task.fields[note]}"),
        ]
        progress = Progress(*columns, console=self._stages) if live else None
        if progress is not None:
            progress.start()
        outer, self._current = self._current, Stage(title, total, done, self._stages, progress, self._on_advance)
        try:
            yield self._current
        finally:
            self._current = outer
            if progress is not None:
                progress.stop()

    def compiling(self, function: str) -> None:
        """Tell that a function of the model is about to be compiled, which takes about a second."""
        if self._current is not None:
            self._current.note(f"compiling {function}")

    def say(self, text: str = "") -> None:
        """A line of the results."""
        self._results.print(text)

    def remark(self, text: str) -> None:
        """A line beside the results, on stderr."""
        self._stages.print(text, style="dim")

    def write(self, text: str) -> None:
        """A piece of a line of the results, at once and byte for byte (rich would turn tabs into blanks)."""
        if not self._results.quiet:
            self._results.file.write(text)
            self._results.file.flush()
