"""Whether what is to be written fits on the disk."""

import shutil
from pathlib import Path

SPARE = 16 * 1024**2  # bytes that are left free: for what is written beside the large files


def shortage(directory: Path, size: int, done: str) -> str | None:
    """What is to be said where `size` bytes don't fit below a directory, which need not exist yet.

    Args:
        done: what is to be done with them: written, downloaded.
    """
    directory = directory.absolute()
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if free >= size + SPARE:
        return None
    return f"{size / 1e9:.1f} GB are to be {done}, and the disk of {nearest} has {free / 1e9:.1f} GB left"
