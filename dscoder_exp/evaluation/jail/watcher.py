"""Beside each program: a process that measures it, ends it at its limits, and tells how it came out.

Time is what the program's processes, the tests' among them, have computed, and the time in which none of them computed
or waited for a processor: a program that sleeps spends its time, one on a busy machine doesn't.
"""

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from typing import NoReturn

from dscoder_exp.evaluation.jail import linux
from dscoder_exp.evaluation.jail.checker import judge
from dscoder_exp.evaluation.jail.messages import Connection, Ended
from dscoder_exp.evaluation.jail.runner import Program
from dscoder_exp.evaluation.jail.walls import FIRST_USER, Limits, Walls
from dscoder_exp.evaluation.programs import Verdict

TICK = 0.05  # seconds between looks at the processes
LONGEST_IDLE = 0.1  # seconds of a tick that count as idle: this process itself may have waited for a processor
WALL = 30.0, 20.0  # seconds, and times the limit: ends what a fault of the measuring would leave running
LONGEST_MESSAGE = 1000  # characters
_CLOCK, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class Stopped(BaseException):
    """The sandbox is being closed."""


def watch(payload: int, result: int, slot: int, seconds: float, walls: Walls) -> None:
    """Run the program that `payload`, a file, describes; write its outcome, as JSON, to `result`, a pipe.

    Args:
        slot: no other program that runs meanwhile has this number.
        seconds: the program's limit.
    """
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _stop)
    user = FIRST_USER + 2 * slot
    directory = None if walls.namespaces else walls.furnish(user + 1)
    walls.enter()
    verdicts, verdict = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(result)
        os.close(verdicts)
        _run_tests(payload, verdict, user, seconds, walls, directory)
    os.close(verdict)
    try:
        kind, message, spent = _wait(pid, verdicts, seconds, walls.limits, directory)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(pid)
        if directory is not None:
            walls.clear(directory)
    line = {"verdict": kind, "message": message[:LONGEST_MESSAGE], "seconds": round(spent, 4)}
    os.write(result, json.dumps(line).encode())


def _stop(*_: object) -> NoReturn:
    raise Stopped


def _wait(pid: int, verdicts: int, seconds: float, limits: Limits, directory: str | None) -> tuple[Verdict, str, float]:
    """The verdict, its message and the time spent. directory: one whose size no file system limits."""
    poll = select.poll()
    poll.register(verdicts, select.POLLIN)
    started = last = time.monotonic()
    idle, before = 0.0, -1.0
    too_long = f"it took more than {seconds:.3g} s"
    while True:
        told = bool(poll.poll(TICK * 1000))
        now, tree = time.monotonic(), list(_tree(pid))
        computed = sum(process.seconds for process in tree)
        if computed == before and not told and not any(process.active for process in tree):
            idle += min(now - last, LONGEST_IDLE)
        last, before, spent = now, computed, computed + idle
        if spent > seconds or now - started > WALL[0] + WALL[1] * seconds:
            return Verdict.TIMED_OUT, too_long, spent
        if told:
            return *_told(os.read(verdicts, 1 << 16)), spent
        if sum(process.memory for process in tree) > limits.memory:
            return Verdict.OUT_OF_MEMORY, f"its processes took more than {limits.memory >> 20} MiB", spent
        if sum(process.threads for process in tree) > 2 * limits.processes:
            return Verdict.REFUSED, f"it started more than {limits.processes} processes", spent
        if directory is not None and _size(directory) > limits.disk:
            return Verdict.REFUSED, f"it wrote more than {limits.disk >> 20} MiB", spent


def _told(data: bytes) -> tuple[Verdict, str]:
    if not data:
        return Verdict.ERROR, "the process of its tests was ended"
    found = json.loads(data)
    if "fault" in found:
        raise RuntimeError(found["fault"])
    return Verdict(found["verdict"]), found["message"]


class _Process:
    """One process of a program, by /proc/PID/stat.

    Attributes:
        seconds: what it and the children that it waited for have computed.
        memory: bytes.
        threads: their number.
        active: one of them computes, waits for a processor or for a disk.
    """

    def __init__(self, pid: int) -> None:
        fields = _stat(f"/proc/{pid}/stat")
        self.seconds = _computed(pid, int(fields[11]) + int(fields[12])) + (int(fields[13]) + int(fields[14])) / _CLOCK
        self.threads = int(fields[17])
        self.memory = int(fields[21]) * _PAGE
        self.active = fields[0] in "RD"
        if self.threads > 1 and not self.active:
            threads = os.listdir(f"/proc/{pid}/task")
            self.active = any(_stat(f"/proc/{pid}/task/{thread}/stat")[0] in "RD" for thread in threads)


def _computed(pid: int, ticks: int) -> float:
    """Seconds that all threads of a process have computed: by its clock, or else by its ticks of 10 ms."""
    with contextlib.suppress(OSError):
        return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)
    return ticks / _CLOCK


def _stat(path: str) -> list[str]:
    """The fields of a stat file from the third, the state, on."""
    with open(path, "rb") as file:
        return file.read().rpartition(b")")[2].decode().split()


def _tree(pid: int) -> Iterator[_Process]:
    """A process and its descendants, those that live or wait to be reaped."""
    for one in [pid, *_descendants(pid)]:
        with contextlib.suppress(OSError):
            yield _Process(one)


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    for child in found:  # grows meanwhile
        found += _children(child)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split()]
    return found


def _size(directory: str) -> int:
    """Bytes on disk of a directory's files."""
    found = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(os.path.join(place, name)).st_blocks * 512
    return found


def _end(pid: int) -> None:
    """Kill the program's processes and wait for them: with the first ends its namespace, where it has one."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in [pid, *_descendants(os.getpid())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _run_tests(payload: int, verdict: int, user: int, seconds: float, walls: Walls, directory: str | None) -> NoReturn:
    """In the process of the tests: start the program's, then read and run the tests. Doesn't return."""
    try:
        parent = os.getppid()
        os.setsid()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # if the kernel runs out of memory, one of these is to go
        directory = directory or walls.furnish(user + 1)
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            _run_program(theirs, user + 1, seconds, walls, directory)
        theirs.close()
        walls.confine(user, seconds, directory, untrusted=False)
        _die_with(parent)
        with open(payload, "rb") as file:
            program = json.load(file)
        try:
            connection = Connection(ours, walls.limits.answer)
            found = judge(connection, program["code"], program["tests"], program["entry_point"])
        except Ended:
            found = Verdict.ERROR, _how_ended(pid)
        line = {"verdict": found[0], "message": found[1][:LONGEST_MESSAGE]}
    except BaseException as error:
        line = {"fault": f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE]}
    os.write(verdict, json.dumps(line).encode())
    while True:  # until the watcher has read how long all took, and kills this process
        signal.pause()


def _run_program(stream: socket.socket, user: int, seconds: float, walls: Walls, directory: str) -> NoReturn:
    """In the process of the program. Doesn't return."""
    try:
        os.setsid()  # a signal to its process group stays with the program
        os.dup2(stream.fileno(), 3)
        os.closerange(4, 256)  # more than the few that the server and the watcher opened
        parent = os.getppid()
        connection = Connection(socket.socket(fileno=3), walls.limits.answer)
        walls.confine(user, seconds, directory, untrusted=True)
        _die_with(parent)
        Program(connection).serve()
    finally:
        os._exit(1)


def _die_with(parent: int) -> None:
    """End this process when its parent ends; after a change of user, which the kernel would forget it with."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _how_ended(pid: int) -> str:
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"its process exited with code {code} before the tests were done"
    with contextlib.suppress(ValueError):
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process was ended by signal {-code}"
