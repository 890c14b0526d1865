"""A refused launch leaves nothing behind: Hydra's sweeper makes the sweep directory before it calls the launcher."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SWEEP_CONFIG = "multirun.yaml"  # what BasicSweeper writes into it


class SweepTraces:
    """Remembers what was on disk before the sweeper wrote, and puts that back."""

    def __init__(self, sweep_dir: str) -> None:
        self._directory = Path(sweep_dir).absolute()
        self._absent = [path for path in (self._directory, *self._directory.parents) if not path.exists()]
        self._entries = self._names()

    @contextmanager
    def removed_on_refusal(self) -> Iterator[None]:
        """What the block raises leaves the disk as it was."""
        try:
            yield
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the sweep's config file and the directories made for it, unless jobs have left something there."""
        if self._names() - self._entries != {SWEEP_CONFIG}:
            return
        with suppress(OSError):  # somebody else put something into it meanwhile
            (self._directory / SWEEP_CONFIG).unlink()
            for directory in self._absent:  # innermost first
                directory.rmdir()

    def _names(self) -> set[str]:
        return {entry.name for entry in self._directory.iterdir()} if self._directory.is_dir() else set()
