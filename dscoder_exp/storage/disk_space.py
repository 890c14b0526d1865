"""Full disks: the check that files fit before they are written, and errors that name the place."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dscoder_exp.schema.errors import Problem

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)  # a full disk, or a user's quota

FULL_WORDS = ("no space left", "disk is full", "no free disk")  # Rust's, SQLite's, MindRecord's
FULL_BYTES = 64 * 1024  # a disk with less is full
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


class DiskFull(OSError):
    """No space is left for `filename`, which the configuration's `key` names."""

    key = ""


def disk_full(place: Path, key: str, number: int = errno.ENOSPC) -> DiskFull:
    """The error that no space is left for `place`; number: its errno."""
    error = DiskFull(number, os.strerror(number), str(place))
    error.key = key
    return error


@contextmanager
def naming_full_disk(place: Path, key: str, *, temporary_files: bool = False) -> Iterator[None]:
    """Raise DiskFull instead of an error of the body that a full disk caused: Python's don't say where it was writing.

    Args:
        place: the file or directory that the body writes.
        key: the config key that names it.
        temporary_files: whether the body also writes some: it is TMPDIR's disk that is full, if only that one is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not _tells_no_space(error):
            raise
        temporary = Path(tempfile.gettempdir())
        if temporary_files and is_full(temporary) and not is_full(place.parent):
            place, key = temporary, "TMPDIR"
        raise disk_full(place, key, getattr(error, "errno", errno.ENOSPC)) from error


def _tells_no_space(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in NO_SPACE
    return any(words in str(error).lower() for words in FULL_WORDS)


def full_disk_message(error: OSError, hydra_directory: str | None = None) -> str:
    """The message for a user of an OSError in NO_SPACE.

    Args:
        hydra_directory: of the command, where Hydra writes files of its own; None: not known yet.
    """
    place = error.filename if error.filename is not None else hydra_directory or os.getcwd()  # Hydra's files
    if isinstance(error, DiskFull):
        remedy = f"make room, or set {error.key} to a place on another disk"
        problem = Problem(error.key, f"{place} can't be written: {error.strerror}", remedy)
    else:
        problem = Problem(str(place), f"can't be written: {error.strerror}", "make room there")
    return f"dscoder_exp: failed\n  - {problem}"


def is_full(directory: Path) -> bool:
    """Whether the directory's disk has no room left."""
    return shutil.disk_usage(directory).free < FULL_BYTES
