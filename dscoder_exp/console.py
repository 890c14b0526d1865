"""Console output of a task: progress of its stages on stderr, results on stdout.

On a terminal a stage is a live progress bar. Elsewhere (a log file, CI) it prints a line at its start, at most one line
every SECONDS_BETWEEN_LINES in between, and one at its end.
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
    """The displayed progress of a running piece of work, such as training."""

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
        self._done = self._before = done
        self._note = ""
        self._started = time.monotonic()
        self._printed = self._started
        if progress is None:
            console.print(f"{title} …")

    def advance(self, note: str = "") -> None:
        """Count one more unit of `total` as done and show `note`, such as the step's loss."""
        self._done += 1
        self._on_advance(f"{self._title} {self._done}" + (f"/{self._total}" if self._total else ""))
        self._show(note, self._done == self._total)

    def note(self, note: str) -> None:
        """Show `note`, such as the name of the function being compiled, without counting a unit as done."""
        self._show(note, False)

    def _show(self, note: str, last: bool) -> None:
        self._note = note
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._done, note=note)
        elif last or time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            count = f" {self._done}/{self._total}" if self._total else ""
            seconds, done = self._printed - self._started, self._done - self._before
            left = f", {seconds / done * (self._total - self._done):.0f} s left" if self._total and done else ""
            self._console.print(f"  {self._title}{count}  {note}  {seconds:.0f} s{'' if last else left}")


class Screen:
    """The console of a task; a quiet one, for ranks other than 0, prints nothing."""

    def __init__(self, *, quiet: bool, on_advance: Callable[[str], None] = lambda done: None) -> None:
        """
        Args:
            on_advance: called after each unit of work with the progress, such as "training 12/36"; also if quiet.
        """
        self._on_advance = on_advance
        # Print texts verbatim: rich would interpret [brackets] as markup and :names: as emoji.
        self._stages = Console(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._results = Console(
            file=sys.stdout, quiet=quiet, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self._current: Stage | None = None

    @contextmanager
    def stage(self, title: str, total: int | None = None, done: int = 0) -> Iterator[Stage]:
        """Show the progress of the `with` body.

        Args:
            total: units of work; None: unknown.
            done: units finished earlier, by the run that is resumed.
        """
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
        """Show in the current stage that a function of the model is being compiled, which takes about a second."""
        if self._current is not None:
            self._current.note(f"compiling {function}")

    def print(self, text: str = "") -> None:
        """Print a line of the results to stdout."""
        self._results.print(text)

    def remark(self, text: str) -> None:
        """Print a dimmed line to stderr, for information that is no result."""
        self._stages.print(text, style="dim")

    @property
    def is_read(self) -> bool:
        """False once the reader of stdout has left, as in `| head`."""
        return not getattr(self._results.file, "reader_left", False)

    def write(self, text: str) -> None:
        """Write text to stdout unchanged, without a line break, and flush (rich would replace tabs by blanks)."""
        if not self._results.quiet:
            self._results.file.write(text)
            self._results.file.flush()
