"""The directory of prepared data: found whole, made whole, or left alone when it is someone else's."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dscoder_exp.data.report import DataReport, read_report
from dscoder_exp.schema.errors import refuse


def find(directory: Path, fingerprint: str) -> DataReport | None:
    """The report of a directory that holds just this data, every file whole; else None."""
    stored = read_report(directory)
    if stored is None or stored.report.fingerprint != fingerprint:
        return None
    paths = [directory / name for name in stored.files]
    sizes = {path.name: path.stat().st_size for path in paths if path.is_file()}
    return stored.report if sizes == stored.files else None


def refuse_foreign(directory: Path, fingerprint: str, made_from: Mapping[str, Any]) -> None:
    """Raise Refused for a `data.output` that holds anything but this data: that is the user's to remove."""
    remedy = "give another directory, or remove this one"
    if not directory.is_dir():
        if directory.exists():
            raise refuse("data.output", f"is a file, not a directory: {directory}", remedy)
        return
    stored = read_report(directory)
    if stored is None:
        if any(directory.iterdir()):
            raise refuse("data.output", f"holds something else than prepared data: {directory}", remedy)
    elif stored.report.fingerprint != fingerprint:
        old = stored.made_from
        changes = [_change(name, old.get(name), now) for name, now in made_from.items() if old.get(name) != now]
        raise refuse("data.output", f"holds data prepared otherwise ({', '.join(changes)}): {directory}", remedy)


def _change(name: str, there: Any, now: Any) -> str:
    if name in ("source", "tokenizer", "template", "format"):  # hashes and texts say nothing to a reader
        return f"another {name}"
    return f"{name} {json.dumps(there)} there, {json.dumps(now)} now"


@contextmanager
def making(target: Path, key: str) -> Iterator[Path]:
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
