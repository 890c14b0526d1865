"""What the machine has to offer: NPUs, and directories that can be written."""

import os
from pathlib import Path

from dscoder_exp.schema.errors import Problem

DEVICES = Path("/dev")
WRITERS = 0o222  # owner, group and others


def npu_problem(needed: int) -> Problem | None:
    """Too few Ascend NPUs for `needed` ranks on this machine."""
    found = len(list(DEVICES.glob("davinci[0-9]*")))
    if found >= needed:
        return None
    there = f"{found} ({DEVICES}/davinci*)" if found else f"none (no {DEVICES}/davinci*)"
    what = f"ascend needs {needed} NPU{'s' if needed > 1 else ''}, one a rank, and this machine has {there}"
    return Problem("runtime.device", what, "runtime=cpu parallel=single, or a machine with NPUs")


def directory_problem(directory: Path, key: str) -> Problem | None:
    """What keeps `directory` from being made and written; `key` is the config key that named it."""
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    if not nearest.is_dir():
        reason = f"{nearest} is a file"
    elif not nearest.stat().st_mode & WRITERS:  # root could, but whoever took everyone's right away meant it
        reason = f"{nearest} is read-only"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"no permission to write in {nearest}"
    else:
        return None
    return Problem(key, f"{directory} can't be written: {reason}", f"{key}=DIR, a directory that can be written")
