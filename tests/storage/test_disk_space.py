"""Errors of a full disk name the place."""

import errno
import pickle
import shutil
import sqlite3
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

from dscoder_exp.storage.disk_space import DiskFull, disk_full, full_disk_message, naming_full_disk

PLACE = Path("/data/run")


def raised(error: Exception, *, temporary_files: bool = False) -> Exception:
    """What comes out of a block that raises the error."""
    try:
        with naming_full_disk(PLACE, "output_dir", temporary_files=temporary_files):
            raise error
    except Exception as found:
        return found


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("Pipeline\n[ERROR] No free disk to be used while writing mindrecord files, available: 1"),
        Exception("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named(error: Exception) -> None:
    found = raised(error)
    assert isinstance(found, DiskFull)
    assert found.__cause__ is error
    told = full_disk_message(pickle.loads(pickle.dumps(found)))  # it may come from a worker
    assert told.startswith("dscoder_exp: failed\n  - output_dir: /data/run can't be written: ")
    assert told.endswith("\n      -> make room, or set output_dir to a place on another disk")


@pytest.mark.parametrize("error", [ValueError("x"), PermissionError(errno.EACCES, "no"), OSError("no errno")])
def test_other_errors_stay(error: Exception) -> None:
    assert raised(error) is error


def test_the_innermost_place_is_named() -> None:
    inner = disk_full(Path("/cache"), "runtime.cache_dir")
    assert raised(inner) is inner


def test_the_disk_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0 if Path(path) == tmp_path else 1 << 30))
    full = OSError(errno.ENOSPC, "No space left on device")
    assert full_disk_message(raised(full, temporary_files=True)).startswith(  # type: ignore[arg-type]
        f"dscoder_exp: failed\n  - TMPDIR: {tmp_path} can't be written"
    )
    assert "/data/run" in str(raised(full))


def test_an_error_without_a_place_names_hydras_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current one, as long as Hydra's isn't known."""
    monkeypatch.chdir(tmp_path)
    full = OSError(errno.ENOSPC, "full")
    assert f"  - {tmp_path}: can't be written: full\n" in full_disk_message(full)
    assert "  - /data/sweep: can't be written: full\n" in full_disk_message(full, "/data/sweep")
