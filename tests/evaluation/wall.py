"""The wall around a hostile test: a sandbox that fails takes the test down, and not the machine.

python wall.py SECONDS PROCESSES USER COMMAND …

Runs the command in a PID namespace of its own, which is killed after so many seconds, or when it holds more processes.
A cgroup's limit holds it, too, where one can be made: root isn't held by RLIMIT_NPROC. USER, if not "", is the number
that this user has inside, in a user namespace. Exit codes: the command's; 97 if the wall ended it; 98 if there can be
no wall.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NEWNS, NEWUSER, NEWPID = 0x00020000, 0x10000000, 0x20000000
PRIVATE = 16384 | 1 << 18  # MS_REC | MS_PRIVATE
ENDED_BY_WALL, NO_WALL = 97, 98
TICK = 0.005  # seconds

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)


def isolate(user: str) -> None:
    """A PID namespace for the next child, in a user namespace where `user` is given or this user isn't root."""
    inside, outside, group = user or os.geteuid(), os.geteuid(), os.getegid()
    new_user = bool(user) or outside != 0
    checked(libc.unshare((NEWUSER if new_user else 0) | NEWPID), "unshare")
    if new_user:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{inside} {outside} 1"),
            ("gid_map", f"{inside} {group} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)


@contextlib.contextmanager
def limited(processes: int) -> Iterator[None]:
    """This process and those that it starts in a cgroup with so many at most, where one can be made."""
    made = Path(f"/sys/fs/cgroup/pids/dscoder-test-{os.getpid()}")
    try:
        made.mkdir()
        (made / "pids.max").write_text(str(processes))
        (made / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:  # no cgroup v1, or not this user's: the count below holds alone
        yield
        return
    try:
        yield
    finally:
        (made.parent / "cgroup.procs").write_text(str(os.getpid()))
        deadline = time.monotonic() + 5  # while the last process is being taken down
        while made.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                made.rmdir()
            time.sleep(0.02)


def descendants(pid: int) -> int:
    found = 0
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
            found += len(children) + sum(descendants(int(child)) for child in children)
    return found


def inside(command: list[str]) -> None:
    """The namespace's first process: a /proc of its own, then the command; reaps what becomes an orphan."""
    checked(libc.prctl(1, signal.SIGKILL, 0, 0, 0), "prctl")  # PR_SET_PDEATHSIG
    checked(libc.unshare(NEWNS), "unshare")
    checked(libc.mount(b"none", b"/", None, PRIVATE, None), "mount")
    checked(libc.mount(b"proc", b"/proc", b"proc", 0, None), "mount /proc")
    child = os.fork()
    if child == 0:
        os.execvp(command[0], command)
    code = None
    while code is None:
        pid, status = os.waitpid(-1, 0)
        code = os.waitstatus_to_exitcode(status) if pid == child else None
    os._exit(code if code >= 0 else 128 - code)


def main(seconds: float, processes: int, user: str, command: list[str]) -> int:
    with limited(processes):
        try:
            isolate(user)
        except OSError as error:
            print(f"no wall: {error}", file=sys.stderr)
            return NO_WALL
        first = os.fork()
        if first == 0:
            try:
                inside(command)
            finally:
                os._exit(NO_WALL)
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(first, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline or descendants(first) > processes:
                os.kill(first, signal.SIGKILL)  # and with it all of its namespace
                os.waitpid(first, 0)
                return ENDED_BY_WALL
            time.sleep(TICK)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
