"""A worker's own watch: it ends with its launcher, and SIGTERM ends it like sys.exit does."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn, Optional

from msrun_launcher.signals import Terminated

LOOK_EVERY = 0.2  # seconds
# Kills the process groups $2, $3, … after $1 looks, and ends at once when none of them is left.
KILL_LATER = f"""
looks=$1; shift
while [ $looks -gt 0 ]; do
  left=; for group; do kill -s 0 -- -$group && left=1; done
  [ $left ] || exit 0
  sleep {LOOK_EVERY}; looks=$((looks - 1))
done
for group; do kill -s KILL -- -$group; done
"""


def exit_on_sigterm() -> None:
    """Make SIGTERM unwind the main thread, so that finally blocks and exit handlers run."""

    def receive(_number: int, _frame: Optional[FrameType]) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, receive)


def die_with_launcher(directory: Path, grace: float) -> None:
    """Start a thread that waits for the launcher's death, then ends this process and its process group.

    grace: seconds between SIGTERM to this process, for the task's own handler, and SIGKILL
    """
    threading.Thread(target=_watch, args=(directory, grace), name="launcher-watch", daemon=True).start()


def _watch(directory: Path, grace: float) -> None:
    try:
        pipe = os.open(directory / "alive", os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:  # the launcher is through with this job already
        pipe = None
    if pipe is not None:
        _wait_for_end(pipe)
    shutil.rmtree(directory, ignore_errors=True)  # the launcher cannot any more
    # This process may be gone before the grace is over while children that its task started are not.
    with contextlib.suppress(OSError):
        groups = [str(group) for group in _groups()]
        command = ["sh", "-c", KILL_LATER, "sh", str(math.ceil(grace / LOOK_EVERY)), *groups]
        subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _groups() -> set[int]:
    """The process groups of this process and of all its descendants."""
    import psutil  # not worth its time at every start

    groups = {os.getpgrp()}
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError):
            groups.add(os.getpgid(child.pid))
    return groups


def _wait_for_end(pipe: int) -> None:
    try:
        if os.read(pipe, 1) == b"":  # no writer: the launcher died before this was opened
            return
    except BlockingIOError:
        pass
    os.set_blocking(pipe, True)
    while os.read(pipe, 1):
        pass
