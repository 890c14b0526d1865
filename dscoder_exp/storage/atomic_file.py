"""Create a file atomically: under its name it is complete or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a free name next to `target`; at the end it is renamed to `target`, on an exception it is removed.

    What a killed process left under that name is removed first. Only one process at a time may write `target`.

    Raises:
        OSError: the directory can't be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
