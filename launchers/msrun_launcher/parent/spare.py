"""A worker process that is started before there is a job for it, so that its imports pass while the launcher works."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from msrun_launcher.exchange import search_path

WORKER = Path(__file__).parents[1] / "worker" / "main.py"
_spare: Optional[subprocess.Popen[bytes]] = None


def warm_up(modules: Sequence[str]) -> None:
    """Start the launch's first worker now; it imports `modules` and then waits.

    For an application's before_launch, once it knows that the first job will run in one plain process. The modules must
    not read anything at their import that the job would set, such as environment variables.
    """
    global _spare
    _drop()
    _spare = subprocess.Popen([sys.executable, "-P", str(WORKER)], stdin=subprocess.PIPE, start_new_session=True)
    _tell(_spare, {"sys_path": search_path(os.getcwd()), "modules": list(modules)})


def take(directory: Path) -> Optional[subprocess.Popen[bytes]]:
    """Hand the job of this exchange directory to the spare worker; None where none lives."""
    global _spare
    worker, _spare = _spare, None
    if worker is None or worker.poll() is not None:
        return None
    _tell(worker, {"directory": str(directory), "cwd": os.getcwd(), "environment": dict(os.environ)})
    assert worker.stdin is not None
    worker.stdin.close()
    return worker


@contextlib.contextmanager
def dropped_at_the_end() -> Iterator[None]:
    """No spare worker outlives the block."""
    try:
        yield
    finally:
        _drop()


def _drop() -> None:
    global _spare
    worker, _spare = _spare, None
    if worker is not None:
        worker.kill()
        worker.communicate()


def _tell(worker: subprocess.Popen[bytes], message: dict[str, object]) -> None:
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died: whoever waits for it will see
        worker.stdin.write(json.dumps(message).encode() + b"\n")
        worker.stdin.flush()
