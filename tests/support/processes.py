"""A command at work, as tests start it: in a directory of its own, with all of its processes known."""

import os
import resource
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

PATIENCE = 420.0  # seconds until a hanging command is given up
MARKER = "DSCODER_TEST"  # in the environment of all that a command starts
NOT_INHERITED = ("MLFLOW_", "HYDRA_", "MS_", "OMP_")


@dataclass
class Ended:
    """How a command ended; `out` holds both streams where they were one file. cpu: seconds, of all its processes."""

    code: int
    out: str
    err: str
    cpu: float


class Started:
    """What it prints goes to files, so that it never waits for a reader."""

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        files: Path,
        environment: Mapping[str, str],
        *,
        merged: bool = False,
        interrupts: bool = True,
    ) -> None:
        """
        Args:
            files: directory for what it prints.
            environment: on top of this process's own, less what would change a run.
            merged: both streams in one file, in order.
            interrupts: Python's own handler of Ctrl-C, as in a terminal; False: it is ignored, as by what a script
                starts in the background.
        """
        self.marker, self._begun = uuid.uuid4().hex, time.monotonic()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
        handler = signal.default_int_handler if interrupts else signal.SIG_IGN
        self._out, self._err = (files / f"{self.marker}.{name}" for name in ("out", "err"))

        def handle_signals() -> None:
            signal.signal(signal.SIGINT, handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which the tests may run, ignores it

        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=inherited | dict(environment) | {MARKER: self.marker},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT if merged else err,
                preexec_fn=handle_signals,
            )

    def wait(self) -> Ended:
        cpu = 0.0
        try:
            _, status, usage = _wait4(self.process, PATIENCE)
            self.process.returncode = os.waitstatus_to_exitcode(status)
            cpu = usage.ru_utime + usage.ru_stime
        except ChildProcessError:  # it was waited for before
            self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        # By bytes: a tiny model's answer has any character in it, and reading text would turn \\r into \\n.
        out, err = (file.read_bytes().decode(errors="replace") for file in (self._out, self._err))
        return Ended(self.process.returncode, out, err, cpu)

    def age(self) -> float:
        """Seconds."""
        return time.monotonic() - self._begun

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            assert self.process.poll() is None, self.wait()
            assert time.monotonic() < deadline, f"{path} never came"
            time.sleep(0.05)

    def wait_for_words(self, words: str) -> None:
        """On stdout."""
        deadline = time.monotonic() + PATIENCE
        while words not in self._out.read_text(errors="replace"):
            assert self.process.poll() is None, self.wait()
            assert time.monotonic() < deadline, f"it never said {words!r}"
            time.sleep(0.02)

    def processes(self) -> Iterator[psutil.Process]:
        """Those of this command that live, wherever in the tree."""
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == self.marker:
                    yield process
            except psutil.Error:  # it has ended meanwhile, or isn't ours to look at
                continue

    def worker(self) -> psutil.Process:
        """The job's only process, which the launcher started."""
        (worker,) = psutil.Process(self.process.pid).children()
        return worker

    def left(self) -> list[str]:
        """What still lives a little later, for a process takes a moment to leave."""
        deadline = time.monotonic() + 15
        while (living := list(self.processes())) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [str(process) for process in living]


def _wait4(process: subprocess.Popen[bytes], patience: float) -> tuple[int, int, resource.struct_rusage]:
    """os.wait4, which also tells what the process and those that it waited for have used."""
    deadline = time.monotonic() + patience
    while True:
        found = os.wait4(process.pid, os.WNOHANG)
        if found[0]:
            return found
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(str(process.args), patience)
        time.sleep(0.02)
