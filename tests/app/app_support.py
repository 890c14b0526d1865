"""The real command, run in a directory of its own."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE = 120.0  # seconds until a hanging command is given up


@dataclass
class Result:
    code: int
    out: str
    err: str
    cpu: float  # seconds


@dataclass
class Command:
    """`python -m dscoder_exp` in `directory`; `path` goes before everything else on its PYTHONPATH."""

    directory: Path
    path: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        home = self.directory.parent / "home"
        home.mkdir(exist_ok=True)
        mine = {"PYTHONPATH": str(self.path), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HYDRA_"))}
        return subprocess.Popen(
            [sys.executable, "-m", "dscoder_exp", *arguments],
            cwd=self.directory,
            env=inherited | mine | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As in a terminal: background jobs of a shell, and so what they start, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def __call__(self, *arguments: str) -> Result:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return Result(process.returncode, out, err, cpu)

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not (self.directory / name).exists():
            assert time.monotonic() < deadline, f"{name} never came"
            time.sleep(0.05)

    def left(self) -> list[str]:
        """What the command left behind, in its directory and in the user's home."""
        roots = (self.directory, self.directory.parent / "home")
        return [str(path) for root in roots for path in root.rglob("*")]


@dataclass
class Run:
    """A run in mlflow.db."""

    id: str
    name: str
    status: str
    tags: dict[str, str]


def runs_in(directory: Path) -> list[Run]:
    """The runs of the sqlite store in a directory, oldest first; read without mlflow."""
    with sqlite3.connect(directory / "mlflow.db") as store:
        rows = store.execute("SELECT run_uuid, name, status FROM runs ORDER BY start_time, rowid").fetchall()
        tags = store.execute("SELECT run_uuid, key, value FROM tags").fetchall()
    return [Run(*row, tags={key: value for run, key, value in tags if run == row[0]}) for row in rows]
