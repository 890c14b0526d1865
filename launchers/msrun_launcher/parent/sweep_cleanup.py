"""Removes what Hydra's sweeper wrote when a launch is refused: it creates the sweep directory before it launches."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SWEEP_CONFIG = "multirun.yaml"  # the file that BasicSweeper writes into the sweep directory


class SweepCleanup:
    """Records what exists before the sweeper writes, and can restore that state."""

    def __init__(self, sweep_dir: str) -> None:
        self._directory = Path(sweep_dir).absolute()
        self._missing = [path for path in (self._directory, *self._directory.parents) if not path.exists()]
        self._entries = self._names()

    @contextmanager
    def on_error(self) -> Iterator[None]:
        """Call `remove` if the block raises."""
        try:
            yield
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the sweep's config file and the directories created for it, unless jobs have written there."""
        if self._names() - self._entries != {SWEEP_CONFIG}:
            return
        with suppress(OSError):  # another process may have written into it meanwhile
            (self._directory / SWEEP_CONFIG).unlink()
            for directory in self._missing:  # innermost first
                directory.rmdir()

    def _names(self) -> set[str]:
        return {entry.name for entry in self._directory.iterdir()} if self._directory.is_dir() else set()
