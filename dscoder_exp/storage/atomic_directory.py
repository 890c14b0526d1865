"""Create a directory atomically: it appears complete or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.storage.disk_space import NO_SPACE, disk_full


@contextmanager
def atomic_directory(target: Path, key: str) -> Iterator[Path]:
    """Yield an empty temporary directory next to `target`, locked by this process; the body renames it to `target`.

    Without the rename the directory is removed. Processes that want the same `target` wait for the lock. The lock is
    held on the directory itself, so it ends with the process; the next process empties what a killed one left.

    Raises:
        Refused: the directory can't be created; the message names the config key `key`.
    """
    partial = _partial(target)
    new_parents = [parent for parent in partial.parents if not parent.exists()]
    lock = _lock(partial, key)
    try:
        for left in partial.iterdir():
            left.unlink()
        yield partial
    finally:
        if still_at(lock, partial):  # not renamed: the body failed, or another process had created the target
            shutil.rmtree(partial)
        os.close(lock)
        for parent in new_parents:
            try:
                parent.rmdir()
            except OSError:  # not empty, or removed by another process
                break


@contextmanager
def new_directory(target: Path, key: str) -> Iterator[Path]:
    """Yield a temporary directory next to `target`; it is renamed to `target` at the end, or removed on an exception.

    Raises:
        Refused: the target exists and isn't an empty directory, another process is writing it, or the directory can't
            be created.
    """
    _refuse_existing(target, key)
    with atomic_directory(target, key) as unfinished:
        if _exists(target):  # another process has created it meanwhile
            raise Refused([_exists_already(target, key)])
        yield unfinished
        unfinished.rename(target)


def _refuse_existing(target: Path, key: str) -> None:
    if (problem := target_problem(target, key)) is not None:
        raise Refused([problem])


def target_problem(target: Path, key: str) -> Problem | None:
    """The problem that `target` exists already, or is being written; None if it doesn't, or is an empty directory."""
    if _exists(target):
        return _exists_already(target, key)
    if is_locked(_partial(target)):
        return Problem(key, f"another process is writing {target}", f"wait for its end, or choose another {key}")
    return None


def _exists(target: Path) -> bool:
    return target.exists() and not (target.is_dir() and not any(target.iterdir()))


def _exists_already(target: Path, key: str) -> Problem:
    return Problem(key, f"{target} exists already", f"remove it, or choose another {key}")


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def is_locked(path: Path) -> bool:
    """Whether another process has a file or directory locked; False as well where there is none, or no locks are."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # not there, or not for us to read: then writing fails, too
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks on this file system
        return False
    finally:
        os.close(descriptor)
    return False


def _lock(partial: Path, key: str) -> int:
    """Create and lock the directory, waiting for other processes; return the descriptor that holds the lock."""
    while True:
        try:
            partial.mkdir(parents=True, exist_ok=True)
            lock = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:  # the lock's holder renamed or removed it in between
            continue
        except OSError as error:
            if error.errno in NO_SPACE:
                raise disk_full(partial.parent, key, error.errno) from error
            remedy = f"set {key} to a writable directory"
            raise refuse(key, f"cannot be written: {partial.parent} ({error.strerror})", remedy) from None
        fcntl.flock(lock, fcntl.LOCK_EX)
        if still_at(lock, partial):
            return lock
        os.close(lock)


def still_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
