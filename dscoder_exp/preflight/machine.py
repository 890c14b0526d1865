"""Checks of the machine: enough NPUs, writable directories."""

import os
import re
from pathlib import Path

from dscoder_exp.schema.errors import Problem

DEVICES = Path("/dev")
WRITE_BITS = 0o222  # of owner, group and others
VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"  # read by CANN: numbers, from 0, of the NPUs that a process may use


def npu_problem(needed: int) -> Problem | None:
    """The problem if there are fewer than `needed` NPUs on this machine, or CANN would not read all of VISIBLE_DEVICES.

    VISIBLE_DEVICES can only hide NPUs: a container without NPUs has none, whatever it lists.
    """
    found, listed = len(list(DEVICES.glob("davinci[0-9]*"))), os.environ.get(VISIBLE_DEVICES)
    needs = f"ascend needs {needed} NPU{'s' if needed > 1 else ''}, one per rank, and"
    if not found or listed is None:
        there = f"{found} ({DEVICES}/davinci*)" if found else f"none (no {DEVICES}/davinci*)"
        what, remedy = f"{needs} this machine has {there}", "runtime=cpu parallel=single, or a machine with NPUs"
        return Problem("runtime.device", what, remedy) if found < needed else None
    if (wrong := _invalid_list(listed, found)) is not None:
        return Problem(VISIBLE_DEVICES, f"{listed!r} {wrong}", f"{VISIBLE_DEVICES}=0,1 for example, or unset it")
    visible = listed.count(",") + 1
    if visible >= needed:
        return None
    what = f"{needs} {VISIBLE_DEVICES}={listed} makes {visible} of this machine's {found} visible"
    return Problem("runtime.device", what, "list more NPUs, or use fewer ranks")


def _invalid_list(listed: str, found: int) -> str | None:
    """Why CANN would silently ignore the end of a list of visible NPUs; None: it reads all of it."""
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", listed):
        return (
            "is not a comma-separated list of numbers without spaces; CANN stops reading at the first other character"
        )
    numbers = [int(number) for number in listed.split(",")]
    if numbers != sorted(set(numbers)):
        return "is not in strictly ascending order, which CANN requires"
    if numbers[-1] >= found:
        return f"names NPU {numbers[-1]}, but this machine has 0 to {found - 1}"
    return None


def directory_problem(directory: Path, key: str) -> Problem | None:
    """The problem if `directory` can't be created or written; key: the config key that names it."""
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    if not nearest.is_dir():
        reason = f"{nearest} is a file"
    elif not nearest.stat().st_mode & WRITE_BITS:  # respected for root too, who could write
        reason = f"{nearest} is read-only"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"no permission to write in {nearest}"
    else:
        return None
    return Problem(key, f"{directory} can't be written: {reason}", f"{key}=DIR, a writable directory")
