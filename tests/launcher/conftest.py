"""Small applications run as real processes, each launch marked so that what it leaves behind can be found."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

APPS = Path(__file__).parent / "apps"
GUARD = 60.0  # seconds until a hanging test is given up
MARKER = "MSRUN_LAUNCHER_TEST"


class Launch:
    """An application at work in its own directory."""

    def __init__(self, directory: Path, app: str, overrides: tuple[str, ...], interrupts: bool) -> None:
        self.marker = uuid.uuid4().hex
        self._born = time.monotonic()
        # In a terminal Python's own handler; a script's background jobs, and what they start, ignore Ctrl-C.
        handler = signal.default_int_handler if interrupts else signal.SIG_IGN
        self.process = subprocess.Popen(
            [sys.executable, str(APPS / app), *overrides],
            cwd=directory,
            env=os.environ | {MARKER: self.marker, "TMPDIR": str(directory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
        )

    def finish(self) -> tuple[int, str]:
        """Exit code and everything printed."""
        output, _ = self.process.communicate(timeout=GUARD)
        return self.process.returncode, output

    def age(self) -> float:
        """Seconds."""
        return time.monotonic() - self._born

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + GUARD
        while not path.exists():
            assert time.monotonic() < deadline, f"{path} never came"
            time.sleep(0.05)

    def living(self) -> list[str]:
        """The command lines of this launch's processes."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it has ended since it was looked at
                if self._is_ours(process):
                    found.append(" ".join(process.cmdline()))
        return found

    def wait_until_gone(self) -> list[str]:
        deadline = time.monotonic() + GUARD / 4
        while (living := self.living()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return living

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == self.marker
        except psutil.Error:
            return False


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """start(app, *overrides, interrupts=True) -> Launch, in tmp_path; what it leaves is killed in the end."""
    launches: list[Launch] = []

    def begin(app: str, *overrides: str, interrupts: bool = True) -> Launch:
        launches.append(Launch(tmp_path, app, overrides, interrupts))
        return launches[-1]

    yield begin
    for process in psutil.process_iter():
        if any(launch._is_ours(process) for launch in launches):
            process.kill()
    for launch in launches:
        launch.process.wait(GUARD)
        assert launch.process.stdout is not None
        launch.process.stdout.close()
