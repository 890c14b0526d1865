"""A directory that appears whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dscoder_exp.schema.errors import Problem, Refused, refuse


@contextmanager
def atomic_directory(target: Path, key: str) -> Iterator[Path]:
    """An empty directory beside `target` for this process alone; the body renames it when it is complete.

    If it doesn't, nothing is left of it. Others that want the same `target` wait meanwhile. The lock lies on the
    directory itself, so it ends with the process, and what a killed one left behind is swept out by the next.

    Raises:
        Refused: it can't be made; `key` is the config key that put it there.
    """
    partial = target.with_name(f".{target.name}.partial")
    new_parents = [parent for parent in partial.parents if not parent.exists()]
    lock = _lock(partial, key)
    try:
        for left in partial.iterdir():
            left.unlink()
        yield partial
    finally:
        if _still_at(lock, partial):  # wasn't renamed: the body failed, or found the target made by another
            shutil.rmtree(partial)
        os.close(lock)
        for parent in new_parents:
            try:
                parent.rmdir()
            except OSError:  # it holds something, or another process removed it
                break


@contextmanager
def new_directory(target: Path, key: str) -> Iterator[Path]:
    """A directory beside `target` to write into, which becomes it at the end, or is removed.

    Raises:
        Refused: the target exists and isn't an empty directory, or it can't be made.
    """
    _refuse_existing(target, key)
    with atomic_directory(target, key) as unfinished:
        _refuse_existing(target, key)  # another process may have been faster
        yield unfinished
        unfinished.rename(target)


def _refuse_existing(target: Path, key: str) -> None:
    if (problem := target_problem(target, key)) is not None:
        raise Refused([problem])


def target_problem(target: Path, key: str) -> Problem | None:
    """Where something lies at the target already; an empty directory doesn't count."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    return Problem(key, f"{target} exists already", f"remove it, or choose another {key}")


def _lock(partial: Path, key: str) -> int:
    """Make the directory and hold it: the descriptor that holds the lock. Waits for another holder to end."""
    while True:
        try:
            partial.mkdir(parents=True, exist_ok=True)
            lock = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:  # its holder renamed or removed it in between
            continue
        except OSError as error:
            remedy = f"give {key} a directory that can be written"
            raise refuse(key, f"cannot be written: {partial.parent} ({error.strerror})", remedy) from None
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _still_at(lock, partial):
            return lock
        os.close(lock)


def _still_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
