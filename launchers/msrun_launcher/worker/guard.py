"""A worker's own exit: it ends when its launcher dies, and SIGTERM ends it as sys.exit does."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn, Optional

from msrun_launcher.signals import Terminated

CHECK_INTERVAL = 0.2  # seconds
# Kills the process groups $2, $3, … after $1 checks; exits as soon as none of them is left.
KILL_LATER = f"""
checks=$1; shift
while [ $checks -gt 0 ]; do
  left=; for group; do kill -s 0 -- -$group && left=1; done
  [ $left ] || exit 0
  sleep {CHECK_INTERVAL}; checks=$((checks - 1))
done
for group; do kill -s KILL -- -$group; done
"""


def exit_on_sigterm(*, silent: bool = False) -> None:
    """Make SIGTERM raise Terminated in the main thread, so that finally blocks and exit handlers run.

    silent: of an exit handler that SIGTERM has cut short nothing is printed; msrun sends it to ranks that are exiting
    """
    print_unraisable = sys.unraisablehook

    def print_others(unraisable: "sys.UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, Terminated):
            print_unraisable(unraisable)

    def receive(_number: int, _frame: Optional[FrameType]) -> NoReturn:
        raise Terminated

    if silent:
        sys.unraisablehook = print_others
    signal.signal(signal.SIGTERM, receive)


def die_with_launcher(directory: Path, grace: float) -> None:
    """Start a thread that ends this process and its descendants when the launcher dies.

    grace: seconds between SIGTERM, which only this process gets, and SIGKILL
    """
    threading.Thread(target=_end_with_launcher, args=(directory, grace), name="launcher-watch", daemon=True).start()


def _end_with_launcher(directory: Path, grace: float) -> None:
    try:
        pipe = os.open(directory / "alive", os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:  # the launcher has finished with this job
        pipe = None
    if pipe is not None:
        _wait_for_writer_exit(pipe)
    shutil.rmtree(directory, ignore_errors=True)  # the launcher, which would remove it, is dead
    # A separate process sends SIGKILL: this one may exit within the grace period and leave the task's children running.
    with contextlib.suppress(OSError):
        groups = [str(group) for group in _groups()]
        command = ["sh", "-c", KILL_LATER, "sh", str(math.ceil(grace / CHECK_INTERVAL)), *groups]
        subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _groups() -> set[int]:
    """The process groups of this process and of all its descendants."""
    import psutil  # here, to keep it out of every start

    groups = {os.getpgrp()}
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError):
            groups.add(os.getpgid(child.pid))
    return groups


def _wait_for_writer_exit(pipe: int) -> None:
    try:
        if os.read(pipe, 1) == b"":  # no writer: the launcher died before the pipe was opened
            return
    except BlockingIOError:
        pass
    os.set_blocking(pipe, True)
    while os.read(pipe, 1):
        pass
