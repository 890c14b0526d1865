"""Small applications run as real processes."""

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
    """An application at work in its own directory."""

    def __init__(self, directory: Path, app: str, overrides: tuple[str, ...], interrupts: bool) -> None:
        command, own = [sys.executable, str(APPS / app), *overrides], {"TMPDIR": str(directory)}
        printed = directory.parent / f"{directory.name}-printed"
        printed.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name.startswith("HYDRA_")}
        super().__init__(command, directory, printed, kept | own, merged=True, interrupts=interrupts)

    def finish(self) -> tuple[int, str]:
        """Exit code and everything printed."""
        ended = self.wait()
        return ended.code, ended.out

    def living(self) -> list[str]:
        """The command lines of this launch's processes."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it has ended since it was looked at
                found.append(" ".join(process.cmdline()))
        return found


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """start(app, *overrides, interrupts=True) -> Launch, in tmp_path; what it leaves is killed in the end."""
    launches: list[Launch] = []

    def begin(app: str, *overrides: str, interrupts: bool = True) -> Launch:
        launches.append(Launch(tmp_path, app, overrides, interrupts))
        return launches[-1]

    yield begin
    for launch in launches:
        for process in launch.processes():
            process.kill()
        launch.wait()
