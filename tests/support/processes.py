"""Run a command in a test, in its own directory, and find all processes that it starts."""

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

TIMEOUT = 420.0  # seconds after which a command counts as hung
MARKER = "DSCODER_TEST"  # environment variable that a command's child processes inherit
NOT_INHERITED = ("MLFLOW_", "HYDRA_", "MS_", "OMP_")


@dataclass
class Ended:
    """How a command ended; out: stdout, and stderr too if merged; cpu: seconds of CPU time of all its processes."""

    code: int
    out: str
    err: str
    cpu: float = 0.0


class Started:
    """A running command. Its output goes to files, so that it never blocks on a full pipe."""

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
        files: directory for its output
        environment: added to this process's environment without the variables NOT_INHERITED
        merged: stdout and stderr go to one file, in order
        interrupts: True: SIGINT has Python's default handler, as in a terminal; False: it is ignored, as in a script's
            background jobs
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
        """Wait until the command ends; it is killed after TIMEOUT seconds."""
        cpu = 0.0
        try:
            _, status, usage = _wait4(self.process, TIMEOUT)
            self.process.returncode = os.waitstatus_to_exitcode(status)
            cpu = usage.ru_utime + usage.ru_stime
        except ChildProcessError:  # it was waited for before
            self.process.wait(TIMEOUT)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        # As bytes: text mode would turn a \r in a model's answer into \n.
        out, err = (file.read_bytes().decode(errors="replace") for file in (self._out, self._err))
        return Ended(self.process.returncode, out, err, cpu)

    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begun

    def wait_for(self, path: Path) -> None:
        """Wait until the file exists."""
        deadline = time.monotonic() + TIMEOUT
        while not path.exists():
            assert self.process.poll() is None, self.wait()
            assert time.monotonic() < deadline, f"{path} was not created within {TIMEOUT:.0f} s"
            time.sleep(0.05)

    def wait_for_output(self, text: str, *, on_stderr: bool = False) -> None:
        """Wait until stdout, or stderr, contains the text."""
        deadline = time.monotonic() + TIMEOUT
        while text not in (self._err if on_stderr else self._out).read_text(errors="replace"):
            assert self.process.poll() is None, self.wait()
            assert time.monotonic() < deadline, f"no {text!r} in the output after {TIMEOUT:.0f} s"
            time.sleep(0.02)

    def processes(self) -> Iterator[psutil.Process]:
        """The live processes of this command, by the marker in their environment."""
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == self.marker:
                    yield process
            except psutil.Error:  # it has ended meanwhile, or is another user's
                continue

    def worker(self) -> psutil.Process:
        """The worker of a single-rank job: the launcher's only child."""
        (worker,) = psutil.Process(self.process.pid).children()
        return worker

    def left(self) -> list[str]:
        """The processes that are still alive after up to 15 s."""
        deadline = time.monotonic() + 15
        while (living := list(self.processes())) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [str(process) for process in living]


def _wait4(process: subprocess.Popen[bytes], timeout: float) -> tuple[int, int, resource.struct_rusage]:
    """os.wait4 with a timeout; the usage it returns includes the children that the process waited for."""
    deadline = time.monotonic() + timeout
    while True:
        found = os.wait4(process.pid, os.WNOHANG)
        if found[0]:
            return found
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(str(process.args), timeout)
        time.sleep(0.02)
