"""Check that files fit on the disk before they are written."""

import shutil
from pathlib import Path

RESERVED_BYTES = 16 * 1024**2  # kept free for the small files written beside the large ones


def shortage(directory: Path, size: int, done: str) -> str | None:
    """A message if `size` bytes don't fit on the disk of `directory`, which need not exist yet; else None.

    Args:
        done: the message's verb: written, downloaded.
    """
    directory = directory.absolute()
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if free >= size + RESERVED_BYTES:
        return None
    return f"{size / 1e9:.1f} GB are to be {done}, and the disk of {nearest} has {free / 1e9:.1f} GB free"
