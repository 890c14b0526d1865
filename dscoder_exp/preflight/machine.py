"""What the machine has to offer: NPUs, and directories that can be written."""

import os
import re
from pathlib import Path

from dscoder_exp.schema.errors import Problem

DEVICES = Path("/dev")
WRITERS = 0o222  # owner, group and others
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"  # CANN's: the NPUs that a process may use, by their numbers from 0


def npu_problem(needed: int) -> Problem | None:
    """Too few Ascend NPUs for `needed` ranks on this machine, or a list of visible ones that CANN would cut short.

    The list hides NPUs and makes none: where a container was given no device, there is none, whatever it says.
    """
    found, listed = len(list(DEVICES.glob("davinci[0-9]*"))), os.environ.get(VISIBLE)
    needs = f"ascend needs {needed} NPU{'s' if needed > 1 else ''}, one a rank, and"
    if not found or listed is None:
        there = f"{found} ({DEVICES}/davinci*)" if found else f"none (no {DEVICES}/davinci*)"
        what, remedy = f"{needs} this machine has {there}", "runtime=cpu parallel=single, or a machine with NPUs"
        return Problem("runtime.device", what, remedy) if found < needed else None
    if (wrong := _cut_short(listed, found)) is not None:
        return Problem(VISIBLE, f"{listed!r} {wrong}", f"{VISIBLE}=0,1 and so on, or unset it")
    visible = listed.count(",") + 1
    if visible >= needed:
        return None
    what = f"{needs} {VISIBLE}={listed} leaves {visible} of this machine's {found}"
    return Problem("runtime.device", what, "a longer list, or fewer ranks")


def _cut_short(listed: str, found: int) -> str | None:
    """Why CANN, without a word, reads only the beginning of a list of visible NPUs, if it does."""
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", listed):
        return "is no list of numbers with commas alone between them, and CANN reads it as far as it is one"
    numbers = [int(number) for number in listed.split(",")]
    if numbers != sorted(set(numbers)):
        return "isn't in ascending order, as CANN wants it"
    if numbers[-1] >= found:
        return f"names NPU {numbers[-1]}, and this machine has 0 to {found - 1}"
    return None


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
