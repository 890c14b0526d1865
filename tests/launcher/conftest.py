"""Runs the applications in apps/ as real processes."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import Started

APPS = Path(__file__).parent / "apps"


class Launch(Started):
    """A running application in its own directory."""

    def __init__(self, directory: Path, app: str, overrides: tuple[str, ...], interrupts: bool) -> None:
        command = [sys.executable, str(APPS / app), *overrides]
        output = directory.parent / f"{directory.name}-output"
        output.mkdir(exist_ok=True)
        variables = {name: value for name, value in os.environ.items() if name.startswith("HYDRA_")}
        variables["TMPDIR"] = str(directory)
        super().__init__(command, directory, output, variables, merged=True, interrupts=interrupts)

    def finish(self) -> tuple[int, str]:
        """Wait; returns the exit code and everything printed."""
        ended = self.wait()
        return ended.code, ended.out

    def living(self) -> list[str]:
        """The command lines of this launch's live processes."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it has ended since it was listed
                found.append(" ".join(process.cmdline()))
        return found


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """start(app, *overrides, interrupts=True) -> Launch, in tmp_path; its processes are killed after the test."""
    launches: list[Launch] = []

    def begin(app: str, *overrides: str, interrupts: bool = True) -> Launch:
        launches.append(Launch(tmp_path, app, overrides, interrupts))
        return launches[-1]

    yield begin
    for launch in launches:
        for process in launch.processes():
            process.kill()
        launch.wait()
